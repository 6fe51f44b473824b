package reactor

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/culvertgate/culvert/framecodec"
	"github.com/culvertgate/culvert/tunnel"
)

// echo sends everything back until the peer has ended, then ends likewise.
func echo(s *stream) error {
	b := make([]byte, 8<<10)
	for {
		n, err := s.Read(b)
		if _, werr := s.Write(b[:n]); werr != nil {
			return werr
		}
		if errors.Is(err, io.EOF) {
			err = s.ep.CloseWrite()
			s.ep.Close(framecodec.CodeNormal)
			return err
		}
		if err != nil {
			return err
		}
	}
}

// TestDescriptorReuse opens and closes thousands of connections, so that their
// numbers are taken again at once, while others carry traffic. Each says its own
// name; hearing another one's is the bug.
func TestDescriptorReuse(t *testing.T) {
	for _, name := range []string{"tcp", "portable"} {
		t.Run(name, func(t *testing.T) {
			noLeaks(t)
			r := newReactor(t)
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			var work sync.WaitGroup
			work.Go(func() { serveEcho(t, r, l, name == "portable", &work) })
			deadline := time.Now().Add(2 * time.Second)
			var clients sync.WaitGroup
			for worker := range 8 {
				clients.Go(func() {
					for i := 0; time.Now().Before(deadline) || i < 50; i++ {
						size := 32
						if worker < 2 {
							size = 1 << 20
						}
						if err := sayName(l.Addr().String(), fmt.Sprintf("worker %d turn %d;", worker, i), size); err != nil {
							t.Error(err)
							return
						}
					}
				})
			}
			clients.Wait()
			_ = l.Close()
			work.Wait()
		})
	}
}

func serveEcho(t *testing.T, r *Reactor, l net.Listener, hide bool, work *sync.WaitGroup) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		if hide {
			c = opaque{c}
		}
		ep, err := r.Adopt(c, nil)
		if err != nil {
			t.Error(err)
			return
		}
		work.Go(func() {
			if err := echo(newStream(ep)); err != nil {
				ep.Close(framecodec.CodeTargetClosed)
			}
		})
	}
}

func sayName(address, name string, size int) error {
	c, err := net.Dial("tcp", address)
	if err != nil {
		return err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(patience))
	want := bytes.Repeat([]byte(name), size/len(name)+1)
	sent := make(chan error, 1)
	go func() {
		_, err := c.Write(want)
		sent <- err
	}()
	got := make([]byte, len(want))
	if _, err := io.ReadFull(c, got); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if err := <-sent; err != nil {
		return err
	}
	if !bytes.Equal(got, want) {
		return fmt.Errorf("%q heard %q", name, got[:len(name)])
	}
	if rand.Intn(3) == 0 {
		return c.(*net.TCPConn).SetLinger(0) // some end abruptly
	}
	return nil
}

// TestCloseRaces: Close from several goroutines while events come and other
// calls are in flight.
func TestCloseRaces(t *testing.T) {
	eachKind(t, func(t *testing.T, k kind) {
		r := newReactor(t)
		for range 50 {
			ours, theirs := k.pair(t)
			ep, watch, err := r.AdoptWatch(ours, nil)
			if err != nil {
				t.Fatal(err)
			}
			var users sync.WaitGroup
			start := make(chan struct{})
			use := func(f func()) {
				users.Go(func() { <-start; f() })
			}
			s := newStream(ep)
			use(func() { _, _ = theirs.Write(make([]byte, 1<<16)); _ = theirs.Close() })
			use(func() { tryUntilClosed(func(b []byte) error { _, err := ep.TryRead(b); return err }) })
			use(func() { tryUntilClosed(func(b []byte) error { _, err := ep.TryWrite(b); return err }) })
			use(func() { <-s.writableOrReadable(); ep.Close(framecodec.CodeCancelled) })
			use(func() { ep.Close(framecodec.CodeNormal) })
			close(start)
			users.Wait()
			if err := await(watch); err != nil {
				t.Fatal("the end was never told")
			}
		}
	})
}

func tryUntilClosed(try func([]byte) error) {
	b := make([]byte, 4096)
	for !errors.Is(try(b), net.ErrClosed) {
	}
}

// writableOrReadable returns at the first event, or after a moment.
func (s *stream) writableOrReadable() <-chan struct{} {
	c := make(chan struct{})
	go func() {
		defer close(c)
		select {
		case <-s.readable:
		case <-s.writable:
		case <-time.After(time.Millisecond):
		}
	}()
	return c
}

// TestWatchWaitsForTheLastByte: a handler that returns when the channel closes
// cuts nothing, and no goroutine of ours uses its connection any more.
func TestWatchWaitsForTheLastByte(t *testing.T) {
	eachKind(t, func(t *testing.T, k kind) {
		r := newReactor(t)
		ours, theirs := k.pair(t)
		ep, watch, err := r.AdoptWatch(ours, nil)
		if err != nil {
			t.Fatal(err)
		}
		s := newStream(ep)
		want := payload(t, 20_000)
		if _, err := s.Write(want); err != nil {
			t.Fatal(err)
		}
		if err := ep.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		ep.Close(framecodec.CodeNormal)
		if got, err := readAll(theirs); err != nil || !bytes.Equal(got, want) {
			t.Fatalf("%d of %d bytes, %v", len(got), len(want), err)
		}
		if err := await(watch); err != nil {
			t.Fatal(err)
		}
	})
}

