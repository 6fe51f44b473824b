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
// one, cut to the length of its buffer. Each direction keeps what a DatagramQueue
// does: the oldest make room for new ones. It is a net.PacketConn too,
// of which RemoteAddr is the only peer. All methods are safe for concurrent use.
type DatagramConn struct {
	local, remote net.Addr
	readDeadline  deadline
	budget        *Budget // charged for both queues; nil: none

	mu sync.Mutex
	// Guarded by mu.
	readiness Readiness
	out, in   DatagramQueue
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
	return c.receive(func() []byte { return p })
}

// Each calls f with each datagram that arrives, until the flow ends or is closed,
// and returns why. What f is given is good until it returns. Other than Read it
// needs no buffer while it waits.
func (c *DatagramConn) Each(f func(p []byte)) error {
	var buf *receiveBuf
	room := func() []byte {
		buf = receivePool.Get().(*receiveBuf)
		return buf[:]
	}
	for {
		n, err := c.receive(room)
		if err != nil {
			return err
		}
		f(buf[:n])
		receivePool.Put(buf)
	}
}

// receive waits for a datagram, asks for room, and copies there what fits.
func (c *DatagramConn) receive(room func() []byte) (int, error) {
	for {
		past := c.readDeadline.wait()
		if isClosed(past) {
			return 0, c.opError("read", os.ErrDeadlineExceeded)
		}
		switch n, ok, err := c.fetch(room); {
		case err != nil:
			return 0, c.opError("read", err)
		case ok:
			return n, nil
		}
		select {
		case <-c.arrived:
		case <-past:
		}
	}
}

// fetch takes the oldest datagram; ok is false, without an error, if there is none.
func (c *DatagramConn) fetch(room func() []byte) (n int, ok bool, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.closed:
		err = net.ErrClosed
	case c.in.Len() > 0:
		before := c.in.Bytes()
		n, ok = copy(room(), c.in.Front()), true
		c.in.Drop()
		c.in.charge(c.budget, before)
	case c.end != nil:
		err = c.end
	default:
		return 0, false, nil
	}
	token(c.arrived) // for another Read that waits
	return n, ok, err
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
func (c *DatagramConn) keepLocked(q *DatagramQueue, p []byte) {
	if !hasMemory(c.budget, p) {
		c.dropped++
		return
	}
	before := q.Bytes()
	c.dropped += uint64(q.Push(p))
	q.charge(c.budget, before)
}

func (c *DatagramConn) clearLocked(q *DatagramQueue) {
	before := q.Bytes()
	q.Clear()
	q.charge(c.budget, before)
}

// WriteTo is Write; the address is not looked at.
func (c *DatagramConn) WriteTo(p []byte, _ net.Addr) (int, error) { return c.Write(p) }

// Close ends the flow behind what was written. Where no flow was opened yet, nobody
// is left to take that, and it is given up.
func (c *DatagramConn) Close() error {
	c.readDeadline.stop()
	c.mu.Lock()
	c.closed = true
	c.clearLocked(&c.in)
	readiness := c.readiness
	if readiness == nil {
		c.clearLocked(&c.out)
	}
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
	something := e.out.Len() > 0 || e.closed
	e.mu.Unlock()
	if something {
		r.Readable()
	}
}

func (e *datagramEndpoint) TryRead(p []byte) (int, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	switch {
	case e.out.Len() > 0:
		before := e.out.Bytes()
		n := copy(p, e.out.Front())
		e.out.Drop()
		e.out.charge(e.budget, before)
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
