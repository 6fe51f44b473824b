package tunnel

import (
	"context"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/culvertgate/culvert/framecodec"
)

// Dialect is the rule set of the frames; SPEC.md.
type Dialect uint8

// The dialects.
const (
	Dialect1 Dialect = 1 // the reference system's
	Dialect2 Dialect = 2 // ours
)

// Role says which side of the association this is.
type Role uint8

// The roles.
const (
	RoleClient  Role = iota // made the offer; opens streams, speaks first
	RoleGateway             // answered it; is asked for streams
)

// waitKind is what the sender sleeps for.
type waitKind uint8

const (
	waitNothing waitKind = iota // it is awake
	waitWork                    // anything to send
	waitCredit                  // control frames, or session credit
	waitRate                    // control frames, or its time
	waitRoom                    // room in the carrier
)

// Session is the frame engine on one carrier: stream table, windows, scheduler.
//
// Two goroutines: the receiver reads messages, parses frames in place and writes
// payloads to Endpoints; the sender is the only writer to the carrier and the
// only reader of Endpoints. Neither is there for the sake of one stream. A carrier
// for datagrams has two of the same kind, for the flows.
//
// Lock order: Stream.mu, then Session.mu. Neither is held during calls to the
// Carrier, the Observer or Accept; of an Endpoint only TryRead, TryWrite and
// CloseWrite are called under Stream.mu.
type Session struct {
	carrier  Carrier
	cfg      Config
	observer Observer
	d1       bool
	client   bool
	first    uint32                // window of a new stream (dialect 2)
	rates    atomic.Pointer[Rates] // nil: no limit

	wake  chan struct{} // one token: the sender has something to look at
	poke  func()        // hasRoom, as a value that is made once
	room  chan struct{} // one token: the receiver may go on
	done  chan struct{} // closed at the end
	over  chan struct{} // closed when all streams have been told of it
	ready chan struct{} // closed when both Hellos have passed
	away  chan struct{} // closed when the peer takes no new streams
	wg    sync.WaitGroup

	table   streamTable  // of the client's numbers; in dialect 1 of all
	reverse streamTable  // of the gateway's (dialect 2)
	live    atomic.Int64 // streams, numbered or not

	mu sync.Mutex
	// Guarded by mu.
	interactive readyList
	bulk        readyList
	flows       readyList
	control     controlList
	datagrams   *datagrams // nil while there is no carrier for datagrams
	waiting     waitKind
	replies     []byte // frames owed to the peer that no stream keeps: Pong, refusals
	pingDue     bool
	goAway      *framecodec.GoAway // to be sent
	services    services
	closing     *Error // to be sent, then the end
	draining    bool   // no new streams from the peer
	refusing    *Error // the peer takes no new streams
	ended       bool
	helloHalf   bool        // one of the two Hellos has passed
	greeting    *time.Timer // of a client of dialect 1
	stale       int         // places in the three lists that forgotten streams still take
	err         *Error
	scan        []*Stream // reused by tick
	held        heldHeap

	send sendState
	recv recvState

	// Counters; each is written by one goroutine.
	bytesIn, bytesOut   atomic.Uint64
	framesIn, framesOut atomic.Uint64
	blockedNanos        atomic.Int64
	windowBlocked       atomic.Uint64
	stray               atomic.Uint64
	datagramsIn         atomic.Uint64
	datagramsOut        atomic.Uint64
	datagramsDropped    atomic.Uint64
	flowsLive           atomic.Int32
	features            atomic.Uint32 // that both sides named
	starved             atomic.Int32  // streams that wait for credit
	flushDue            atomic.Bool   // a stream in the control list may write leftovers
	rttNanos            atomic.Int64  // smoothed
	minRTTNanos         atomic.Int64
	lastTraffic         uint64        // tick's own
	closingAt           time.Duration // likewise
	since               time.Duration
	lastNumber          uint32       // of a stream; tests lower it
	running             atomic.Int32 // goroutines
}

// NewSession starts a session on a carrier, which it owns from now on.
func NewSession(c Carrier, cfg Config) *Session {
	cfg = cfg.withDefaults()
	s := &Session{
		carrier: c, cfg: cfg, observer: cfg.Observer,
		d1: cfg.Dialect == Dialect1, client: cfg.Role == RoleClient,
		wake: make(chan struct{}, 1), room: make(chan struct{}, 1),
		done: make(chan struct{}), over: make(chan struct{}), ready: make(chan struct{}), away: make(chan struct{}),
		since: now(), lastNumber: lastNumber,
	}
	s.poke = s.hasRoom
	s.running.Store(2)
	if cfg.Rates.limited() {
		s.rates.Store(&cfg.Rates)
	}
	s.send.init(s)
	s.recv.init(s)
	if s.d1 {
		close(s.ready)
		if s.client {
			s.greet()
		}
	}
	clock.add(s)
	s.wg.Add(2)
	go s.run(s.runReceiver)
	go s.run(s.runSender)
	return s
}

