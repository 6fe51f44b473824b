package tunnel

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/culvertgate/culvert/framecodec"
)

// Bits of Stream.bits: what an Endpoint has told since it was last asked.
const (
	bitReadable uint32 = 1 << iota // TryRead may have something
	bitWantRoom                    // leftovers wait for Writable
	bitBulk                        // reads much: takes turns behind the interactive ones
)

// Control frames that a stream owes; guarded by its lock.
const (
	oweOpen   uint8 = 1 << iota // an entry's Open
	oweOpened                   // an exit's Opened
	oweWindow                   // a new limit for the peer
	owePing                     // whether the opener knows the number (dialect 1)
	oweReset                    // the end
)

// interactiveTurns is for how many reads a stream stays interactive after it
// was new or has read little.
const interactiveTurns = 8

// Stream is one logical connection inside a session. Its methods are safe for
// concurrent use. A Stream stays a valid value after its end.
type Stream struct {
	s    *Session
	bits atomic.Uint32

	num uint32 // 0 until an entry's Open goes out; written under mu and session.mu

	// Guarded by the session's lock.
	readyNext   *Stream
	controlNext *Stream
	inReady     bool
	inControl   bool
	forgotten   bool // out of the table: joins no list any more

	turns uint8 // left as an interactive stream; the sender's own

	mu sync.Mutex
	// All below is guarded by mu.
	entry   bool // we opened it
	owed    uint8
	gone    bool // ended and forgotten
	asked   bool // Config.Accept has it, or is about to
	blocked bool // readable, but without credit
	finSeen bool // the peer's Finish has come; its data may still wait
	quiet   bool // the peer has forgotten the stream: it is told nothing more (dialect 1)
	state   streamState
	target  Target
	ep      Endpoint
	tag     any
	sent    uint64 // payload bytes sent: the next offset
	limit   uint64 // payload bytes that may be sent
	got     uint64 // payload bytes received
	taken   uint64 // of those, delivered to the Endpoint
	granted uint64 // payload bytes that the peer may send
	queue   leftover
	extra   *streamExtra
	flow    *flow       // of a flow, nil otherwise
	rate    *streamRate // of a limited stream, nil otherwise
	since   time.Duration
	active  time.Duration // when a byte last moved, coarse
	moved   time.Duration // when the Endpoint last took a byte while some waited, coarse
	grantAt time.Duration // when the last Window went out
	window  uint32
}

// streamExtra is what most streams do not need for most of their life.
type streamExtra struct {
	opening chan struct{} // closed when an entry's Open was answered
	err     *Error        // how it ended
	cancel  func()        // an exit's dial, to be told when the opener gives up
	probe   *probe1       // the exit waits for the opener to know the number
	address string        // bound address, for Opened
	trace   string        // W3C traceparent
}

// ID returns the stream's number on the wire, 0 before its Open has been sent.
func (st *Stream) ID() uint32 {
	st.mu.Lock()
	defer st.mu.Unlock()
	return st.num
}

// Entry reports whether this side opened the stream.
func (st *Stream) Entry() bool { return st.entry }

// Target returns what was asked for.
func (st *Stream) Target() Target { return st.target }

// SetTag keeps a value of the caller's with the stream.
func (st *Stream) SetTag(v any) {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.tag = v
}

// Tag returns the value of SetTag.
func (st *Stream) Tag() any {
	st.mu.Lock()
	defer st.mu.Unlock()
	return st.tag
}

// Session returns the session that the stream belongs to.
func (st *Stream) Session() *Session { return st.s }

// Reset cuts both directions: the Endpoint is closed with code and the peer is
// told code and text. It does nothing after the stream's end.
func (st *Stream) Reset(code Code, text string) {
	st.s.endStream(st, &Error{Code: code, Text: text}, true)
}

// Attach gives a stream its Endpoint: what has arrived meanwhile is delivered
// to it, and it is read from now on. At an exit this answers Opened. When the
// stream has ended already, the Endpoint is closed and the end returned.
func (st *Stream) Attach(ep Endpoint) error { return st.attach(ep, "") }

func (st *Stream) attach(ep Endpoint, address string) error {
	// Bound before the session's goroutines can see it. A signal that comes
	// earlier than that leaves its bit, and join looks at the bit.
	ep.Bind(st)
	answered, err := st.join(ep, address)
	if err != nil {
		ep.Close(err.Code)
		return err
	}
	if answered {
		st.s.tellOpened(st)
	}
	return nil
}

