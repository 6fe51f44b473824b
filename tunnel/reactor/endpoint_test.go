package reactor

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"io"
	"math/rand"
	"net"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/culvertgate/culvert/framecodec"
	"github.com/culvertgate/culvert/tunnel"
)

// payload is deterministic noise: a failure prints its seed.
func payload(t testing.TB, n int) []byte {
	seed := time.Now().UnixNano()
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("payload seed %d", seed)
		}
	})
	b := make([]byte, n)
	_, _ = rand.New(rand.NewSource(seed)).Read(b)
	return b
}

// dribble writes b in pieces of random size, now and then with a pause.
func dribble(w io.Writer, b []byte) error {
	for len(b) > 0 {
		n := min(len(b), 1+rand.Intn(1<<uint(rand.Intn(17))))
		if _, err := w.Write(b[:n]); err != nil {
			return err
		}
		b = b[n:]
		if rand.Intn(64) == 0 {
			time.Sleep(time.Duration(rand.Intn(300)) * time.Microsecond)
		}
	}
	return nil
}

// sip reads to the end in pieces of random size, now and then with a pause.
func sip(r io.Reader, limit int) ([]byte, error) {
	var out bytes.Buffer
	b := make([]byte, 1<<16)
	for {
		n, err := r.Read(b[:1+rand.Intn(1<<uint(rand.Intn(17)))])
		out.Write(b[:n])
		if errors.Is(err, io.EOF) || limit > 0 && out.Len() >= limit {
			return out.Bytes(), nil
		}
		if err != nil {
			return out.Bytes(), err
		}
		if rand.Intn(64) == 0 {
			time.Sleep(time.Duration(rand.Intn(300)) * time.Microsecond)
		}
	}
}

// TestBothWaysByteExact: both ends send and receive at once, in random pieces
// and with pauses; every byte arrives once and in order.
func TestBothWaysByteExact(t *testing.T) {
	const size = 4 << 20
	eachKind(t, func(t *testing.T, k kind) {
		s, peer := open(t, k)
		_ = peer.SetDeadline(time.Now().Add(patience))
		up, down := payload(t, size), payload(t, size)
		errs := make(chan error, 2)
		go func() { errs <- dribble(peer, up) }()
		go func() { errs <- dribble(s, down) }()
		var gotDown []byte
		var downErr error
		done := make(chan struct{})
		go func() {
			defer close(done)
			gotDown, downErr = sip(peer, size)
		}()
		gotUp, err := sip(s, size)
		<-done
		if err := errors.Join(err, downErr, <-errs, <-errs); err != nil {
			t.Fatal(err)
		}
		if sha256.Sum256(gotUp) != sha256.Sum256(up) || sha256.Sum256(gotDown) != sha256.Sum256(down) {
			t.Fatalf("up %d of %d bytes, down %d of %d, or other bytes", len(gotUp), size, len(gotDown), size)
		}
		s.ep.Close(framecodec.CodeCancelled)
	})
}

// TestHalfClose: either direction ends first, and the other one still carries
// its data.
func TestHalfClose(t *testing.T) {
	const size = 1 << 20
	eachKind(t, func(t *testing.T, k kind) {
		if !k.half {
			cannotHalfClose(t, k)
			return
		}
		t.Run("ours first", func(t *testing.T) {
			s, peer := open(t, k)
			if err := s.ep.CloseWrite(); err != nil {
				t.Fatal(err)
			}
			if b, err := readAll(peer); len(b) != 0 || err != nil {
				t.Fatalf("peer reads %d bytes, %v; want the end", len(b), err)
			}
			want := payload(t, size)
			sent := make(chan error, 1)
			go func() { sent <- finish(peer, want) }()
			got, err := io.ReadAll(s)
			if err := errors.Join(err, <-sent); err != nil || !bytes.Equal(got, want) {
				t.Fatalf("%d of %d bytes, %v", len(got), size, err)
			}
			s.ep.Close(framecodec.CodeNormal)
		})
		t.Run("theirs first", func(t *testing.T) {
			s, peer := open(t, k)
			if err := finish(peer, []byte("last words")); err != nil {
				t.Fatal(err)
			}
			if got, err := io.ReadAll(s); string(got) != "last words" || err != nil {
				t.Fatalf("%q, %v", got, err)
			}
			want := payload(t, size)
			sent := make(chan error, 1)
			go func() {
				_, err := s.Write(want)
				err = errors.Join(err, s.ep.CloseWrite())
				s.ep.Close(framecodec.CodeNormal) // must not cut what is on its way
				sent <- err
			}()
			got, err := readAll(peer)
			if err := errors.Join(err, <-sent); err != nil || !bytes.Equal(got, want) {
				t.Fatalf("%d of %d bytes, %v", len(got), size, err)
			}
		})
	})
}

