package tunnel

import "github.com/culvertgate/culvert/framecodec"

// settleLocked moves the end of the peer's direction on: when all of it was
// delivered, the Endpoint is told. It returns true when the stream is over; the
// caller then calls completed after unlocking.
func (s *Session) settleLocked(st *Stream) bool {
	if st.gone {
		return false
	}
	if st.finSeen && st.queue.n == 0 && st.ep != nil && st.state.recv == halfOpen {
		_ = st.ep.CloseWrite() // a failure shows in the other direction
		st.state = st.state.next(eventPeerEnd)
	}
	if !st.state.over() {
		return false
	}
	st.gone = true
	st.unblockLocked()
	if s.d1 && !st.quiet {
		st.owed |= oweReset // the other side forgets the number by this
		s.queueControl(st)
	}
	return true
}

// peerEnded: no more data will come in this direction.
func (s *Session) peerEnded(st *Stream) {
	if s.markPeerEnd(st) {
		s.completed(st)
	}
}

func (s *Session) markPeerEnd(st *Stream) (over bool) {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.finSeen = true
	return s.settleLocked(st)
}

// completed lets go of a stream that ended in order.
func (s *Session) completed(st *Stream) {
	s.forget(st)
	s.guard(func() { st.ep.Close(framecodec.CodeNormal) })
	st.wakeOpening()
	s.tellEnded(st, framecodec.CodeNormal, "")
}

func (st *Stream) wakeOpening() {
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.extra != nil && st.extra.opening != nil {
		close(st.extra.opening)
		st.extra.opening = nil
	}
}

// countLive counts a stream that begins (1) or ends (-1).
func (s *Session) countLive(st *Stream, n int) {
	s.live.Add(int64(n))
	if st.isFlow() {
		s.flowsLive.Add(int32(n))
	}
}

// forget takes the stream out of the table; its number is never used again.
func (s *Session) forget(st *Stream) {
	s.countLive(st, -1)
	s.mu.Lock()
	defer s.mu.Unlock()
	st.forgotten = true
	s.unholdLocked(st)
	if st.inReady {
		s.stale++
	}
	if st.inControl {
		s.stale++
	}
	if st.num != 0 {
		table, index := s.place(st.num)
		table.remove(index)
	}
}

// endStream cuts a stream: queue dropped, Endpoint closed with the code, and the
// peer told if tell is set. It does nothing if the stream has ended.
func (s *Session) endStream(st *Stream, end *Error, tell bool) {
	st.mu.Lock()
	if st.gone {
		st.mu.Unlock()
		return
	}
	st.gone = true
	st.state = st.state.next(eventReset)
	extra := st.more()
	extra.err = end
	cancel, opening := extra.cancel, extra.opening
	extra.cancel, extra.opening = nil, nil
	dropped := st.queue.clear()
	s.clearFlow(st)
	st.unblockLocked()
	ep := st.ep
	if tell {
		st.owed |= oweReset
		s.queueControl(st)
	}
	st.mu.Unlock()
	if dropped > 0 {
		s.unqueued(dropped)
		s.took(dropped)
	}
	s.forget(st)
	// Guarded one by one: this runs for every stream of a session that ends, and
	// that may be because one of them panicked.
	if ep != nil {
		s.guard(func() { ep.Close(end.Code) })
	}
	if cancel != nil {
		s.guard(cancel)
	}
	if opening != nil {
		close(opening)
	}
	s.tellEnded(st, end.Code, end.Text)
}

// opened is the peer's answer to our Open. It returns false if none was due.
func (s *Session) opened(st *Stream, window uint64) bool {
	st.mu.Lock()
	if st.gone {
		st.mu.Unlock()
		return true
	}
	if !st.entry || st.state.opened {
		st.mu.Unlock()
		return s.d1 // there it may be said again
	}
	st.state = st.state.next(eventOpened)
	opening := st.extra.opening
	st.extra = nil // nothing of the opening is needed any more
	st.mu.Unlock()
	switch {
	case st.isFlow():
		s.queueFlow(st) // its datagrams have waited for this
	case !s.d1:
		s.raise(st, window)
	}
	if opening != nil {
		close(opening)
	}
	s.tellOpened(st)
	return true
}

// admit makes the stream of a peer's Open and has it answered later, or returns
// why not.
func (s *Session) admit(n uint32, t Target, trace string, window uint64) (Code, string) {
	if s.cfg.Accept == nil {
		return framecodec.CodeNotAllowed, "not allowed"
	}
	if t.Datagrams() && s.features.Load()&framecodec.FeatureDatagrams == 0 {
		return framecodec.CodeNotAllowed, "datagrams were not agreed upon"
	}
	st := &Stream{s: s, num: n, target: t, since: now(), active: coarseNow(), turns: interactiveTurns}
	s.initWindows(st)
	st.limit = max(st.limit, window)
	if trace != "" {
		st.extra = &streamExtra{trace: framecodec.SafeText([]byte(trace))}
	}
	if code := s.register(st); code != framecodec.CodeNormal {
		s.tellEnded(st, code, code.String()) // there is no one else to count a stream that there never was
		return code, code.String()
	}
	s.acceptKnown(st)
	return framecodec.CodeNormal, ""
}

// staleLeast is how many ended streams may wait for the sender before no new ones
// are taken: a peer that opens and does not read must not make them pile up.
const staleLeast = 1024

func (s *Session) register(st *Stream) Code {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.ended:
		return s.err.Code
	case s.closing != nil:
		return s.closing.Code
	case s.draining:
		return framecodec.CodeDraining
	case s.peersTable().n >= s.cfg.MaxStreams, s.stale >= max(s.cfg.MaxStreams, staleLeast):
		return framecodec.CodeTooManyStreams
	case s.cfg.Budget.Over():
		return framecodec.CodeOutOfMemoryBudget
	}
	s.countLive(st, 1)
	table, index := s.place(st.num)
	table.put(index, st)
	return framecodec.CodeNormal
}

// SetMaxStreams changes how many streams the peer may have open at a time;
// those that are open stay. n below 1 changes nothing. It is safe for concurrent
// use.
func (s *Session) SetMaxStreams(n int) {
	if n < 1 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cfg.MaxStreams = n
}
