package tunnel

import (
	"io"
	"sync"

	"github.com/culvertgate/culvert/framecodec"
)

// bridgeBuffer is how much a bridge keeps in each direction, in bytes: what one
// stream has written and the other not yet read.
const bridgeBuffer = 64 << 10

// NewBridge returns two Endpoints, each the other side of the other, that join
// two streams of this process: what is written to one is read from the other. An
// abrupt end of one is the other's, with its code; the end of a tunnel is
// tunnel_lost to the stream of the other tunnel. What waits is counted in budget,
// which may be nil.
func NewBridge(budget *Budget) (a, b Endpoint) {
	return newBridge(budget, func() bridgeQueue { return new(byteQueue) })
}

// NewDatagramBridge is NewBridge for two flows: datagrams that are not taken in
// time are dropped, the oldest first.
func NewDatagramBridge(budget *Budget) (a, b Endpoint) {
	return newBridge(budget, func() bridgeQueue { return new(packetQueue) })
}

func newBridge(budget *Budget, queue func() bridgeQueue) (a, b Endpoint) {
	br := &bridge{budget: budget}
	for i := range br.ends {
		br.ends[i] = bridgeEnd{br: br, other: &br.ends[1-i], in: queue()}
	}
	return &br.ends[0], &br.ends[1]
}

// bridgeQueue is one direction of a bridge. The bridge's lock guards it.
type bridgeQueue interface {
	put(p []byte) int // how much of p it took
	get(p []byte) int // there is something
	waits() (n int)   // bytes
	any() bool        // whether get has something
	full(n int) bool  // whether put would not have taken all of n bytes
	clear()
}

type byteQueue struct{ leftover }

func (q *byteQueue) put(p []byte) int {
	n := min(len(p), bridgeBuffer-q.n)
	q.append(p[:n])
	return n
}

func (q *byteQueue) get(p []byte) (n int) {
	for n < len(p) && q.n > 0 {
		m := copy(p[n:], q.front())
		q.drop(m)
		n += m
	}
	return n
}

func (q *byteQueue) waits() int      { return q.n }
func (q *byteQueue) any() bool       { return q.n > 0 }
func (q *byteQueue) full(n int) bool { return n > bridgeBuffer-q.n }
func (q *byteQueue) clear()          { q.leftover.clear() }

type packetQueue struct{ DatagramQueue }

func (q *packetQueue) put(p []byte) int {
	q.Push(p)
	return len(p)
}

func (q *packetQueue) get(p []byte) int {
	n := copy(p, q.Front())
	q.Drop()
	return n
}

func (q *packetQueue) waits() int    { return q.Bytes() }
func (q *packetQueue) any() bool     { return q.Len() > 0 }
func (q *packetQueue) full(int) bool { return false }
func (q *packetQueue) clear()        { q.Clear() }

// bridge joins two streams. A Try method of one end tells the other end's stream
// what has changed, outside of the bridge's lock: that takes the lock of the
// other's session only, and no session's lock is held while a stream's is taken.
type bridge struct {
	budget *Budget

	mu   sync.Mutex
	ends [2]bridgeEnd // guarded by mu
}

// bridgeEnd is an Endpoint; the bridge's lock guards it.
type bridgeEnd struct {
	br    *bridge
	other *bridgeEnd

	readiness Readiness
	in        bridgeQueue // for this end's TryRead
	wantRoom  bool        // a TryWrite of this end was cut short
	ended     bool        // the other end has finished its direction
	closed    bool        // this end is released
	broken    *Error      // the other end was cut
}

var (
	_ Endpoint = (*bridgeEnd)(nil)
	_ Breaker  = (*bridgeEnd)(nil)
)

// Bind implements Endpoint.
func (e *bridgeEnd) Bind(r Readiness) {
	e.br.mu.Lock()
	e.readiness = r
	something := e.in.any() || e.ended || e.broken != nil
	e.br.mu.Unlock()
	if something {
		r.Readable()
	}
}

// TryRead implements Endpoint.
func (e *bridgeEnd) TryRead(p []byte) (int, error) {
	e.br.mu.Lock()
	n, room, err := e.readLocked(p)
	e.br.mu.Unlock()
	if room != nil {
		room.Writable()
	}
	return n, err
}

// readLocked reads; room is the other stream where it waits for the place that
// this has made.
func (e *bridgeEnd) readLocked(p []byte) (n int, room Readiness, err error) {
	switch {
	case e.broken != nil:
		return 0, nil, e.broken
	case e.in.any():
		before := e.in.waits()
		n = e.in.get(p)
		e.account(e.in.waits() - before)
		if o := e.other; o.wantRoom && (!e.in.any() || e.in.waits() <= bridgeBuffer/2) {
			o.wantRoom = false
			room = o.readiness
		}
		if e.ended && !e.in.any() { // the signal for it may have been that for the data
			err = io.EOF
		}
		return n, room, err
	case e.ended:
		return 0, nil, io.EOF
	default:
		return 0, nil, ErrWouldBlock
	}
}

func (e *bridgeEnd) account(n int) {
	switch b := e.br.budget; {
	case b == nil:
	case n > 0:
		b.Force(int64(n))
	default:
		b.Release(int64(-n))
	}
}

// TryWrite implements Endpoint.
func (e *bridgeEnd) TryWrite(p []byte) (int, error) {
	e.br.mu.Lock()
	n, data, err := e.writeLocked(p)
	e.br.mu.Unlock()
	if data != nil {
		data.Readable()
	}
	return n, err
}

// writeLocked writes; data is the other stream where it did not know of any.
func (e *bridgeEnd) writeLocked(p []byte) (n int, data Readiness, err error) {
	if e.broken != nil {
		return 0, nil, e.broken
	}
	to := e.other
	knew, before := to.in.any(), to.in.waits()
	e.wantRoom = to.in.full(len(p))
	n = to.in.put(p)
	e.account(to.in.waits() - before)
	if to.in.any() && !knew {
		data = to.readiness
	}
	if n == 0 && e.wantRoom {
		err = ErrWouldBlock
	}
	return n, data, err
}

// CloseWrite implements Endpoint.
func (e *bridgeEnd) CloseWrite() error {
	e.br.mu.Lock()
	e.other.ended = true
	r := e.other.readiness
	e.br.mu.Unlock()
	if r != nil {
		r.Readable()
	}
	return nil
}

// Broken implements Breaker.
func (e *bridgeEnd) Broken() error {
	e.br.mu.Lock()
	defer e.br.mu.Unlock()
	if e.broken == nil {
		return nil
	}
	return e.broken
}

// Close implements Endpoint.
func (e *bridgeEnd) Close(code Code) {
	if r := e.close(code); r != nil {
		r.Readable()
		r.Writable()
	}
}

// close returns the other stream where that has to look.
func (e *bridgeEnd) close(code Code) Readiness {
	e.br.mu.Lock()
	defer e.br.mu.Unlock()
	if e.closed {
		return nil
	}
	e.closed = true
	e.readiness = nil
	e.drop()
	o := e.other
	if code == framecodec.CodeNormal || o.closed {
		return nil
	}
	if code == framecodec.CodeTunnelClosed { // the other's tunnel is still there
		code = framecodec.CodeTunnelLost
	}
	o.broken = &Error{Code: code}
	o.drop()
	return o.readiness
}

// drop lets go of what waits for this end.
func (e *bridgeEnd) drop() {
	e.account(-e.in.waits())
	e.in.clear()
}
