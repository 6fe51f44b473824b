package tunnel_test

import (
	"errors"
	"io"
	"sync"

	"github.com/culvertgate/culvert/tunnel"
)

// wire is an in-memory Carrier: what one end writes the other reads. Messages
// count as buffered until they are read.
type wire struct {
	mu       sync.Mutex
	cond     *sync.Cond
	inbox    [][]byte
	head     int      // of inbox: what is before it has been read
	free     [][]byte // recycled buffers: the steady state allocates nothing
	buffered int      // written here, not yet read over there
	mark     int
	low      func()
	closed   bool
	code     tunnel.Code
	peer     *wire
	max      int
}

var errWireClosed = errors.New("wire closed")

func newWires() (a, b *wire) {
	a, b = &wire{max: 65536}, &wire{max: 65536}
	a.cond, b.cond = sync.NewCond(&a.mu), sync.NewCond(&b.mu)
	a.peer, b.peer = b, a
	return a, b
}

func (w *wire) Wait() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	for len(w.inbox) == w.head && !w.closed {
		w.cond.Wait()
	}
	if len(w.inbox) == w.head {
		return errWireClosed
	}
	return nil
}

func (w *wire) ReadMessage(p []byte) (int, error) {
	w.mu.Lock()
	if len(w.inbox) == w.head {
		w.mu.Unlock()
		return 0, errWireClosed
	}
	msg := w.inbox[w.head]
	if len(msg) > len(p) {
		w.mu.Unlock()
		return 0, io.ErrShortBuffer
	}
	if w.head++; 2*w.head > len(w.inbox) { // moved rarely, so that a long line is no burden
		w.inbox = w.inbox[:copy(w.inbox, w.inbox[w.head:])]
		w.head = 0
	}
	n := copy(p, msg)
	w.free = append(w.free, msg[:0])
	w.mu.Unlock()
	w.peer.acknowledged(n)
	return n, nil
}

func (w *wire) acknowledged(n int) {
	w.mu.Lock()
	w.buffered -= n
	var f func()
	if w.low != nil && w.buffered <= w.mark {
		f, w.low = w.low, nil
	}
	w.mu.Unlock()
	if f != nil {
		f()
	}
}

func (w *wire) WriteMessage(p []byte) error {
	w.mu.Lock()
	if w.closed {
		w.mu.Unlock()
		return errWireClosed
	}
	w.buffered += len(p)
	w.mu.Unlock()
	w.peer.receive(p)
	return nil
}

func (w *wire) receive(p []byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	var buf []byte
	if n := len(w.free); n > 0 {
		buf, w.free = w.free[n-1], w.free[:n-1]
	}
	w.inbox = append(w.inbox, append(buf, p...))
	w.cond.Signal()
}

func (w *wire) Buffered() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.buffered
}

func (w *wire) NotifyLow(mark int, f func()) {
	w.mu.Lock()
	now := w.buffered <= mark
	w.mark, w.low = mark, f
	if now {
		w.low = nil
	}
	w.mu.Unlock()
	if now {
		f()
	}
}

func (w *wire) MaxMessage() int { return w.max }

// Close ends both ends: what was written before can still be read.
func (w *wire) Close(code tunnel.Code) error {
	for _, end := range []*wire{w, w.peer} {
		end.mu.Lock()
		if !end.closed {
			end.closed, end.code = true, code
		}
		end.cond.Broadcast()
		end.mu.Unlock()
	}
	return nil
}
