package reactor

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/culvertgate/culvert/framecodec"
	"github.com/culvertgate/culvert/tunnel"
)

// room is what the engine reads a datagram into, and the largest of IPv4.
const room = 65507

// flowKind is a way to carry a flow, which the tests of this file run over.
type flowKind struct {
	name  string
	home  string // loopback
	epoll bool   // on Linux
	adopt func(r *Reactor, c *net.UDPConn, watch chan struct{}) (tunnel.Endpoint, error)
}

func flowKinds() []flowKind {
	plain := func(r *Reactor, c *net.UDPConn, watch chan struct{}) (tunnel.Endpoint, error) {
		return r.adopt(c, nil, watch)
	}
	portable := func(r *Reactor, c *net.UDPConn, watch chan struct{}) (tunnel.Endpoint, error) {
		return r.adoptPortableFlow(c, watch)
	}
	return []flowKind{
		{name: "udp", home: "127.0.0.1", epoll: true, adopt: plain},
		{name: "udp6", home: "::1", epoll: true, adopt: plain},
		{name: "portable", home: "127.0.0.1", adopt: portable},
	}
}

func eachFlow(t *testing.T, f func(t *testing.T, k flowKind)) {
	for _, k := range flowKinds() {
		t.Run(k.name, func(t *testing.T) {
			noLeaks(t)
			f(t, k)
		})
	}
}

// target is the far side of a flow: an unconnected socket, as a server has it.
type target struct {
	*net.UDPConn
	flow net.Addr // the flow's own address
}

func (p target) say(t testing.TB, b []byte) {
	t.Helper()
	if _, err := p.WriteTo(b, p.flow); err != nil {
		t.Fatal(err)
	}
}

func (p target) hear(t testing.TB) []byte {
	t.Helper()
	b := make([]byte, largestDatagram)
	_ = p.SetReadDeadline(time.Now().Add(patience))
	n, err := p.Read(b)
	if err != nil {
		t.Fatal(err)
	}
	return b[:n]
}

// flowPair returns the connected socket of a flow and its target.
func (k flowKind) flowPair(t testing.TB) (*net.UDPConn, target) {
	t.Helper()
	far, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.ParseIP(k.home)})
	if err != nil {
		t.Skip(err) // a machine without IPv6
	}
	t.Cleanup(func() { _ = far.Close() })
	ours, err := net.DialUDP("udp", nil, far.LocalAddr().(*net.UDPAddr))
	if err != nil {
		t.Fatal(err)
	}
	return ours, target{far, ours.LocalAddr()}
}

// open adopts a flow into a reactor that lives as long as the test.
func (k flowKind) open(t testing.TB) (*stream, target) {
	t.Helper()
	r := newReactor(t)
	ours, far := k.flowPair(t)
	ep, err := k.adopt(r, ours, nil)
	if err != nil {
		t.Fatal(err)
	}
	return newStream(ep), far
}

// next waits for one datagram as the engine does.
func (s *stream) next(b []byte) (int, error) {
	for {
		n, err := s.ep.TryRead(b)
		if !errors.Is(err, tunnel.ErrWouldBlock) {
			return n, err
		}
		if n != 0 {
			return n, fmt.Errorf("ErrWouldBlock with %d bytes", n)
		}
		if err := await(s.readable); err != nil {
			return 0, err
		}
	}
}

func (s *stream) want(t testing.TB, want []byte) {
	t.Helper()
	b := make([]byte, room)
	if n, err := s.next(b); err != nil || !bytes.Equal(b[:n], want) {
		t.Fatalf("read %d bytes, %v; want %d bytes, or other ones", n, err, len(want))
	}
}

func (s *stream) send(t testing.TB, b []byte) {
	t.Helper()
	if n, err := s.ep.TryWrite(b); n != len(b) || err != nil {
		t.Fatalf("wrote %d of %d bytes, %v", n, len(b), err)
	}
}

