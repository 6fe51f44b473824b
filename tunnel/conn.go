package tunnel

import (
	"io"
	"net"
	"os"
	"sync"
	"time"

	"github.com/culvertgate/culvert/framecodec"
)

// Conn is a net.Conn whose other side is an Endpoint: what a program of ours
// holds of a stream. Write returns when the session has taken all bytes, so it
// is as slow as the peer. It keeps half close (CloseWrite) and deadlines; errors
// match net.ErrClosed and os.ErrDeadlineExceeded, the end of the stream is an
// *Error with its code. All methods are safe for concurrent use.
type Conn struct {
	local, remote net.Addr
	readDeadline  deadline
	writeDeadline deadline
	writing       sync.Mutex // one Write at a time, so that none is cut in two

	mu sync.Mutex
	// Guarded by mu.
	readiness Readiness
	outgoing  []byte        // what Write still has to hand over
	taken     chan struct{} // one token: outgoing was taken from
	incoming  *segment      // what Read has not fetched yet; nil while there is nothing
	arrived   chan struct{} // one token: something came, or the end
	wantRoom  bool          // a TryWrite was cut short
	peerDone  bool          // no more will come
	writeDone bool          // CloseWrite
	closed    bool          // Close was called here
	sentEnd   bool          // the session has seen the end of our direction
	end       *Error        // the stream is over
}

// connBuffer is how much may wait for Read.
const connBuffer = 16 << 10

// NewConn returns a Conn and the Endpoint that is its other side. The addresses
// are what LocalAddr and RemoteAddr return.
func NewConn(local, remote net.Addr) (*Conn, Endpoint) {
	c := &Conn{
		local: local, remote: remote,
		readDeadline: newDeadline(), writeDeadline: newDeadline(),
		taken: make(chan struct{}, 1), arrived: make(chan struct{}, 1),
	}
	return c, (*connEndpoint)(c)
}

// Addr is the address of one end of a Conn: a target's name or host and port.
type Addr struct{ Net, Text string }

// Network returns the network, such as "webrtc".
func (a Addr) Network() string { return a.Net }

// String returns the text.
func (a Addr) String() string { return a.Text }

// LocalAddr returns the address given to NewConn.
func (c *Conn) LocalAddr() net.Addr { return c.local }

// RemoteAddr returns the address given to NewConn.
func (c *Conn) RemoteAddr() net.Addr { return c.remote }

// SetDeadline sets both deadlines.
func (c *Conn) SetDeadline(t time.Time) error {
	c.readDeadline.set(t)
	c.writeDeadline.set(t)
	return nil
}

// SetReadDeadline makes Read fail after t.
func (c *Conn) SetReadDeadline(t time.Time) error {
	c.readDeadline.set(t)
	return nil
}

// SetWriteDeadline makes Write fail after t.
func (c *Conn) SetWriteDeadline(t time.Time) error {
	c.writeDeadline.set(t)
	return nil
}