// TestReactorClose ends Endpoints that were forgotten, stuck ones too, and
// refuses new ones.
func TestReactorClose(t *testing.T) {
	eachKind(t, func(t *testing.T, k kind) {
		s, peer := open(t, k)
		r := newReactor(t)
		ours, theirs := k.pair(t)
		stuck := newStream(adopt(t, r, ours, nil))
		for {
			if _, err := stuck.ep.TryWrite(make([]byte, 1<<16)); err != nil {
				break
			}
		}
		closed := make(chan error, 1)
		go func() { closed <- r.Close() }()
		if err := <-closed; err != nil {
			t.Fatal(err)
		}
		if err := await(stuck.readable); err != nil {
			t.Fatal("the stream was not told")
		}
		if _, err := stuck.ep.TryRead(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
			t.Fatalf("TryRead: %v", err)
		}
		if _, err := readAll(theirs); err != nil && errors.Is(err, errTimeout) {
			t.Fatal("the peer of a forgotten Endpoint hangs")
		}
		late, _ := k.pair(t)
		if _, err := r.Adopt(late, nil); !errors.Is(err, net.ErrClosed) {
			t.Fatalf("Adopt after Close: %v", err)
		}
		if _, err := late.Write([]byte("x")); err == nil {
			t.Fatal("a refused connection was left open")
		}
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
		s.ep.Close(framecodec.CodeCancelled) // another reactor's is untouched
		_ = peer
	})
}

type bomb struct{ tunnel.Endpoint }

func (bomb) Readable() { panic("boom") }
func (bomb) Writable() {}

// saysInternal holds an Endpoint that was given up here to a verdict of its own: any
// other error the engine takes for news of the target.
func saysInternal(t *testing.T, ep tunnel.Endpoint) {
	t.Helper()
	_, read := ep.TryRead(make([]byte, 1))
	_, write := ep.TryWrite(make([]byte, 1))
	for _, err := range []error{read, write, ep.(tunnel.Breaker).Broken()} {
		if e, ok := err.(*tunnel.Error); !ok || e.Code != framecodec.CodeInternal { //nolint:errorlint // as the engine looks at it
			t.Errorf("it says %v, want internal", err)
		}
	}
}

// TestPanicEndsOneEndpoint: the others go on.
func TestPanicEndsOneEndpoint(t *testing.T) {
	eachKind(t, func(t *testing.T, k kind) {
		caught := make(chan any, 8)
		r, err := New(Config{OnPanic: func(v any, stack []byte) {
			if len(stack) == 0 {
				v = "no stack"
			}
			caught <- v
		}})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = r.Close() })
		ours, theirs := k.pair(t)
		victim := adopt(t, r, ours, nil)
		victim.Bind(bomb{})
		otherOurs, otherTheirs := k.pair(t)
		other := newStream(adopt(t, r, otherOurs, nil))
		go func() { _, _ = theirs.Write([]byte("light")) }()
		if v := <-caught; v != "boom" {
			t.Fatal(v)
		}
		eventually(t, "the end of the victim", func() bool {
			_, err := victim.TryRead(make([]byte, 1))
			return errors.Is(err, net.ErrClosed)
		})
		saysInternal(t, victim)
		// It is told again, so that a stream that only waits finds out; a second panic
		// is as harmless.
		select {
		case v := <-caught:
			if v != "boom" {
				t.Fatal(v)
			}
		case <-time.After(10 * time.Second):
			t.Fatal("it is not told that it has ended")
		}
		go func() { _, _ = otherTheirs.Write([]byte("alive")) }()
		b := make([]byte, 5)
		if _, err := io.ReadFull(other, b); err != nil {
			t.Fatal(err)
		}
		other.ep.Close(framecodec.CodeCancelled)
	})
}

// TestCloseDropsWhatNobodyRead: data that was handed over and not taken holds
// nothing back.
func TestCloseDropsWhatNobodyRead(t *testing.T) {
	eachKind(t, func(t *testing.T, k kind) {
		r := newReactor(t)
		ours, theirs := k.pair(t)
		ep, watch, err := r.AdoptWatch(ours, nil)
		if err != nil {
			t.Fatal(err)
		}
		s := newStream(ep)
		go func() { _, _ = theirs.Write(make([]byte, 1<<16)) }()
		if err := await(s.readable); err != nil {
			t.Fatal(err)
		}
		ep.Close(framecodec.CodeCancelled)
		if err := await(watch); err != nil {
			t.Fatal("a goroutine of the Endpoint is still there")
		}
	})
}