// Datagrams keep their borders and sizes both ways, the empty one and the largest
// included, and nothing is an end.
func TestFlowBothWays(t *testing.T) {
	eachFlow(t, func(t *testing.T, k flowKind) {
		s, far := k.open(t)
		for _, size := range []int{1, 0, 512, 0, 0, 1472, 9000, room} {
			b := payload(t, size)
			s.send(t, b)
			if got := far.hear(t); !bytes.Equal(got, b) {
				t.Fatalf("the target got %d of %d bytes, or other ones", len(got), size)
			}
			far.say(t, b)
			s.want(t, b)
		}
		if n, err := s.ep.TryRead(make([]byte, room)); n != 0 || !errors.Is(err, tunnel.ErrWouldBlock) {
			t.Errorf("an empty socket: %d, %v", n, err)
		}
		if err := s.ep.CloseWrite(); err != nil {
			t.Error(err)
		}
		s.send(t, []byte("after CloseWrite"))
		if got := far.hear(t); string(got) != "after CloseWrite" {
			t.Errorf("%q", got)
		}
		if err := s.ep.(tunnel.Breaker).Broken(); err != nil {
			t.Errorf("broken: %v", err)
		}
		s.ep.Close(framecodec.CodeNormal)
	})
}

// What had come before Bind, and bursts behind it, are told, in order; each
// wake-up is followed by reads until nothing is there.
func TestFlowBursts(t *testing.T) {
	eachFlow(t, func(t *testing.T, k flowKind) {
		r := newReactor(t)
		ours, far := k.flowPair(t)
		ep, err := k.adopt(r, ours, nil)
		if err != nil {
			t.Fatal(err)
		}
		far.say(t, []byte("0 before"))
		s := newStream(ep)
		for round := range 20 {
			for i := range 32 {
				far.say(t, fmt.Appendf(nil, "%d of %d", i, round))
			}
			if round == 0 {
				s.want(t, []byte("0 before"))
			}
			for i := range 32 {
				s.want(t, fmt.Appendf(nil, "%d of %d", i, round))
			}
		}
		ep.Close(framecodec.CodeCancelled)
	})
}

// A datagram that does not fit is dropped whole, and the next one is read.
func TestFlowRoomTooSmall(t *testing.T) {
	eachFlow(t, func(t *testing.T, k flowKind) {
		s, far := k.open(t)
		far.say(t, make([]byte, 9))
		far.say(t, []byte("eight888"))
		b := make([]byte, 8)
		if n, err := s.next(b); err != nil || string(b[:n]) != "eight888" {
			t.Errorf("%q, %v", b[:n], err)
		}
		s.ep.Close(framecodec.CodeNormal)
	})
}

// A datagram that the system does not take is lost as one of the network is.
func TestFlowDropsTooLarge(t *testing.T) {
	eachFlow(t, func(t *testing.T, k flowKind) {
		s, far := k.open(t)
		s.send(t, make([]byte, 65528)) // more than IPv6 carries
		s.send(t, []byte("next"))
		if got := far.hear(t); string(got) != "next" {
			t.Errorf("%d bytes", len(got))
		}
		s.ep.Close(framecodec.CodeNormal)
	})
}

// That nobody listens (ICMP) ends the flow with a code, by reading and by
// writing, as often as one asks, and the client reads no address.
func TestFlowRefused(t *testing.T) {
	eachFlow(t, func(t *testing.T, k flowKind) {
		for _, writes := range []bool{false, true} {
			s, far := k.open(t)
			far.say(t, []byte("last words"))
			if err := await(s.readable); err != nil {
				t.Fatal(err)
			}
			_ = far.Close()
			s.send(t, []byte("anybody there?"))
			var err error
			if writes {
				eventually(t, "the refusal", func() bool {
					_, err = s.ep.TryWrite([]byte("x"))
					return err != nil
				})
			}
			s.want(t, []byte("last words")) // what came before can be read
			if _, err := s.next(make([]byte, room)); !isRefusal(err) {
				t.Errorf("read: %v", err)
			}
			if _, err = s.ep.TryRead(make([]byte, room)); !isRefusal(err) {
				t.Errorf("second read: %v", err)
			}
			if _, err = s.ep.TryWrite([]byte("x")); !isRefusal(err) {
				t.Errorf("write: %v", err)
			}
			if err := s.ep.(tunnel.Breaker).Broken(); !isRefusal(err) {
				t.Errorf("broken: %v", err)
			}
			s.ep.Close(framecodec.CodeRefused)
		}
	})
}

