package tunnel_test

import (
	"io"
	"math/rand/v2"
	"os"
	"runtime"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/culvertgate/culvert/tunnel"
)

// testSeed is the seed of a random test: CULVERT_SEED, or fallback. It is
// printed when the test fails.
func testSeed(t testing.TB, fallback uint64) uint64 {
	t.Helper()
	seed := fallback
	if text := os.Getenv("CULVERT_SEED"); text != "" {
		n, err := strconv.ParseUint(text, 0, 64)
		if err != nil {
			t.Fatalf("CULVERT_SEED is a number: %v", err)
		}
		seed = n
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("seed: CULVERT_SEED=%d", seed)
		}
	})
	return seed
}

// chaos does one after the other, in random order, what is to happen later:
// deliver messages, acknowledge them, signal Endpoints.
type chaos struct {
	mu      sync.Mutex
	rng     *rand.Rand
	list    []func()
	wake    chan struct{}
	stopped chan struct{}
	done    chan struct{}
}

func newChaos(t testing.TB, seed uint64) *chaos {
	c := &chaos{rng: rand.New(rand.NewPCG(seed, 1)), wake: make(chan struct{}, 1),
		stopped: make(chan struct{}), done: make(chan struct{})}
	go c.run()
	t.Cleanup(func() {
		close(c.stopped)
		<-c.done
	})
	return c
}

func (c *chaos) run() {
	defer close(c.done)
	for {
		c.mu.Lock()
		var f func()
		pause := 0
		if n := len(c.list); n > 0 {
			i := c.rng.IntN(n)
			f = c.list[i]
			c.list[i] = c.list[n-1]
			c.list = c.list[:n-1]
			pause = c.rng.IntN(64)
		}
		c.mu.Unlock()
		switch {
		case f == nil:
			select {
			case <-c.wake:
			case <-c.stopped:
				return
			}
		case pause == 0: // what was started before runs on
			time.Sleep(20 * time.Microsecond)
			f()
		default:
			if pause < 8 {
				runtime.Gosched()
			}
			f()
		}
	}
}

func (c *chaos) later(f func()) {
	c.mu.Lock()
	c.list = append(c.list, f)
	c.mu.Unlock()
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// roll returns a random number below n.
func (c *chaos) roll(n int) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.rng.IntN(n)
}

// chaosWire is a Carrier that cuts and joins messages, delays them and their
// acknowledgements, and calls the low-water function at another time.
type chaosWire struct {
	c    *chaos
	peer *chaosWire
	tap  func([]byte) // sees every message as it was written

	mu       sync.Mutex
	cond     *sync.Cond
	inbox    [][]byte
	pending  []byte // written here, not yet delivered
	buffered int
	mark     int
	low      func()
	closed   bool
}

func newChaosWires(c *chaos) (a, b *chaosWire) {
	a, b = &chaosWire{c: c}, &chaosWire{c: c}
	a.cond, b.cond = sync.NewCond(&a.mu), sync.NewCond(&b.mu)
	a.peer, b.peer = b, a
	return a, b
}

func (w *chaosWire) Wait() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	for len(w.inbox) == 0 && !w.closed {
		w.cond.Wait()
	}
	if len(w.inbox) == 0 {
		return errWireClosed
	}
	return nil
}

func (w *chaosWire) ReadMessage(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.inbox) == 0 {
		return 0, errWireClosed
	}
	msg := w.inbox[0]
	if len(msg) > len(p) {
		return 0, io.ErrShortBuffer
	}
	w.inbox = w.inbox[1:]
	n := copy(p, msg)
	w.c.later(func() { w.peer.acknowledge(n) })
	return n, nil
}

func (w *chaosWire) acknowledge(n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.buffered -= n
	if w.low != nil && w.buffered <= w.mark {
		w.c.later(w.low)
		w.low = nil
	}
}

func (w *chaosWire) WriteMessage(p []byte) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return errWireClosed
	}
	if w.tap != nil {
		w.tap(p)
	}
	w.pending = append(w.pending, p...)
	w.buffered += len(p)
	w.c.later(w.deliver)
	return nil
}

// deliver moves some of what is pending to the other end as one message.
func (w *chaosWire) deliver() {
	how := w.c.roll(10)
	w.mu.Lock()
	n := min(len(w.pending), w.MaxMessage())
	switch {
	case n == 0:
		w.mu.Unlock()
		return
	case how < 2:
		n = min(n, 1+how*40)
	case how < 5:
		n = 1 + n/(how+1)
	}
	msg := append([]byte(nil), w.pending[:n]...)
	w.pending = w.pending[n:]
	if len(w.pending) > 0 {
		w.c.later(w.deliver)
	}
	// Under the lock: the messages stay in order.
	w.peer.receive(msg)
	w.mu.Unlock()
}

func (w *chaosWire) receive(msg []byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return
	}
	w.inbox = append(w.inbox, msg)
	w.cond.Signal()
}

func (w *chaosWire) Buffered() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.buffered
}

func (w *chaosWire) NotifyLow(mark int, f func()) {
	w.mu.Lock()
	there := w.buffered <= mark
	w.mark, w.low = mark, f
	if there {
		w.low = nil
	}
	w.mu.Unlock()
	if there {
		f()
	}
}

func (w *chaosWire) MaxMessage() int { return 65536 }

// Close ends both ends; what has been delivered can still be read.
func (w *chaosWire) Close(tunnel.Code) error {
	for _, end := range []*chaosWire{w, w.peer} {
		end.mu.Lock()
		end.closed = true
		end.cond.Broadcast()
		end.mu.Unlock()
	}
	return nil
}

// die is the sudden death of the transport: what is under way is lost.
func (w *chaosWire) die() {
	for _, end := range []*chaosWire{w, w.peer} {
		end.mu.Lock()
		end.closed, end.inbox, end.pending = true, nil, nil
		end.cond.Broadcast()
		end.mu.Unlock()
	}
}

func envOr(name, fallback string) string {
	if v := os.Getenv(name); v != "" {
		return v
	}
	return fallback
}
