package tunnel

import (
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/culvertgate/culvert/framecodec"
)

// DatagramConn is a connected socket for datagrams whose other side is the
// Endpoint of a flow. A Write sends one datagram and never waits; a Read receives
// one, cut to the length of its buffer. Each direction keeps at most 64 datagrams
// or 64 KiB, and the oldest make room for new ones. It is a net.PacketConn too,
// of which RemoteAddr is the only peer. All methods are safe for concurrent use.
type DatagramConn struct {
	local, remote net.Addr
	readDeadline  deadline
	budget        *Budget // charged for both queues; nil: none

	mu sync.Mutex
	// Guarded by mu.
	readiness Readiness
	out, in   datagramQueue
	arrived   chan struct{} // one token: something came, or the end
	closed    bool          // Close was called here
	end       *Error        // the flow is over
	dropped   uint64
}

var (
	_ net.Conn       = (*DatagramConn)(nil)
	_ net.PacketConn = (*DatagramConn)(nil)
)

// NewDatagramConn returns a DatagramConn and the Endpoint that is its other side.
func NewDatagramConn(local, remote net.Addr) (*DatagramConn, Endpoint) {
	return NewDatagramConnWithin(nil, local, remote)
}

// NewDatagramConnWithin is NewDatagramConn for one of many: what waits in it is taken
// from budget, and what finds no room there is dropped. It must be closed, also when no
// flow was opened.
func NewDatagramConnWithin(budget *Budget, local, remote net.Addr) (*DatagramConn, Endpoint) {
	c := &DatagramConn{budget: budget, local: local, remote: remote, readDeadline: newDeadline(), arrived: make(chan struct{}, 1)}
	return c, (*datagramEndpoint)(c)
}

// LocalAddr returns the address given to NewDatagramConn.
func (c *DatagramConn) LocalAddr() net.Addr { return c.local }

// RemoteAddr returns the address given to NewDatagramConn.
func (c *DatagramConn) RemoteAddr() net.Addr { return c.remote }

// SetDeadline sets the deadline of Read; a Write needs none.
func (c *DatagramConn) SetDeadline(t time.Time) error { return c.SetReadDeadline(t) }

// SetReadDeadline makes Read fail after t.
func (c *DatagramConn) SetReadDeadline(t time.Time) error {
	c.readDeadline.set(t)
	token(c.arrived) // who waits looks at the new deadline
	return nil
}

// SetWriteDeadline does nothing: a Write never waits.
func (c *DatagramConn) SetWriteDeadline(time.Time) error { return nil }

// Dropped returns how many datagrams had to make room for newer ones, or found none.
func (c *DatagramConn) Dropped() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.dropped
}

func (c *DatagramConn) opError(op string, err error) error {
	return &net.OpError{Op: op, Net: "webrtc", Source: c.local, Addr: c.remote, Err: err}
}

// Read receives a datagram. The flow's end is an *Error with its code.
func (c *DatagramConn) Read(p []byte) (int, error) {
	g, err := c.receive()
	if err != nil {
		return 0, err
	}
	n := copy(p, g.buf[:g.w])
	g.free()
	return n, nil
}

// Each calls f with each datagram that arrives, until the flow ends or is closed,
// and returns why. What f is given is good until it returns. Other than Read it
// needs no buffer while it waits.
func (c *DatagramConn) Each(f func(p []byte)) error {
	for {
		g, err := c.receive()
		if err != nil {
			return err
		}
		f(g.buf[:g.w])
		g.free()
	}
}

// receive waits for a datagram.
func (c *DatagramConn) receive() (*segment, error) {
	for {
		past := c.readDeadline.wait()
		if isClosed(past) {
			return nil, c.opError("read", os.ErrDeadlineExceeded)
		}
		switch g, err := c.fetch(); {
		case err != nil:
			return nil, c.opError("read", err)
		case g != nil:
			return g, nil
		}
		select {
		case <-c.arrived:
		case <-past:
		}
	}
}

// fetch returns the oldest datagram, or neither that nor an error.
func (c *DatagramConn) fetch() (g *segment, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.closed:
		err = net.ErrClosed
	case c.in.n > 0:
		g = c.in.pop()
		c.budget.Release(int64(g.w))
	case c.end != nil:
		err = c.end
	default:
		return nil, nil
	}
	token(c.arrived) // for another Read that waits
	return g, err
}

// ReadFrom is Read; the address is RemoteAddr.
func (c *DatagramConn) ReadFrom(p []byte) (int, net.Addr, error) {
	n, err := c.Read(p)
	return n, c.remote, err
}

// Write sends a datagram of at most MaxDatagram bytes.
func (c *DatagramConn) Write(p []byte) (int, error) {
	if len(p) > MaxDatagram {
		return 0, c.opError("write", syscall.EMSGSIZE)
	}
	readiness, err := c.queue(p)
	if err != nil {
		return 0, c.opError("write", err)
	}
	if readiness != nil {
		readiness.Readable()
	}
	return len(p), nil
}

func (c *DatagramConn) queue(p []byte) (Readiness, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.closed:
		return nil, net.ErrClosed
	case c.end != nil:
		return nil, c.end
	}
	c.keepLocked(&c.out, p)
	return c.readiness, nil
}

// keepLocked queues a datagram, unless memory is short: then it is dropped.
func (c *DatagramConn) keepLocked(q *datagramQueue, p []byte) {
	if c.budget.Free(datagramBytesMost) < int64(len(p)) {
		c.dropped++
		return
	}
	before := q.bytes
	c.dropped += uint64(q.push(p))
	c.budget.Force(int64(q.bytes - before))
}

func (c *DatagramConn) clearLocked(q *datagramQueue) {
	c.budget.Release(int64(q.bytes))
	q.clear()
}

// WriteTo is Write; the address is not looked at.
func (c *DatagramConn) WriteTo(p []byte, _ net.Addr) (int, error) { return c.Write(p) }

// Close ends the flow behind what was written.
func (c *DatagramConn) Close() error {
	c.readDeadline.stop()
	c.mu.Lock()
	c.closed = true
	c.clearLocked(&c.in)
	readiness := c.readiness
	token(c.arrived)
	c.mu.Unlock()
	if readiness != nil {
		readiness.Readable()
	}
	return nil
}

// datagramEndpoint is the session's side of a DatagramConn.
type datagramEndpoint DatagramConn

func (e *datagramEndpoint) Bind(r Readiness) {
	e.mu.Lock()
	e.readiness = r
	something := e.out.n > 0 || e.closed
	e.mu.Unlock()
	if something {
		r.Readable()
	}
}

func (e *datagramEndpoint) TryRead(p []byte) (int, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	switch {
	case e.out.n > 0:
		n := copy(p, e.out.front())
		e.budget.Release(int64(len(e.out.front())))
		e.out.drop()
		return n, nil
	case e.closed:
		return 0, &Error{Code: framecodec.CodeCancelled, Text: "closed by the side that opened it", Err: net.ErrClosed}
	default:
		return 0, ErrWouldBlock
	}
}

func (e *datagramEndpoint) TryWrite(p []byte) (int, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return len(p), nil // the flow's end is on its way
	}
	(*DatagramConn)(e).keepLocked(&e.in, p)
	token(e.arrived)
	return len(p), nil
}

func (e *datagramEndpoint) CloseWrite() error { return nil }

func (e *datagramEndpoint) Close(code Code) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.end != nil {
		return
	}
	e.end = &Error{Code: code}
	(*DatagramConn)(e).clearLocked(&e.out)
	e.readiness = nil
	token(e.arrived)
}