// run is the frame of both goroutines: whatever ends one ends the session.
func (s *Session) run(loop func() *Error) {
	defer s.wg.Done()
	defer func() {
		if s.running.Add(-1) == 0 {
			s.recv.release(s)
		}
	}()
	var err *Error
	s.guard(func() { err = loop() })
	if err != nil {
		s.end(err)
	}
}

// guard turns a panic of f into the end of this session and of nothing else.
func (s *Session) guard(f func()) {
	defer s.recovered()
	f()
}

// recovered is deferred around every call into code that is not the engine's.
func (s *Session) recovered() {
	if v := recover(); v != nil {
		s.observer.Panicked(v, debug.Stack())
		s.end(&Error{Code: framecodec.CodeInternal, Text: "the session failed"})
	}
}

func (s *Session) tellOpened(st *Stream) {
	defer s.recovered()
	s.observer.StreamOpened(st)
}

func (s *Session) tellEnded(st *Stream, code Code, text string) {
	defer s.recovered()
	s.observer.StreamEnded(st, code, text)
}

// Ready is closed when streams can be used: both Hellos have passed.
func (s *Session) Ready() <-chan struct{} { return s.ready }

// Away is closed when no new stream can be opened any more (GoAway, Close).
func (s *Session) Away() <-chan struct{} { return s.away }

// Done is closed at the session's end.
func (s *Session) Done() <-chan struct{} { return s.done }

// Wait returns when the session has ended, its goroutines too, and the Observer
// knows of the end of every stream that the session's end has cut. The Observer
// must not call it.
func (s *Session) Wait() {
	s.wg.Wait()
	<-s.over // the clock may have ended it
}

// Err returns how the session ended, nil while it runs.
func (s *Session) Err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err == nil {
		return nil
	}
	return s.err
}

// Dialect returns the session's dialect.
func (s *Session) Dialect() Dialect { return s.cfg.Dialect }

// OpenOptions are the optional parts of an Open.
type OpenOptions struct {
	// Trace is a W3C traceparent for the logs of the other side, or "".
	Trace string
}

// Open asks the peer for a stream and waits for its answer. ep may be nil: then
// the stream waits for Attach, and what arrives meanwhile waits within the
// window. With an Endpoint, data follows the Open at once. On error the Endpoint
// has been closed; the error is an *Error, or the context's.
func (s *Session) Open(ctx context.Context, t Target, ep Endpoint) (*Stream, error) {
	return s.OpenWith(ctx, t, ep, OpenOptions{})
}

// OpenWith is Open with options.
func (s *Session) OpenWith(ctx context.Context, t Target, ep Endpoint, opt OpenOptions) (*Stream, error) {
	opening := make(chan struct{})
	st := &Stream{s: s, entry: true, target: t, since: now(), active: coarseNow(),
		extra: &streamExtra{opening: opening, trace: opt.Trace}}
	s.initWindows(st)
	err := s.awaitFlows(ctx, t)
	if err == nil {
		err = s.admitOpen(st, t)
	}
	if err != nil {
		if ep != nil {
			ep.Close(err.Code)
		}
		return nil, err
	}
	if ep != nil {
		if err := st.Attach(ep); err != nil {
			return nil, err
		}
	}
	select {
	case <-opening:
	case <-ctx.Done():
		s.endStream(st, &Error{Code: CodeOf(ctx.Err()), Text: "gave up waiting for the other side", Err: ctx.Err()}, true)
		<-opening
	}
	st.mu.Lock()
	defer st.mu.Unlock()
	if !st.state.opened || st.extra != nil && st.extra.err != nil && ctx.Err() != nil {
		return nil, st.endLocked()
	}
	return st, nil
}

// admitOpen queues the Open of a new stream, unless none can be had.
func (s *Session) admitOpen(st *Stream, t Target) *Error {
	if len(t.Host) > framecodec.MaxHost {
		return Errorf(framecodec.CodeUnknownTarget, "the target's name is longer than %d bytes", framecodec.MaxHost)
	}
	st.mu.Lock()
	defer st.mu.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.takesNoneLocked(); err != nil {
		return err
	}
	if !s.client && s.features.Load()&framecodec.FeatureReverse == 0 {
		return Errorf(framecodec.CodeNotAllowed, "the client takes no streams")
	}
	s.countLive(st, 1)
	st.owed |= oweOpen
	s.queueControlLocked(st)
	return nil
}

