package reactor

import (
	"errors"
	"os"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/culvertgate/culvert/framecodec"
	"github.com/culvertgate/culvert/tunnel"
)

// TestFlowWouldBlock: a full buffer is told, and so is room again, as often as it
// comes. Loopback takes any number of UDP datagrams, a unix socket does not.
func TestFlowWouldBlock(t *testing.T) {
	noLeaks(t)
	r := newReactor(t)
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	f := &flow{socket: socket{poll: r.poll, fd: fds[0]}}
	f.interest.Store(flowEvents)
	s := newStream(f)
	b := make([]byte, 4096)
	total := 0
	for range 3 {
		sent := 0
		for ; err == nil; sent++ {
			_, err = f.TryWrite(b)
		}
		if !errors.Is(err, tunnel.ErrWouldBlock) {
			t.Fatal(err)
		}
		for err = nil; err == nil; total++ {
			_, err = unix.Read(fds[1], b)
		}
		if err := await(s.writable); err != nil || sent < 2 {
			t.Fatalf("%v after %d datagrams", err, sent)
		}
		err = nil
	}
	if _, err := unix.Write(fds[1], []byte("still told")); err != nil {
		t.Fatal(err)
	}
	s.want(t, []byte("still told"))
	f.Close(framecodec.CodeNormal)
	_ = unix.Close(fds[1])
}

// TestUnwatchedFlowFails: as for a stream, a flow that epoll does not take must
// not look idle.
func TestUnwatchedFlowFails(t *testing.T) {
	noLeaks(t)
	r := newReactor(t)
	ours, _ := flowKinds()[0].flowPair(t)
	ep := adopt(t, r, ours, nil)
	r.poll.control.Lock()
	r.poll.closed = true
	r.poll.control.Unlock()
	s := newStream(ep)
	if _, err := s.next(make([]byte, room)); err == nil || errors.Is(err, errLost) {
		t.Errorf("read: %v", err)
	}
	ep.Close(framecodec.CodeInternal)
}

// TestFlowBuffer: the socket of a flow has more room than others, if the system
// gives more.
func TestFlowBuffer(t *testing.T) {
	noLeaks(t)
	r := newReactor(t)
	ours, _ := flowKinds()[0].flowPair(t)
	ep := adopt(t, r, ours, nil)
	defer ep.Close(framecodec.CodeNormal)
	got, err := unix.GetsockoptInt(ep.(*flow).fd, unix.SOL_SOCKET, unix.SO_RCVBUF)
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile("/proc/sys/net/core/rmem_max")
	if err != nil {
		t.Fatal(err)
	}
	most, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		t.Fatal(err)
	}
	if want := 2 * min(flowBuffer, most); got != want { // the kernel doubles it for its own
		t.Errorf("room for %d bytes, want %d", got, want)
	}
}
