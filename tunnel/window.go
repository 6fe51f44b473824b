package tunnel

import (
	"time"

	"github.com/culvertgate/culvert/framecodec"
)

// Windows of dialect 2: a stream's limit keeps its queue bounded, the session
// credit keeps all queues of the tunnel within the memory that was reserved for
// it. Both follow rate x RTT, and are given as the Endpoints take bytes, not as
// bytes arrive.
const (
	streamWindowMost  = 16 << 20
	streamWindowLeast = 64 << 10 // under pressure, or while little is free
	// slowAfter is how long an Endpoint may take nothing once its kind holds more
	// than half of the session credit.
	slowAfter = 30 * time.Second
)

func (s *Session) initWindows(st *Stream) {
	st.turns = interactiveTurns
	if st.isFlow() {
		st.flow = new(flow)
		return // it has none
	}
	st.limit = s.send.credit.stream.Load()
	st.granted = uint64(s.first)
	st.window = s.first
	st.grantAt = st.since
}

// firstWindow is what a stream's Open or Opened grants.
func (st *Stream) firstWindow() uint32 {
	if st.isFlow() {
		return 0
	}
	return st.s.first
}

// streamWindowAt is the window of new streams in a session that begins with a limit of
// perSecond bytes a second for each; 0: none.
func streamWindowAt(perSecond int64) uint32 {
	if perSecond <= 0 {
		return streamWindow
	}
	return uint32(max(framecodec.MinStreamWindow, min(perSecond, streamWindow)))
}

// took accounts for n payload bytes that were delivered or dropped, and has a
// new session limit sent when half of the window is used up that does not lie in
// queues: what stands still there must not stop the rest.
func (s *Session) took(n int) {
	if s.d1 || n == 0 {
		return
	}
	taken := s.recv.taken.Add(uint64(n))
	if int64(s.recv.granted.Load()-taken) <= (s.recv.window.Load()+s.recv.queued.Load())/2 {
		s.dueSessionWindow()
	}
}

func (s *Session) dueSessionWindow() {
	if s.recv.windowHeld.Load() || s.recv.windowDue.Swap(true) {
		return
	}
	s.mu.Lock()
	s.wakeLocked(waitRoom)
	s.mu.Unlock()
}

// checkWindowLocked has a new limit sent when half of the stream's window is
// used up.
func (s *Session) checkWindowLocked(st *Stream) {
	if s.d1 || st.finSeen || st.gone || st.owed&oweWindow != 0 || st.granted-st.taken > uint64(st.window)/2 ||
		st.rate != nil && st.rate.in.held {
		return
	}
	st.owed |= oweWindow
	s.queueControl(st)
}

// appendStreamWindow grants a stream what it may have now; the caller holds its
// lock.
func (s *Session) appendStreamWindow(b []byte, st *Stream) []byte {
	at := s.send.at
	rtt := time.Duration(s.rttNanos.Load())
	switch {
	case s.cfg.Budget.Pressed():
		st.window = max(st.window/2, streamWindowLeast)
	case at-st.grantAt < rtt && st.window < streamWindowMost && (st.rate == nil || !st.rate.in.binds(at, uint64(st.window))):
		st.window = s.largerWindow(st.window)
	}
	st.window = uint32(max(streamWindowLeast, min(int64(st.window), s.eighth())))
	st.grantAt = at
	limit := st.taken + uint64(st.window)
	if st.rate != nil {
		var wait bool
		if limit, wait = grantPaced(&st.rate.in.pace, 0, st.taken, st.granted, limit); wait {
			s.hold(&st.rate.in)
		}
	}
	if limit <= st.granted {
		return b
	}
	st.granted = limit
	return framecodec.Window{Conn: st.num, Consumed: st.taken, Limit: limit}.AppendFrame(b, s.frameWord())
}

// eighth of what is free in the session: no stream is granted more, so that one
// which stands still leaves most of it to the others.
func (s *Session) eighth() int64 {
	return (s.recv.window.Load() - s.recv.queued.Load()) / 8
}

// largerWindow doubles a window; the session grows for it if it may.
func (s *Session) largerWindow(window uint32) uint32 {
	want := min(2*window, streamWindowMost)
	if s.eighth() < int64(want) {
		s.growSession()
	}
	return want
}

// share is what the session may grant at most while n more bytes are taken from
// the budgets; so much as the Hello promised it has always reserved.
func (s *Session) share(n int64) int64 {
	return max(s.cfg.Budget.share(n), MinSessionMemory)
}

// growSession doubles the session window if the budget has room, but grows it no
// further than to the tunnel's fair share where memory is short then. Only the
// sender calls it.
func (s *Session) growSession() {
	window := s.recv.window.Load()
	more := min(window, s.share(window)-window)
	if more <= 0 || !s.cfg.Budget.Reserve(more) {
		return
	}
	s.recv.reserved.Add(more)
	s.recv.window.Store(window + more)
	s.recv.windowDue.Store(true)
}