func finish(c net.Conn, b []byte) error {
	_, err := c.Write(b)
	return errors.Join(err, c.(writeCloser).CloseWrite())
}

// cannotHalfClose: the end is said when the stream is closed, behind the data.
func cannotHalfClose(t *testing.T, k kind) {
	s, peer := open(t, k)
	want := payload(t, 10_000)
	if _, err := s.Write(want); err != nil {
		t.Fatal(err)
	}
	if err := s.ep.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	s.ep.Close(framecodec.CodeNormal)
	if got, err := readAll(peer); err != nil || !bytes.Equal(got, want) {
		t.Fatalf("%d of %d bytes, %v", len(got), len(want), err)
	}
}

// TestDataAndEndInOneEdge: everything has arrived before Bind, so that a single
// event tells of the data and of the end.
func TestDataAndEndInOneEdge(t *testing.T) {
	eachKind(t, func(t *testing.T, k kind) {
		if !k.half {
			return
		}
		r := newReactor(t)
		ours, theirs := k.pair(t)
		if err := finish(theirs, []byte("hello")); err != nil {
			t.Fatal(err)
		}
		s := newStream(adopt(t, r, ours, []byte("pre")))
		if got, err := io.ReadAll(s); string(got) != "prehello" || err != nil {
			t.Fatalf("%q, %v", got, err)
		}
		s.ep.Close(framecodec.CodeNormal)
	})
}

// TestPrefixComesFirst: what was read before Adopt comes first, also when
// nothing follows and when the room is smaller.
func TestPrefixComesFirst(t *testing.T) {
	eachKind(t, func(t *testing.T, k kind) {
		r := newReactor(t)
		ours, theirs := k.pair(t)
		prefix := []byte("prefix")
		s := newStream(adopt(t, r, ours, prefix))
		prefix[0] = 'X' // it is ours again
		got := make([]byte, 4)
		if _, err := io.ReadFull(s, got); string(got) != "pref" || err != nil {
			t.Fatalf("%q, %v", got, err)
		}
		sent := make(chan error, 1)
		go func() {
			_, err := theirs.Write([]byte("+more"))
			sent <- err
		}()
		rest := make([]byte, 7)
		if _, err := io.ReadFull(s, rest); string(rest) != "ix+more" || err != nil {
			t.Fatalf("%q, %v", rest, err)
		}
		if err := <-sent; err != nil {
			t.Fatal(err)
		}
		s.ep.Close(framecodec.CodeCancelled)
	})
}

// TestAbruptCloseReachesThePeer: any code but Normal resets a TCP connection, at
// once, also while a write is stuck.
func TestAbruptCloseReachesThePeer(t *testing.T) {
	eachKind(t, func(t *testing.T, k kind) {
		s, peer := open(t, k)
		for { // until the peer, which does not read, takes no more
			if _, err := s.ep.TryWrite(make([]byte, 1<<16)); errors.Is(err, tunnel.ErrWouldBlock) {
				break
			} else if err != nil {
				t.Fatal(err)
			}
		}
		s.ep.Close(framecodec.CodeTunnelLost)
		s.ep.Close(framecodec.CodeNormal) // the first one counts
		_, err := readAll(peer)
		switch {
		case errors.Is(err, errTimeout):
			t.Fatal("the peer waits for ever")
		case k.rst && !errors.Is(err, syscall.ECONNRESET):
			t.Fatalf("peer's read: %v, want a reset", err)
		case !k.rst && !k.mute && err == nil:
			t.Fatal("the peer takes it for a good end")
		}
		if _, err := s.ep.TryRead(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
			t.Fatalf("TryRead after Close: %v", err)
		}
		if _, err := s.ep.TryWrite(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
			t.Fatalf("TryWrite after Close: %v", err)
		}
		if err := s.ep.CloseWrite(); !errors.Is(err, net.ErrClosed) {
			t.Fatalf("CloseWrite after Close: %v", err)
		}
	})
}

var errTimeout = os.ErrDeadlineExceeded

// TestPeerReset: a reset is told as readable, is never taken for a good end, and
// is told as often as one asks.
func TestPeerReset(t *testing.T) {
	eachKind(t, func(t *testing.T, k kind) {
		if !k.rst {
			return
		}
		s, peer := open(t, k)
		if _, err := peer.Write([]byte("half of it")); err != nil {
			t.Fatal(err)
		}
		reset(peer)
		b := make([]byte, 64)
		var err error
		for err == nil {
			_, err = s.Read(b)
		}
		if !errors.Is(err, syscall.ECONNRESET) {
			t.Fatalf("read: %v, want a reset", err)
		}
		if _, err := s.ep.TryRead(b); !errors.Is(err, syscall.ECONNRESET) {
			t.Fatalf("second read: %v", err)
		}
		if _, err := s.Write(make([]byte, 1<<20)); err == nil {
			t.Fatal("a write succeeded after the reset")
		}
		s.ep.Close(framecodec.CodeTargetClosed)
	})
}

