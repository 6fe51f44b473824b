package reactor

import (
	"errors"
	"testing"
	"time"

	"github.com/culvertgate/culvert/framecodec"
	"github.com/culvertgate/culvert/tunnel"
)

// bell rings for Readable, without a timer, which would be an allocation.
type bell chan struct{}

func (b bell) Readable() { signal(b) }
func (b bell) Writable() {}

// silent is a Readiness that costs nothing.
type silent struct{}

func (silent) Readable() {}
func (silent) Writable() {}

// TestNoAllocations: moving data allocates nothing.
func TestNoAllocations(t *testing.T) {
	eachKind(t, func(t *testing.T, k kind) {
		if k.name == "tls" || k.name == "tls12" || k.name == "pipe" {
			return // crypto/tls and net.Pipe themselves may allocate
		}
		r := newReactor(t)
		ours, theirs := k.pair(t)
		ep := adopt(t, r, ours, nil)
		readable := make(bell, 1)
		ep.Bind(readable)
		out, in, back := make([]byte, 4096), make([]byte, 4096), make([]byte, 4096)
		_ = theirs.SetDeadline(time.Now().Add(patience))
		round := func() {
			if n, err := ep.TryWrite(out); n != len(out) || err != nil {
				t.Fatalf("wrote %d, %v", n, err)
			}
			for n := 0; n < len(back); {
				m, err := theirs.Read(back[n:])
				if err != nil {
					t.Fatal(err)
				}
				n += m
			}
			if _, err := theirs.Write(back); err != nil {
				t.Fatal(err)
			}
			for n := 0; n < len(in); {
				m, err := ep.TryRead(in[n:])
				if errors.Is(err, tunnel.ErrWouldBlock) {
					<-readable
				} else if err != nil {
					t.Fatal(err)
				}
				n += m
			}
		}
		round()
		if raceEnabled {
			round()
			ep.Close(framecodec.CodeCancelled)
			t.Skip("the race detector drops pooled buffers at random")
		}
		if n := testing.AllocsPerRun(200, round); n != 0 {
			t.Errorf("%v allocations for 4 KiB each way", n)
		}
		ep.Close(framecodec.CodeCancelled)
	})
}
