package tunnel

import "time"

// brokenAfter is for how long a stream must have stood still before its Endpoint
// is asked whether it broke. What arrived before a reset may still be read: a
// stream that only waits for its turn gets the chance to.
const brokenAfter = 5 * time.Second

// tickBroken ends streams that could not be read for a while, for want of credit
// or of room, and whose connection has failed meanwhile.
func (s *Session) tickBroken(at time.Duration) {
	list := s.scanStreams()
	for _, st := range list {
		if broken := s.brokenSince(st, at); broken != nil {
			s.endStream(st, broken, true)
		}
	}
	clear(list)
}

func (s *Session) brokenSince(st *Stream, at time.Duration) *Error {
	st.mu.Lock()
	defer st.mu.Unlock()
	waits := st.blocked || st.bits.Load()&bitReadable != 0
	if !waits || at-st.active < brokenAfter {
		return nil
	}
	return s.brokenLocked(st)
}

// brokenLocked asks a stream's Endpoint whether it has failed; the caller holds
// the stream's lock.
func (s *Session) brokenLocked(st *Stream) *Error {
	ep, ok := st.ep.(Breaker)
	if !ok || st.gone {
		return nil
	}
	if err := ep.Broken(); err != nil {
		return s.brokenEndpoint(st, err)
	}
	return nil
}
