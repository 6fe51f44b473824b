package tunnel

// SetLastNumber lowers the last number of a stream, so that a test reaches it.
func (s *Session) SetLastNumber(n uint32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lastNumber = n
}