func isRefusal(err error) bool {
	var known *tunnel.Error
	return errors.As(err, &known) && known.Code == framecodec.CodeRefused && known.Text != "" && !strings.ContainsAny(known.Text, "0123456789:")
}

// The failure is known without a read or a write.
func TestFlowBroken(t *testing.T) {
	eachFlow(t, func(t *testing.T, k flowKind) {
		s, far := k.open(t)
		_ = far.Close()
		s.send(t, []byte("anybody there?"))
		eventually(t, "the failure", func() bool { return s.ep.(tunnel.Breaker).Broken() != nil })
		if _, err := s.next(make([]byte, room)); !isRefusal(err) {
			t.Errorf("read: %v", err)
		}
		s.ep.Close(framecodec.CodeRefused)
		if err := s.ep.(tunnel.Breaker).Broken(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("closed: %v", err)
		}
	})
}

// What ICMP tells, and what the system says of a single datagram.
func TestFlowErrors(t *testing.T) {
	for _, list := range []struct {
		errs  []error
		code  tunnel.Code
		costs bool
	}{
		{peerRefused, framecodec.CodeRefused, false},
		{peerUnreachable, framecodec.CodeUnreachable, false},
		{tooLarge, 0, true},
		{sendDropped, 0, true},
		{[]error{net.ErrClosed}, 0, false},
	} {
		for _, err := range list.errs {
			wrapped := &net.OpError{Op: "write", Err: err}
			var known *tunnel.Error
			if errors.As(endOfFlow(wrapped), &known); known != nil && known.Code != list.code || (known == nil) != (list.code == 0) {
				t.Errorf("%v ends with %v", err, endOfFlow(wrapped))
			}
			if costsOneDatagram(wrapped) != list.costs || toldByPeer(wrapped) != (list.code != 0) {
				t.Errorf("%v costs one datagram: %v", err, costsOneDatagram(wrapped))
			}
		}
	}
}

// An unconnected socket would take anybody's datagrams.
func TestUnconnectedIsRefused(t *testing.T) {
	noLeaks(t)
	r := newReactor(t)
	open, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	connected, _ := flowKinds()[0].flowPair(t)
	for name, tt := range map[string]struct {
		c      *net.UDPConn
		prefix []byte
	}{"not connected": {open, nil}, "prefix": {connected, []byte("x")}} {
		if ep, err := r.Adopt(tt.c, tt.prefix); ep != nil || err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v, %v", name, ep, err)
		}
		if err := tt.c.SetDeadline(time.Time{}); !errors.Is(err, net.ErrClosed) {
			t.Errorf("%s: left open: %v", name, err)
		}
	}
}

// Close from several goroutines while datagrams come and other calls are in
// flight; also of one that was never bound.
func TestFlowCloseRaces(t *testing.T) {
	eachFlow(t, func(t *testing.T, k flowKind) {
		r := newReactor(t)
		for i := range 50 {
			ours, far := k.flowPair(t)
			watch := make(chan struct{})
			ep, err := k.adopt(r, ours, watch)
			if err != nil {
				t.Fatal(err)
			}
			if i%10 == 0 {
				ep.Close(framecodec.CodeNormal)
			}
			var users sync.WaitGroup
			start := make(chan struct{})
			use := func(f func()) {
				users.Go(func() { <-start; f() })
			}
			s := newStream(ep)
			use(func() {
				for range 10 {
					_, _ = far.WriteTo(make([]byte, 100), far.flow)
				}
				_ = far.Close()
			})
			use(func() { tryUntilClosed(func(b []byte) error { _, err := ep.TryRead(b); return err }) })
			use(func() { tryUntilClosed(func(b []byte) error { _, err := ep.TryWrite(b); return err }) })
			use(func() { <-s.writableOrReadable(); ep.Close(framecodec.CodeCancelled) })
			use(func() { <-s.writableOrReadable(); ep.Close(framecodec.CodeNormal) })
			close(start)
			users.Wait()
			if err := await(watch); err != nil {
				t.Fatal("the end was never told")
			}
		}
	})
}