func token(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// opError gives an end the shape that users of package net expect.
func (c *Conn) opError(op string, err error) error {
	if err == io.EOF { //nolint:errorlint // returned as it is, by the contract of io.Reader
		return err
	}
	return &net.OpError{Op: op, Net: "webrtc", Source: c.local, Addr: c.remote, Err: err}
}

// Read reads what has arrived.
func (c *Conn) Read(p []byte) (int, error) {
	for {
		past := c.readDeadline.wait()
		if isClosed(past) {
			return 0, c.opError("read", os.ErrDeadlineExceeded)
		}
		n, err, wait := c.fetch(p)
		if !wait {
			if err != nil {
				err = c.opError("read", err)
			}
			return n, err
		}
		select {
		case <-c.arrived:
		case <-past:
		}
	}
}

// fetch copies what is there.
func (c *Conn) fetch(p []byte) (n int, err error, wait bool) { //nolint:revive // the error is not the last word here
	c.mu.Lock()
	tell := false
	switch {
	case c.closed:
		err = net.ErrClosed
		token(c.arrived) // for another Read that waits
	case len(p) == 0:
	case c.incoming != nil:
		g := c.incoming
		n = copy(p, g.buf[g.r:g.w])
		if g.r += n; g.r == g.w {
			g.free()
			c.incoming = nil
			tell, c.wantRoom = c.wantRoom, false
		} else {
			token(c.arrived)
		}
	case c.peerDone:
		err = io.EOF
		token(c.arrived)
	case c.end != nil:
		err = c.end
		if c.end.Code == framecodec.CodeNormal {
			err = io.EOF
		}
		token(c.arrived)
	default:
		wait = true
	}
	readiness := c.readiness
	c.mu.Unlock()
	if tell && readiness != nil {
		readiness.Writable()
	}
	return n, err, wait
}

// Write hands p to the session and returns when all of it was taken.
func (c *Conn) Write(p []byte) (int, error) {
	c.writing.Lock()
	defer c.writing.Unlock()
	past := c.writeDeadline.wait()
	if isClosed(past) {
		return 0, c.opError("write", os.ErrDeadlineExceeded)
	}
	readiness, err := c.offer(p)
	if err != nil || len(p) == 0 {
		if err != nil {
			err = c.opError("write", err)
		}
		return 0, err
	}
	if readiness != nil {
		readiness.Readable()
	}
	for {
		select {
		case <-c.taken:
		case <-past:
		}
		past = c.writeDeadline.wait()
		n, err, done := c.progress(len(p), isClosed(past))
		if done {
			if err != nil {
				err = c.opError("write", err)
			}
			return n, err
		}
	}
}

func (c *Conn) writeError() error {
	switch {
	case c.closed || c.writeDone:
		return net.ErrClosed
	case c.end != nil:
		return c.end
	default:
		return nil
	}
}

func (c *Conn) offer(p []byte) (Readiness, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.writeError(); err != nil {
		return nil, err
	}
	select {
	case <-c.taken: // of an earlier Write
	default:
	}
	c.outgoing = p
	return c.readiness, nil
}

func (c *Conn) progress(all int, past bool) (n int, err error, done bool) { //nolint:revive // the error is not the last word here
	c.mu.Lock()
	defer c.mu.Unlock()
	n = all - len(c.outgoing)
	if len(c.outgoing) == 0 {
		c.outgoing = nil
		return n, nil, true
	}
	if err = c.writeError(); err == nil && past {
		err = os.ErrDeadlineExceeded
	}
	if err != nil {
		c.outgoing = nil // p belongs to the caller again
		return n, err, true
	}
	return n, nil, false
}

// CloseWrite ends our direction behind what was written; Read goes on.
func (c *Conn) CloseWrite() error { return c.shut(false) }

// Close ends both directions: what was written still arrives, what arrives from
// now on is not wanted.
func (c *Conn) Close() error {
	c.readDeadline.stop()
	c.writeDeadline.stop()
	return c.shut(true)
}

func (c *Conn) shut(both bool) error {
	c.mu.Lock()
	if both {
		if c.incoming != nil {
			c.incoming.free()
			c.incoming = nil
		}
		c.closed = true
	}
	c.writeDone = true
	readiness := c.readiness
	token(c.arrived)
	token(c.taken)
	c.mu.Unlock()
	if readiness != nil {
		readiness.Readable()
		readiness.Writable()
	}
	return nil
}

// connEndpoint is the session's side of a Conn.
type connEndpoint Conn

var _ Endpoint = (*connEndpoint)(nil)

func (e *connEndpoint) Bind(r Readiness) {
	e.mu.Lock()
	e.readiness = r
	something := len(e.outgoing) > 0 || e.writeDone
	e.mu.Unlock()
	if something {
		r.Readable()
	}
}

func (e *connEndpoint) TryRead(p []byte) (int, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.outgoing) > 0 {
		n := copy(p, e.outgoing)
		e.outgoing = e.outgoing[n:]
		if len(e.outgoing) == 0 {
			token(e.taken)
			if e.writeDone {
				e.sentEnd = true
				return n, io.EOF
			}
		}
		return n, nil
	}
	if e.writeDone {
		e.sentEnd = true
		return 0, io.EOF
	}
	return 0, ErrWouldBlock
}

func (e *connEndpoint) TryWrite(p []byte) (int, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		if e.sentEnd {
			return 0, &Error{Code: framecodec.CodeCancelled, Text: "closed by the side that opened it", Err: net.ErrClosed}
		}
		return len(p), nil // until the peer has our end, what it sends is in vain but no fault
	}
	if len(p) == 0 {
		return 0, nil // Read would return nothing, and no error
	}
	if e.incoming == nil {
		e.incoming = newSegment(min(len(p), connBuffer))
	}
	g := e.incoming
	n := copy(g.buf[g.w:], p)
	g.w += n
	if n > 0 {
		token(e.arrived)
	}
	if n < len(p) {
		e.wantRoom = true
	}
	return n, nil
}

func (e *connEndpoint) CloseWrite() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.peerDone = true
	token(e.arrived)
	return nil
}

func (e *connEndpoint) Close(code Code) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.end != nil {
		return
	}
	e.end = &Error{Code: code}
	if code != framecodec.CodeNormal && e.incoming != nil {
		e.incoming.free()
		e.incoming = nil
	}
	e.readiness = nil
	token(e.arrived)
	token(e.taken)
}
