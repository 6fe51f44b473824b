package tunnel

// SetLastNumber lowers the last number of a stream, so that a test reaches it.
func (s *Session) SetLastNumber(n uint32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lastNumber = n
}

// Held is how many directions of streams wait for their rate.
func (s *Session) Held() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.held)
}

// AlarmIsSet reports whether a session at rest, in a bubble of synctest, has
// something to look at for the sake of a rate.
func (s *Session) AlarmIsSet() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.waiting == waitRate || s.recv.windowHeld.Load() || len(s.held) > 0
}