// TestPeerResetFreesABlockedWriter: an error is Writable too.
func TestPeerResetFreesABlockedWriter(t *testing.T) {
	eachKind(t, func(t *testing.T, k kind) {
		if !k.rst {
			return
		}
		s, peer := open(t, k)
		blocked := make(chan struct{})
		result := make(chan error, 1)
		go func() {
			b := make([]byte, 1<<16)
			for !s.full {
				n, err := s.ep.TryWrite(b)
				if s.full = n < len(b); err != nil && !errors.Is(err, tunnel.ErrWouldBlock) {
					break
				}
			}
			close(blocked)
			for {
				if _, err := s.Write(b); err != nil {
					result <- err
					return
				}
			}
		}()
		<-blocked
		reset(peer)
		if err := <-result; errors.Is(err, errLost) || err == nil {
			t.Fatalf("blocked write: %v", err)
		}
		s.ep.Close(framecodec.CodeTargetClosed)
	})
}

// TestResetIsNeverAnEnd: reads and writes race for the one report of the error
// that the kernel gives; a stream that was cut must not look complete.
func TestResetIsNeverAnEnd(t *testing.T) {
	noLeaks(t)
	r := newReactor(t)
	for range 300 {
		ours, theirs := tcpPair(t)
		s := newStream(adopt(t, r, ours, nil))
		writes := make(chan error, 1)
		go func() {
			var err error
			for err == nil || errors.Is(err, tunnel.ErrWouldBlock) {
				_, err = s.ep.TryWrite([]byte("x"))
			}
			writes <- err
		}()
		if _, err := theirs.Write([]byte("y")); err != nil {
			t.Fatal(err)
		}
		reset(theirs)
		b := make([]byte, 16)
		var err error
		for err == nil || errors.Is(err, tunnel.ErrWouldBlock) {
			_, err = s.ep.TryRead(b)
		}
		if errors.Is(err, io.EOF) {
			t.Fatal("a reset connection looks like a complete one")
		}
		if err := <-writes; err == nil {
			t.Fatal("a write succeeded after the reset")
		}
		s.ep.Close(framecodec.CodeTargetClosed)
	}
}

// TestBroken: a failure is known without reading or writing, and what came
// before it can still be read.
func TestBroken(t *testing.T) {
	eachKind(t, func(t *testing.T, k kind) {
		if !k.rst {
			return
		}
		r := newReactor(t)
		ours, theirs := k.pair(t)
		s := newStream(adopt(t, r, ours, nil))
		broken := s.ep.(tunnel.Breaker).Broken
		if err := broken(); err != nil {
			t.Fatalf("before anything: %v", err)
		}
		if _, err := theirs.Write([]byte("data")); err != nil {
			t.Fatal(err)
		}
		b := make([]byte, 4)
		if k.epoll { // a portable one has to be read before it knows more
			if err := await(s.readable); err != nil {
				t.Fatal(err)
			}
		} else if _, err := io.ReadFull(s, b); err != nil {
			t.Fatal(err)
		}
		if err := broken(); err != nil {
			t.Fatalf("with data: %v", err)
		}
		reset(theirs)
		eventually(t, "the failure", func() bool { return broken() != nil })
		if err := broken(); !errors.Is(err, syscall.ECONNRESET) {
			t.Fatalf("second time: %v", err)
		}
		if k.epoll {
			if n, err := s.ep.TryRead(b); n != 4 || err != nil {
				t.Fatalf("the data before the failure: %d, %v", n, err)
			}
		}
		if _, err := s.ep.TryRead(b); !errors.Is(err, syscall.ECONNRESET) {
			t.Fatalf("read behind it: %v", err)
		}
		s.ep.Close(framecodec.CodeTargetClosed)
	})
}

// TestBrokenAfterTheEnd: the peer has ended its direction, and is then gone.
func TestBrokenAfterTheEnd(t *testing.T) {
	noLeaks(t)
	r := newReactor(t)
	ours, theirs := tcpPair(t)
	s := newStream(adopt(t, r, ours, nil))
	if err := finish(theirs, []byte("end")); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(s); string(got) != "end" || err != nil {
		t.Fatalf("%q, %v", got, err)
	}
	broken := s.ep.(tunnel.Breaker).Broken
	if err := broken(); err != nil {
		t.Fatalf("a half close: %v", err)
	}
	reset(theirs)
	eventually(t, "the failure", func() bool { return broken() != nil })
	if _, err := s.ep.TryRead(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Fatalf("the end was read already, and now: %v", err)
	}
	s.ep.Close(framecodec.CodeTargetClosed)
}
