package reactor

import (
	"errors"
	"io"
	"net"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/culvertgate/culvert/framecodec"
	"github.com/culvertgate/culvert/tunnel"
)

// idlePair returns an Endpoint and its peer as a bare descriptor, which costs
// the heap nothing.
func idlePair(t *testing.T, r *Reactor) (tunnel.Endpoint, int) {
	t.Helper()
	ours, theirs := bareTCPPair(t)
	ep := adopt(t, r, ours, nil)
	ep.Bind(silent{})
	return ep, theirs
}

func bareTCPPair(t *testing.T) (net.Conn, int) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ours, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	theirs, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	raw, err := theirs.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	fd, err := duplicate(raw)
	if err != nil {
		t.Fatal(err)
	}
	_ = theirs.Close()
	return ours, fd
}

func inUse() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc + m.StackInuse)
}

// TestIdleEndpoints: an idle Endpoint, also one that carried data before, has no
// goroutine and next to no memory.
func TestIdleEndpoints(t *testing.T) {
	const count, limit = 2000, 400
	noLeaks(t)
	r := newReactor(t)
	eps, peers := make([]tunnel.Endpoint, count), make([]int, count)
	t.Cleanup(func() {
		for i, fd := range peers {
			eps[i].Close(framecodec.CodeCancelled)
			_ = unix.Close(fd)
		}
	})
	warm, fd := idlePair(t, r)
	warm.Close(framecodec.CodeNormal)
	_ = unix.Close(fd)
	goroutines, before := runtime.NumGoroutine(), inUse()
	for i := range eps {
		eps[i], peers[i] = idlePair(t, r)
		exchange(t, eps[i], peers[i])
	}
	perEndpoint := (inUse() - before) / count
	t.Logf("%d idle endpoints: %d B heap and stack each, %d goroutines before, %d after",
		count, perEndpoint, goroutines, runtime.NumGoroutine())
	if n := runtime.NumGoroutine(); n > goroutines {
		t.Errorf("%d goroutines, %d before", n, goroutines)
	}
	if perEndpoint >= limit {
		t.Errorf("%d bytes per endpoint, the limit is %d", perEndpoint, limit)
	}
}

// exchange sends 4 KiB each way.
func exchange(t *testing.T, ep tunnel.Endpoint, peer int) {
	t.Helper()
	var b [4096]byte
	if n, err := ep.TryWrite(b[:]); n != len(b) || err != nil {
		t.Fatalf("wrote %d, %v", n, err)
	}
	if n, err := unix.Write(peer, b[:]); n != len(b) || err != nil {
		t.Fatalf("peer wrote %d, %v", n, err)
	}
	for n := 0; n < len(b); {
		m, err := ep.TryRead(b[n:])
		if err != nil && !errors.Is(err, tunnel.ErrWouldBlock) {
			t.Fatal(err)
		}
		n += m
	}
}

// TestGenerations: an event on its way for a socket that is closed does not
// reach the next owner of its place.
func TestGenerations(t *testing.T) {
	var tab table[int]
	first, second := 1, 2
	old := tab.add(&first)
	tab.remove(old)
	tab.remove(old) // void: must not free the place twice
	renewed := tab.add(&second)
	if renewed.index != old.index {
		t.Fatalf("the place %d was not used again but %d", old.index, renewed.index)
	}
	third := 3
	if k := tab.add(&third); k.index == renewed.index {
		t.Fatal("one place for two")
	}
	found := make([]*int, 3)
	tab.find([]ticket{old, renewed, {index: 1 << 30}}, found)
	if found[0] != nil || found[1] != &second || found[2] != nil {
		t.Fatalf("found %v", found)
	}
}

// TestDescriptorIsOurs: after Adopt the connection's own descriptor is gone, the
// duplicate is close-on-exec and non-blocking.
func TestDescriptorIsOurs(t *testing.T) {
	noLeaks(t)
	r := newReactor(t)
	ours, theirs := tcpPair(t)
	ep := adopt(t, r, ours, nil)
	if _, err := ours.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
		t.Fatalf("the net.Conn still works: %v", err)
	}
	fd := ep.(*socket).fd
	if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC == 0 {
		t.Errorf("not close-on-exec: %x, %v", flags, err)
	}
	if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0); err != nil || flags&unix.O_NONBLOCK == 0 {
		t.Errorf("blocking: %x, %v", flags, err)
	}
	// A call in flight keeps the number; the last one closes it.
	s := ep.(*socket)
	if !s.acquire() {
		t.Fatal("closed already")
	}
	ep.Close(framecodec.CodeCancelled)
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err != nil {
		t.Errorf("closed under a call in flight: %v", err)
	}
	s.release()
	if _, err := readAll(theirs); err == nil {
		t.Error("the connection was not reset")
	}
}

// TestEdgeBeforePrefix: the socket's own edge is over when the prefix is read;
// what lies behind it is told again.
func TestEdgeBeforePrefix(t *testing.T) {
	noLeaks(t)
	r := newReactor(t)
	ours, theirs := tcpPair(t)
	if err := finish(theirs, []byte("hello")); err != nil {
		t.Fatal(err)
	}
	ep := adopt(t, r, ours, []byte("pre")).(*socket)
	s := newStream(ep)
	eventually(t, "the edge of the end", ep.ended.Load)
	r.running.Wait() // the word for the prefix is out
	if got, err := io.ReadAll(s); string(got) != "prehello" || err != nil {
		t.Fatalf("%q, %v", got, err)
	}
	ep.Close(framecodec.CodeNormal)
	if left := r.poll.sockets.all(); len(left) != 0 {
		t.Errorf("%d closed sockets are still in the table", len(left))
	}
}

// TestUnwatchedSocketFails: a socket that epoll does not take (there may be too
// many watches) is never told of again, so it must not look as if it were idle.
func TestUnwatchedSocketFails(t *testing.T) {
	noLeaks(t)
	r := newReactor(t)
	ours, theirs := tcpPair(t)
	defer theirs.Close()
	ep := adopt(t, r, ours, nil)
	r.poll.control.Lock()
	r.poll.closed = true
	r.poll.control.Unlock()
	s := newStream(ep)
	if n, err := s.Read(make([]byte, 8)); n != 0 || err == nil || errors.Is(err, errLost) {
		t.Errorf("read %d bytes, %v", n, err)
	}
	ep.Close(framecodec.CodeInternal)
}