// appendSessionWindow grants session credit. The window grows while it is used
// up within two round trips or mostly lies in queues, and shrinks to the tunnel's
// fair share under pressure; credit that was given is never taken back.
func (s *Session) appendSessionWindow(b []byte) []byte {
	at := s.send.at
	window, share := s.recv.window.Load(), s.share(0)
	switch {
	case window > share:
		window = share
		s.recv.window.Store(window)
	case s.send.paced != nil && s.send.paced.in.binds(at, uint64(window)): // a larger window would carry nothing more
	case s.recv.queued.Load() > window/2, at-s.recv.grantAt < time.Duration(s.rttNanos.Load()):
		s.growSession()
		s.recv.windowDue.Store(false)
		window = s.recv.window.Load()
	}
	taken := s.recv.taken.Load()
	granted := s.recv.granted.Load()
	limit := taken + uint64(window)
	if p := s.send.paced; p != nil && p.in.bucket != nil {
		var wait bool
		limit, wait = grantPaced(&p.in, uint64(max0(s.recv.queued.Load())), taken, granted, limit)
		s.holdSession(wait)
	}
	if limit > granted {
		s.recv.grantAt = at
		s.recv.granted.Store(limit)
		granted = limit
		b = framecodec.Window{Consumed: taken, Limit: limit}.AppendFrame(b, s.frameWord())
	}
	// What the peer may still send is what has to stay reserved.
	if need := max(int64(granted-taken), window); need < s.recv.reserved.Load() {
		s.cfg.Budget.Release(s.recv.reserved.Swap(need) - need)
	}
	return b
}

// tick looks at what is bound to time. It runs on the coarse clock's goroutine.
func (s *Session) tick(at time.Duration) {
	s.mu.Lock()
	traffic := s.bytesIn.Load() + s.bytesOut.Load()
	if !s.d1 && traffic != s.lastTraffic && s.recv.helloSeen.Load() || s.recv.stalled.Load() {
		s.lastTraffic = traffic
		s.pingDue = true
		s.wakeLocked(waitRoom)
	}
	closing, held := s.closing, s.waiting >= waitCredit || len(s.held) > 0
	s.mu.Unlock()
	switch {
	case closing != nil:
		s.tickClosing(at, closing)
		return
	case !s.d1 && !s.recv.helloSeen.Load() && at-s.since > s.cfg.HelloTimeout:
		s.end(Errorf(framecodec.CodeTimeout, "the other side did not say Hello within %v", s.cfg.HelloTimeout))
		return
	}
	if s.d1 {
		s.drainedToken() // the memory that a stalled receiver waits for may be another session's
	}
	if s.cfg.IdleTimeout > 0 || s.flowsLive.Load() > 0 || s.recv.queued.Load() > 0 {
		s.tickStreams(at)
	}
	if held || s.starved.Load() > 0 {
		s.tickBroken(at)
	}
}

// tickClosing ends a closing session whose carrier takes nothing any more.
func (s *Session) tickClosing(at time.Duration, closing *Error) {
	if s.closingAt == 0 {
		s.closingAt = at
	}
	if at-s.closingAt > 2*closeGrace {
		s.end(closing)
	}
}

// scanStreams lists the streams for a tick, which clears the list behind itself.
func (s *Session) scanStreams() []*Stream {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.scan = s.allLocked(s.scan[:0])
	return s.scan
}

// tickStreams cuts streams that are idle or stalled for too long.
func (s *Session) tickStreams(at time.Duration) {
	list := s.scanStreams()
	var stalledBytes int64
	for _, st := range list {
		st.mu.Lock()
		limit := s.idleLimit(st)
		idle := limit > 0 && at-st.active > limit && st.state.opened
		stalled := st.queue.n > 0 && st.ep != nil && at-st.moved > slowAfter
		stuck := !s.d1 && s.cfg.WriteTimeout > 0 && st.queue.n > 0 && st.ep != nil && at-st.moved > s.cfg.WriteTimeout
		queued := st.queue.n
		st.mu.Unlock()
		switch {
		case stuck:
			s.endStream(st, Errorf(framecodec.CodeSlowConsumer, "no byte was taken for %v", s.cfg.WriteTimeout), true)
		case idle:
			s.endStream(st, Errorf(framecodec.CodeIdleTimeout, "no data for %v", limit), true)
		case stalled && !s.d1:
			stalledBytes += int64(queued)
		}
	}
	if stalledBytes > s.recv.window.Load()/2 {
		s.cutStalled(list, at)
	}
	clear(list)
}

// cutStalled: those who take nothing must not stop the rest.
func (s *Session) cutStalled(list []*Stream, at time.Duration) {
	for _, st := range list {
		st.mu.Lock()
		stalled := st.queue.n > 0 && st.ep != nil && at-st.moved > slowAfter
		st.mu.Unlock()
		if stalled {
			s.endStream(st, Errorf(framecodec.CodeSlowConsumer, "no byte was taken for %v, and memory is short", slowAfter), true)
		}
	}
}
