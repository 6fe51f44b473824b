package reactor

import (
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/culvertgate/culvert/tunnel"
)

// largestDatagram is more than UDP can carry, by IPv4 or IPv6.
const largestDatagram = 65535

// portableFlow is the Endpoint of a datagram connection whose readiness can't be
// watched. Its reader goroutine keeps what comes in a queue; its writer goroutine
// exists only while something is to be sent, so that TryWrite never waits and
// never says ErrWouldBlock.
type portableFlow struct {
	r     *Reactor
	conn  net.Conn
	watch chan struct{}

	mu      sync.Mutex
	ready   tunnel.Readiness
	in, out tunnel.DatagramQueue
	err     error // the first failure, as the stream is told it
	writing bool
	closed  bool
	users   int // the Endpoint until Close, and each goroutine: the last one gives everything back
}

func (r *Reactor) adoptPortableFlow(c net.Conn, watch chan struct{}) (tunnel.Endpoint, error) {
	if err := c.SetDeadline(time.Time{}); err != nil {
		_ = c.Close()
		return nil, fmt.Errorf("adopting %T: %w", c, err)
	}
	f := &portableFlow{r: r, conn: c, watch: watch, users: 1}
	if err := r.keep(f); err != nil {
		_ = c.Close()
		return nil, err
	}
	return f, nil
}

// startLocked runs a goroutine that the Reactor waits for; f.mu is held, and the
// Reactor is not closed before f is.
func (f *portableFlow) startLocked(run func()) {
	f.users++
	f.r.running.Go(func() {
		defer f.leave()
		run()
	})
}

// Bind starts the reader.
func (f *portableFlow) Bind(ready tunnel.Readiness) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.ready = ready
	if !f.closed {
		f.startLocked(f.read)
	}
}

// read is the reader goroutine. It ends with the flow.
func (f *portableFlow) read() {
	buf := make([]byte, largestDatagram)
	for {
		n, err := 0, errPanicked
		f.r.guard(f, func() { n, err = f.conn.Read(buf) })
		switch {
		case err == nil:
			f.mu.Lock()
			f.in.Push(buf[:n])
			f.mu.Unlock()
			f.tell(true, false)
		case !isTooLarge(err): // which would tell of a datagram of ours
			f.fail(err)
			return
		}
	}
}

// write is the writer goroutine. It ends when nothing is to be sent.
func (f *portableFlow) write() {
	var b []byte
	for {
		var ok bool
		if b, ok = f.next(b); !ok {
			return
		}
		err := errPanicked
		f.r.guard(f, func() { _, err = f.conn.Write(b) })
		if err != nil && !costsOneDatagram(err) {
			f.fail(err)
		}
	}
}

// next takes what is sent next, in the room of b or anew. Where nothing is, the running mark falls in the
// same critical section, so that a TryWrite behind it starts a new goroutine.
func (f *portableFlow) next(b []byte) (_ []byte, ok bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed || f.err != nil {
		f.out.Clear()
	}
	if f.writing = f.out.Len() > 0; f.writing {
		b = append(b[:0], f.out.Front()...)
		f.out.Drop()
	}
	return b, f.writing
}

// TryRead implements tunnel.Endpoint. A datagram that is larger than p is
// dropped: half of one would pass for a whole one.
func (f *portableFlow) TryRead(p []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return 0, errFailed
	}
	for f.in.Len() > 0 {
		b := f.in.Front()
		n := copy(p, b)
		whole := n == len(b)
		f.in.Drop()
		if whole {
			return n, nil
		}
	}
	if f.err != nil {
		return 0, f.err
	}
	return 0, tunnel.ErrWouldBlock
}

// TryWrite implements tunnel.Endpoint. What cannot leave at once waits in a queue
// that drops the oldest.
func (f *portableFlow) TryWrite(p []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case f.closed:
		return 0, errFailed
	case f.err != nil:
		return 0, f.err
	}
	f.out.Push(p)
	if !f.writing {
		f.writing = true
		f.startLocked(f.write)
	}
	return len(p), nil
}

// CloseWrite implements tunnel.Endpoint: a direction of datagrams has no end.
func (f *portableFlow) CloseWrite() error { return nil }

// Broken implements tunnel.Breaker.
func (f *portableFlow) Broken() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return errFailed
	}
	return f.err
}

// Close implements tunnel.Endpoint; what was not sent is given up.
func (f *portableFlow) Close(tunnel.Code) {
	f.mu.Lock()
	first := !f.closed
	f.closed = true
	f.in.Clear()
	f.mu.Unlock()
	if first {
		_ = f.conn.Close() // ends both goroutines
		f.leave()
	}
}

// leave counts the Endpoint or a goroutine out.
func (f *portableFlow) leave() {
	f.mu.Lock()
	f.users--
	last := f.users == 0
	f.mu.Unlock()
	if !last {
		return
	}
	f.r.forget(f)
	if f.watch != nil {
		close(f.watch)
	}
}

// fail notes the first failure and tells the stream.
func (f *portableFlow) fail(err error) {
	f.mu.Lock()
	if f.err == nil {
		f.err = endOfFlow(err)
	}
	f.mu.Unlock()
	f.tell(true, true)
}

// abandon is Close for the Reactor's end; the stream is told.
func (f *portableFlow) abandon() {
	f.Close(codeInternal)
	f.tell(true, true)
}

// tell calls the Readiness, without locks.
func (f *portableFlow) tell(readable, writable bool) {
	f.mu.Lock()
	ready := f.ready
	f.mu.Unlock()
	f.r.tell(f, ready, readable, writable)
}