// join gives the stream its Endpoint; answered: it was an exit's answer.
func (st *Stream) join(ep Endpoint, address string) (answered bool, _ *Error) {
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.gone || st.ep != nil {
		return false, st.endLocked()
	}
	st.ep = ep
	st.s.rateStreamLocked(st)
	if !st.entry && !st.state.opened {
		st.state = st.state.next(eventOpened)
		st.more().address = address
		st.extra.cancel = nil
		st.owed |= oweOpened
		answered = true
	}
	if st.owed != 0 || st.queue.n > 0 || st.finSeen || st.flow != nil && st.flow.in.n > 0 {
		st.s.flushDue.Store(true)
		st.s.queueControl(st)
	}
	if st.bits.Load()&bitReadable != 0 {
		st.s.queueReady(st)
	}
	return answered, nil
}

// unblockLocked ends the wait for credit; it reports whether there was one.
func (st *Stream) unblockLocked() bool {
	if !st.blocked {
		return false
	}
	st.blocked = false
	st.s.starved.Add(-1)
	return true
}

// endLocked returns how the stream ended; the caller holds mu.
func (st *Stream) endLocked() *Error {
	switch {
	case st.extra != nil && st.extra.err != nil:
		return st.extra.err
	case st.gone:
		return &Error{Code: framecodec.CodeNormal}
	default:
		return &Error{Code: framecodec.CodeInternal, Text: "stream has an endpoint already"}
	}
}

// more returns the part for rarely used state; the caller holds mu.
func (st *Stream) more() *streamExtra {
	if st.extra == nil {
		st.extra = new(streamExtra)
	}
	return st.extra
}

// Readable is called by the Endpoint (Readiness).
func (st *Stream) Readable() {
	if st.bits.Or(bitReadable)&bitReadable == 0 {
		st.s.queueReady(st)
	}
}

// Writable is called by the Endpoint (Readiness).
func (st *Stream) Writable() {
	if st.bits.Load()&bitWantRoom == 0 {
		return // nothing waits
	}
	st.s.flushDue.Store(true)
	st.s.queueControl(st)
}

// StreamInfo is a snapshot of a stream for people.
type StreamInfo struct {
	ID        uint32        `json:"id"`
	Target    string        `json:"target"`
	Entry     bool          `json:"entry"`
	Opened    bool          `json:"opened"`
	Accepted  bool          `json:"-"`         // Config.Accept was asked: no refusal of the engine's own
	Sending   bool          `json:"sending"`   // our direction has not ended
	Receiving bool          `json:"receiving"` // the peer's direction has not ended
	BytesIn   uint64        `json:"bytes_in"`  // payload from the peer
	BytesOut  uint64        `json:"bytes_out"` // payload to the peer
	Queued    int           `json:"queued"`    // received and not yet delivered
	Window    uint64        `json:"window"`    // what the peer may still send; 0 in dialect 1
	Credit    uint64        `json:"credit"`    // what we may still send; likewise
	Out       Waiting       `json:"out"`       // what our direction waits for
	In        Waiting       `json:"in"`        // what the peer's waits for here
	Flow      *FlowInfo     `json:"flow,omitempty"`
	Age       time.Duration `json:"-"`
	Idle      time.Duration `json:"-"` // since a byte moved; coarse
}

// FlowInfo is what a snapshot of a flow has besides.
type FlowInfo struct {
	DatagramsIn  uint64 `json:"datagrams_in"`
	DatagramsOut uint64 `json:"datagrams_out"`
	Lost         uint64 `json:"lost"`    // sent by the peer and not arrived; some may be on the way
	Dropped      uint64 `json:"dropped"` // here: they came faster than they could go on
}

// Info returns a snapshot.
func (st *Stream) Info() StreamInfo {
	at := now()
	st.mu.Lock()
	defer st.mu.Unlock()
	var window, credit uint64
	var fl *FlowInfo
	if f := st.flow; f != nil {
		fl = &FlowInfo{DatagramsIn: f.received, DatagramsOut: f.sent, Dropped: f.dropped}
		if c, ok := st.ep.(*datagramEndpoint); ok {
			fl.Dropped += (*DatagramConn)(c).Dropped() // in its queues, towards us or from us
		}
		if f.highest > f.received {
			fl.Lost = f.highest - f.received
		}
	} else if !st.s.d1 {
		window, credit = st.granted-st.got, st.limit-st.sent
	}
	out, in := st.waitsLocked(at)
	return StreamInfo{
		Out: out, In: in,
		ID: st.num, Target: st.target.String(), Entry: st.entry, Opened: st.state.opened, Accepted: st.asked,
		Sending: st.state.send == halfOpen, Receiving: st.state.recv == halfOpen,
		BytesIn: st.got, BytesOut: st.sent, Queued: st.queue.n,
		Window: window, Credit: credit, Flow: fl,
		Age: at - st.since, Idle: max(at-st.active, 0),
	}
}
