package tunnel

// SetLastNumber lowers the last number of a stream, so that a test reaches it.
func (s *Session) SetLastNumber(n uint32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lastNumber = n
}

// LargestControl is what every control frame is held to.
const LargestControl = largestControl

// Owe leaves a reply as the receiver does.
func (s *Session) Owe(m frameAppender) error {
	if err := s.owe(m); err != nil {
		return err
	}
	return nil
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

// Unsent is how many datagrams the flow has not taken yet.
func (c *DatagramConn) Unsent() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.out.Len()
}
