package tunnel_test

import (
	"errors"
	"io"
	"sync"

	"github.com/culvertgate/culvert/tunnel"
)

// handEnd is an Endpoint that a test works by hand.
type handEnd struct {
	mu       sync.Mutex
	ready    tunnel.Readiness
	give     []byte // for TryRead
	eof      bool
	broken   error
	stuck    bool // takes nothing
	panics   bool // in TryRead
	took     int
	finished bool
	closed   bool
	code     tunnel.Code
	reads    int
}

var errHandReset = errors.New("connection reset by peer")

func (e *handEnd) Bind(r tunnel.Readiness) {
	e.mu.Lock()
	e.ready = r
	something := len(e.give) > 0 || e.eof
	e.mu.Unlock()
	if something {
		r.Readable()
	}
}

func (e *handEnd) TryRead(p []byte) (int, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.reads++
	switch {
	case e.panics:
		panic("a hand slipped")
	case e.broken != nil:
		return 0, e.broken
	case len(e.give) > 0:
		n := copy(p, e.give)
		e.give = e.give[n:]
		if len(e.give) == 0 && e.eof {
			return n, io.EOF
		}
		return n, nil
	case e.eof:
		return 0, io.EOF
	default:
		return 0, tunnel.ErrWouldBlock
	}
}

func (e *handEnd) TryWrite(p []byte) (int, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	switch {
	case e.broken != nil:
		return 0, e.broken
	case e.stuck:
		return 0, tunnel.ErrWouldBlock
	default:
		e.took += len(p)
		return len(p), nil
	}
}

func (e *handEnd) CloseWrite() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.finished = true
	return nil
}

func (e *handEnd) Close(code tunnel.Code) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.closed {
		e.closed, e.code = true, code
	}
}

func (e *handEnd) Broken() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.broken
}

// change does something to the Endpoint and signals both ways.
func (e *handEnd) change(f func()) {
	e.mu.Lock()
	f()
	r := e.ready
	e.mu.Unlock()
	if r != nil {
		r.Readable()
		r.Writable()
	}
}

func (e *handEnd) send(p []byte) { e.change(func() { e.give = append(e.give, p...) }) }
func (e *handEnd) finish()       { e.change(func() { e.eof = true }) }
func (e *handEnd) reset()        { e.change(func() { e.broken = errHandReset }) }
func (e *handEnd) free()         { e.change(func() { e.stuck = false }) }

// read is an atomic look at the Endpoint.
func (e *handEnd) read(f func()) {
	e.mu.Lock()
	defer e.mu.Unlock()
	f()
}

func (e *handEnd) taken() (n int) {
	e.read(func() { n = e.took })
	return n
}
