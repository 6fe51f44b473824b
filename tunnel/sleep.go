package tunnel

// queueReady puts a stream with something to read into its list.
func (s *Session) queueReady(st *Stream) {
	if st.isFlow() {
		s.queueFlow(st)
		return
	}
	s.mu.Lock()
	if !st.inReady && !st.forgotten && !s.ended {
		st.inReady = true
		if st.bits.Load()&bitBulk != 0 {
			s.bulk.push(st)
		} else {
			s.interactive.push(st)
		}
	}
	s.wakeLocked(waitWork)
	s.mu.Unlock()
}

// queueControl has the sender look at what a stream owes and has left over.
func (s *Session) queueControl(st *Stream) {
	s.mu.Lock()
	s.queueControlLocked(st)
	s.mu.Unlock()
}

func (s *Session) queueControlLocked(st *Stream) {
	if !st.inControl && !st.forgotten && !s.ended {
		st.inControl = true
		s.control.push(st)
	}
	s.wakeLocked(waitRoom)
}

// wakeLocked wakes the sender if it sleeps for kind or for less.
func (s *Session) wakeLocked(kind waitKind) {
	if s.waiting == waitNothing || s.waiting > kind {
		return
	}
	s.waiting = waitNothing
	s.signal()
}

// signal leaves a token for the sender. It never blocks.
func (s *Session) signal() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// sleepForWork sleeps until there is something to do. It returns false at the
// session's end.
func (s *Session) sleepForWork(room roomKind) bool {
	s.mu.Lock()
	ready := room == roomAll && (!s.interactive.empty() || !s.bulk.empty())
	switch {
	case s.ended:
		s.mu.Unlock()
		return false
	case s.controlWaitsLocked() || ready && s.maySpeak() && s.send.credit.left(s) > 0 && !s.send.paced.waits():
		s.mu.Unlock()
		return true
	case ready && s.send.paced.waits():
		s.waiting = waitRate
	case ready:
		s.waiting = waitCredit
	case room == roomAll:
		s.waiting = waitWork
	default: // control frames went out beyond the mark; data still needs room
		s.mu.Unlock()
		return s.sleepForRoom()
	}
	s.mu.Unlock()
	return s.sleep()
}

// sleepForRoom sleeps until the carrier has room again, or control frames wait.
func (s *Session) sleepForRoom() bool {
	full := s.carrier.Buffered() >= s.send.marks.mark+controlReserve
	s.send.dead = false
	s.mu.Lock()
	if s.ended {
		s.mu.Unlock()
		return false
	}
	if !full && s.controlWaitsLocked() || s.flushDue.Load() { // came since it was looked for
		s.mu.Unlock()
		return true
	}
	s.waiting = waitRoom
	s.mu.Unlock()
	low := s.send.marks.low()
	s.send.roomTold.Store(false)
	s.carrier.NotifyLow(low, s.poke)
	from := now()
	more := s.sleep()
	s.blockedNanos.Add(int64(now() - from))
	s.send.dead = s.send.roomTold.Load() && s.carrier.Buffered() > low
	return more
}

// hasRoom is what the carrier calls when it has room, or has ended.
func (s *Session) hasRoom() {
	s.send.roomTold.Store(true)
	s.signal()
}

func (s *Session) sleep() bool {
	if s.send.paced != nil {
		if !s.sleepPaced() {
			return false
		}
	} else {
		select {
		case <-s.wake:
		case <-s.done:
			return false
		}
	}
	s.mu.Lock()
	s.waiting = waitNothing
	s.mu.Unlock()
	return true
}