// GoAway tells the peer that no new streams are taken; those that run go on.
// The deadline is what the peer is told of how long they may.
func (s *Session) GoAway(code Code, deadline time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.draining || s.ended {
		return
	}
	s.draining = true
	if !s.d1 {
		ms := min(max(deadline.Milliseconds(), 0), 1<<31)
		s.goAway = &framecodec.GoAway{Code: code, Deadline: uint32(ms)}
		s.wakeLocked(waitRoom)
	}
}

// Close ends the session: streams end with code at once, the peer is told, and
// the carrier is closed when the peer has all of it or after two seconds. It
// does not wait; Done tells.
func (s *Session) Close(code Code, text string) {
	if code == framecodec.CodeNormal {
		code = framecodec.CodeTunnelClosed
	}
	err := &Error{Code: code, Text: text}
	s.mu.Lock()
	if s.closing != nil || s.ended {
		s.mu.Unlock()
		return
	}
	s.closing = err
	s.refuseOpensLocked(err)
	if s.d1 {
		s.recv.helloSeen.Store(true) // whoever has not been heard may hear this
	}
	s.mu.Unlock()
	for _, st := range s.everyStream() {
		s.endStream(st, err, false)
	}
	s.mu.Lock()
	s.wakeLocked(waitRoom)
	s.mu.Unlock()
}

// end is the end of everything, whoever saw it first.
func (s *Session) end(err *Error) {
	s.mu.Lock()
	if s.ended {
		s.mu.Unlock()
		return
	}
	s.ended = true
	if s.greeting != nil {
		s.greeting.Stop()
	}
	if s.closing != nil {
		err = s.closing
	}
	s.err = err
	s.mu.Unlock()
	clock.remove(s)
	s.endServices(err)
	defer close(s.over)
	close(s.done)
	for _, st := range s.everyStream() {
		s.endStream(st, err, false)
	}
	s.guard(func() { _ = s.carrier.Close(err.Code) }) // it is gone either way
	s.mu.Lock()
	d := s.datagrams
	s.mu.Unlock()
	if d != nil {
		s.guard(func() { _ = d.carrier.Close(err.Code) })
	}
}

// everyStream lists all streams, those without a number too.
func (s *Session) everyStream() []*Stream {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := s.allLocked(nil)
	for st := s.control.head; st != nil; st = st.controlNext {
		list = append(list, st)
	}
	return list
}

// Stream returns the stream with that number, or nil.
func (s *Session) Stream(n uint32) *Stream {
	return s.stream(n)
}

// Streams returns a snapshot of all numbered streams.
func (s *Session) Streams() []StreamInfo {
	s.mu.Lock()
	list := s.allLocked(nil)
	s.mu.Unlock()
	infos := make([]StreamInfo, len(list))
	for i, st := range list {
		infos[i] = st.Info()
	}
	return infos
}

// EachStream calls f for every numbered stream, without a lock held.
func (s *Session) EachStream(f func(*Stream)) {
	s.mu.Lock()
	list := s.allLocked(nil)
	s.mu.Unlock()
	for _, st := range list {
		f(st)
	}
}

// SessionStats are the counters of a session.
type SessionStats struct {
	Streams       int           // open now
	BytesIn       uint64        // payload
	BytesOut      uint64        // payload
	FramesIn      uint64        // all frames
	FramesOut     uint64        // all frames
	Queued        int64         // bytes received and not yet delivered
	RTT           time.Duration // smoothed; 0 before the first measurement
	Blocked       time.Duration // that the sender waited for room in the carrier
	WindowBlocked uint64        // times that a stream had data and no credit
	Stray         uint64        // data frames for streams, or directions, that had ended

	DatagramsIn, DatagramsOut uint64
	DatagramsDropped          uint64 // here, because they came faster than they could go on
}

// Stats returns the counters.
func (s *Session) Stats() SessionStats {
	return SessionStats{
		Streams: int(s.live.Load()),
		BytesIn: s.bytesIn.Load(), BytesOut: s.bytesOut.Load(),
		FramesIn: s.framesIn.Load(), FramesOut: s.framesOut.Load(),
		Queued: s.recv.queued.Load(), RTT: time.Duration(s.rttNanos.Load()),
		Blocked:       time.Duration(s.blockedNanos.Load()),
		WindowBlocked: s.windowBlocked.Load(), Stray: s.stray.Load(),
		DatagramsIn: s.datagramsIn.Load(), DatagramsOut: s.datagramsOut.Load(),
		DatagramsDropped: s.datagramsDropped.Load(),
	}
}