// Close of the Reactor ends flows that were forgotten, and tells their streams.
func TestFlowReactorClose(t *testing.T) {
	eachFlow(t, func(t *testing.T, k flowKind) {
		r := newReactor(t)
		ours, far := k.flowPair(t)
		ep, err := k.adopt(r, ours, nil)
		if err != nil {
			t.Fatal(err)
		}
		s := newStream(ep)
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
		if err := await(s.readable); err != nil {
			t.Error("the stream was not told")
		}
		if _, err := ep.TryRead(make([]byte, room)); !errors.Is(err, net.ErrClosed) {
			t.Errorf("TryRead: %v", err)
		}
		if _, err := ep.TryWrite([]byte("x")); !errors.Is(err, net.ErrClosed) {
			t.Errorf("TryWrite: %v", err)
		}
		late, err := net.DialUDP("udp", nil, far.LocalAddr().(*net.UDPAddr))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := k.adopt(r, late, nil); !errors.Is(err, net.ErrClosed) {
			t.Errorf("Adopt after Close: %v", err)
		}
		if _, err := late.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
			t.Errorf("a refused socket was left open: %v", err)
		}
	})
}

// A panic in a Readiness ends that flow.
func TestFlowPanic(t *testing.T) {
	eachFlow(t, func(t *testing.T, k flowKind) {
		caught := make(chan any, 8)
		r, err := New(Config{OnPanic: func(v any, _ []byte) { caught <- v }})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = r.Close() })
		ours, far := k.flowPair(t)
		ep, err := k.adopt(r, ours, nil)
		if err != nil {
			t.Fatal(err)
		}
		ep.Bind(bomb{})
		far.say(t, []byte("light"))
		if v := <-caught; v != "boom" {
			t.Fatal(v)
		}
		eventually(t, "the end of the flow", func() bool {
			_, err := ep.TryRead(make([]byte, room))
			return errors.Is(err, net.ErrClosed)
		})
		saysInternal(t, ep)
		select { // it is told again, so that a flow that only waits finds out
		case v := <-caught:
			if v != "boom" {
				t.Fatal(v)
			}
		case <-time.After(patience):
			t.Fatal("it is not told that it has ended")
		}
	})
}

// TestFlowNoAllocations: moving datagrams allocates nothing where the kernel's
// buffers are the queue.
func TestFlowNoAllocations(t *testing.T) {
	eachFlow(t, func(t *testing.T, k flowKind) {
		r := newReactor(t)
		ours, far := k.flowPair(t)
		ep, err := k.adopt(r, ours, nil)
		if err != nil {
			t.Fatal(err)
		}
		if r.poll == nil || !k.epoll {
			ep.Close(framecodec.CodeNormal)
			return // a portable queue copies
		}
		readable := make(bell, 1)
		ep.Bind(readable)
		b := make([]byte, room)
		_ = far.SetDeadline(time.Now().Add(patience))
		to := far.flow.(*net.UDPAddr).AddrPort()
		round := func() {
			if n, err := ep.TryWrite(b[:1200]); n != 1200 || err != nil {
				t.Fatalf("wrote %d, %v", n, err)
			}
			n, _, err := far.ReadFromUDPAddrPort(b)
			if err == nil {
				_, err = far.WriteToUDPAddrPort(b[:n], to)
			}
			if err != nil {
				t.Fatal(err)
			}
			for n, err = ep.TryRead(b); errors.Is(err, tunnel.ErrWouldBlock); n, err = ep.TryRead(b) {
				<-readable
			}
			if n != 1200 || err != nil {
				t.Fatalf("read %d, %v", n, err)
			}
		}
		round()
		if raceEnabled {
			ep.Close(framecodec.CodeCancelled)
			t.Skip("the race detector allocates")
		}
		if n := testing.AllocsPerRun(200, round); n != 0 {
			t.Errorf("%v allocations for a datagram each way", n)
		}
		ep.Close(framecodec.CodeCancelled)
	})
}
