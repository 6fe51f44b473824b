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
