package reactor

import (
	"errors"
	"io"
	"net"
	"sync"
	"time"

	"github.com/culvertgate/culvert/framecodec"
	"github.com/culvertgate/culvert/tunnel"
)

const (
	// bufferSize is what one read or one hand-over of a write moves at most.
	bufferSize = 32 << 10
	// idleRead is the room that a connection waits with: the first bytes land
	// there, and only when they fill it is a buffer taken.
	idleRead = 512
	// lingerTime bounds how long the last bytes of a stream that ended well may
	// wait for a peer that takes nothing.
	lingerTime = 30 * time.Second
)

type buffer [bufferSize]byte

var buffers = sync.Pool{New: func() any { return new(buffer) }}

// portable is the Endpoint for a net.Conn whose readiness can't be watched. Its
// reader goroutine hands over one read at a time and waits until that is taken;
// its writer goroutine exists only while something is to be written.
type portable struct {
	r        *Reactor
	conn     net.Conn
	ready    tunnel.Readiness
	watch    chan struct{}
	runRead  func() // method values, made once: a write must not allocate
	runWrite func()
	small    [idleRead]byte

	mu    sync.Mutex
	taken sync.Cond // in has become empty, or the Endpoint was closed

	in      []byte  // handed over, not yet taken
	inLarge *buffer // where in lies, if not in small or the prefix
	readErr error   // behind in

	out      *buffer // to be written; filled by TryWrite while another one is on its way
	outLen   int
	wants    bool // TryWrite found no room: Writable is owed
	writeErr error
	finish   bool // CloseWrite was asked for
	finished bool

	reading, writing bool // goroutines that run
	closed, abrupt   bool
	gone             bool // the writer has closed conn
}

func (r *Reactor) adoptPortable(c net.Conn, prefix []byte, watch chan struct{}) (tunnel.Endpoint, error) {
	p := &portable{r: r, conn: c, watch: watch, in: append([]byte(nil), prefix...)}
	p.taken.L = &p.mu
	p.runRead, p.runWrite = p.read, p.write
	if err := r.keep(p); err != nil {
		_ = c.Close()
		return nil, err
	}
	return p, nil
}

// startLocked runs a goroutine of p that the Reactor waits for; p.mu is held, and the
// Reactor is not closed before p is.
func (p *portable) startLocked(running *bool, run func()) {
	if *running {
		return
	}
	*running = true
	p.r.running.Add(1)
	go run()
}

// Bind starts the reader.
func (p *portable) Bind(ready tunnel.Readiness) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ready = ready
	if !p.closed {
		p.startLocked(&p.reading, p.runRead)
	}
}

// TryRead implements tunnel.Endpoint. Errors are those of the connection.
func (p *portable) TryRead(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.closed:
		return 0, errFailed
	case len(p.in) > 0:
		n := copy(b, p.in)
		p.in = p.in[n:]
		if len(p.in) == 0 {
			p.freeLocked()
			p.taken.Signal()
		}
		return n, nil
	case p.readErr != nil:
		return 0, p.readErr
	default:
		return 0, tunnel.ErrWouldBlock
	}
}

// freeLocked forgets what was handed over.
func (p *portable) freeLocked() {
	p.in = nil
	if p.inLarge != nil {
		buffers.Put(p.inLarge)
		p.inLarge = nil
	}
}

// TryWrite implements tunnel.Endpoint; it takes at most 32 KiB beside the 32
// KiB that are on their way.
func (p *portable) TryWrite(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.closed:
		return 0, errFailed
	case p.writeErr != nil:
		return 0, p.writeErr
	case p.finish:
		return 0, errFinished
	case len(b) == 0:
		return 0, nil
	}
	if p.out == nil {
		p.out = buffers.Get().(*buffer)
	}
	n := copy(p.out[p.outLen:], b)
	p.outLen += n
	p.startLocked(&p.writing, p.runWrite)
	if n < len(b) {
		p.wants = true
	}
	if n == 0 {
		return 0, tunnel.ErrWouldBlock
	}
	return n, nil
}

var errFinished = errors.New("write after the end of the direction")

// CloseWrite implements tunnel.Endpoint. A connection that cannot end one
// direction alone says the end when the stream is closed.
func (p *portable) CloseWrite() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return net.ErrClosed
	}
	if p.writeErr != nil {
		return p.writeErr
	}
	p.finish = true
	p.startLocked(&p.writing, p.runWrite)
	return nil
}

// Broken implements tunnel.Breaker. A failure of reading is known only when what
// came before it has been taken.
func (p *portable) Broken() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.closed:
		return errFailed
	case p.writeErr != nil:
		return p.writeErr
	case p.readErr != nil && !errors.Is(p.readErr, io.EOF):
		return p.readErr
	}
	return nil
}

// Close implements tunnel.Endpoint. After a good end the writer still delivers
// what it has; any other end drops it.
func (p *portable) Close(code tunnel.Code) {
	p.close(code != framecodec.CodeNormal)
}

func (p *portable) close(abrupt bool) {
	if !p.mark(abrupt) {
		return
	}
	// The writer, which may be stuck in a Write, closes the outer layers.
	if abrupt {
		reset(p.conn)
	} else {
		_ = p.conn.SetWriteDeadline(time.Now().Add(lingerTime)) // fails only on a dead connection
	}
}

// mark notes the end and reports whether there is anything to do: an abrupt end
// may still cut a good one short.
func (p *portable) mark(abrupt bool) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.gone || p.closed && (p.abrupt || !abrupt) {
		return false
	}
	p.closed, p.abrupt = true, abrupt
	p.freeLocked()
	p.taken.Broadcast()
	p.startLocked(&p.writing, p.runWrite)
	return true
}

// abandon is Close for the Reactor's end: lingering bytes are given up, and the
// stream is told.
func (p *portable) abandon() {
	p.close(true)
	p.tell(true, true)
}

// tell calls the Readiness, without locks.
func (p *portable) tell(readable, writable bool) {
	p.mu.Lock()
	ready := p.ready
	p.mu.Unlock()
	p.r.tell(p, ready, readable, writable)
}
