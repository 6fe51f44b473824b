package gateway

import (
	"io"
	"sync"

	"github.com/culvertgate/culvert/framecodec"
	"github.com/culvertgate/culvert/tunnel"
)

// wire is an in-memory Carrier: what one end writes the other reads. Messages
// count as buffered until they are read.
type wire struct {
	peer *wire

	mu       sync.Mutex
	cond     *sync.Cond
	inbox    [][]byte
	buffered int
	mark     int
	low      func()
	closed   bool
	code     tunnel.Code
	most     int // the largest Buffered ever
}

func newWires() (a, b *wire) {
	a, b = &wire{}, &wire{}
	a.cond, b.cond = sync.NewCond(&a.mu), sync.NewCond(&b.mu)
	a.peer, b.peer = b, a
	return a, b
}

func (w *wire) Wait() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	for len(w.inbox) == 0 && !w.closed {
		w.cond.Wait()
	}
	if len(w.inbox) == 0 {
		return &tunnel.Error{Code: framecodec.CodeTunnelClosed, Err: io.EOF}
	}
	return nil
}

func (w *wire) ReadMessage(p []byte) (int, error) {
	w.mu.Lock()
	if len(w.inbox) == 0 {
		w.mu.Unlock()
		return 0, io.EOF
	}
	n := copy(p, w.inbox[0])
	w.inbox = w.inbox[1:]
	w.mu.Unlock()
	w.peer.acknowledge(n)
	return n, nil
}

func (w *wire) acknowledge(n int) {
	w.mu.Lock()
	w.buffered -= n
	var f func()
	if w.buffered <= w.mark {
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
		return io.ErrClosedPipe
	}
	w.buffered += len(p)
	w.most = max(w.most, w.buffered)
	w.mu.Unlock()
	w.peer.mu.Lock()
	defer w.peer.mu.Unlock()
	w.peer.inbox = append(w.peer.inbox, append([]byte(nil), p...))
	w.peer.cond.Signal()
	return nil
}

func (w *wire) Buffered() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.buffered
}

func (w *wire) NotifyLow(mark int, f func()) {
	w.mu.Lock()
	w.mark, w.low = mark, f
	now := w.buffered <= mark || w.closed
	if now {
		w.low = nil
	}
	w.mu.Unlock()
	if now {
		f()
	}
}

func (w *wire) MaxMessage() int { return 65536 }

// Close ends both ends; what was written before can still be read.
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

// end returns whether the wire is closed and the code of who closed it.
func (w *wire) end() (bool, tunnel.Code) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.closed, w.code
}
