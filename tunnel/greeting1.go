package tunnel

import (
	"time"

	"github.com/culvertgate/culvert/framecodec"
)

// A dialling side of the reference loses what reaches a new channel before its
// loop runs, an OpenConnection too: the stream would wait until its time is over.
// So a client of dialect 1 begins with Pings, and speaks when it has heard
// anything. See docs/decisions/013.

const greetingMost = 3 * time.Second // then it speaks all the same

// greet begins; the session's goroutines do not run yet.
func (s *Session) greet() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pingDue = true
	s.greeting = time.AfterFunc(probeFirst, s.greetAgain)
}

func (s *Session) greetAgain() {
	s.mu.Lock()
	defer s.mu.Unlock()
	took := now() - s.since
	switch {
	case s.ended || s.recv.helloSeen.Load():
		return
	case took >= greetingMost:
		s.recv.helloSeen.Store(true)
	default:
		s.pingDue = true
		s.greeting.Reset(min(max(took, probeFirst), probeRest, greetingMost-took))
	}
	s.wakeLocked(waitRoom)
}

// heard has a client of dialect 1 speak.
func (s *Session) heard() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.recv.helloSeen.Store(true)
	s.greeting.Stop()
	s.wakeLocked(waitRoom)
}

// appendPing1 asks nothing: who reads nothing learns by writing that the carrier
// has ended, and who has not been heard may answer.
func (s *Session) appendPing1(b []byte) []byte {
	s.mu.Lock()
	ping := s.pingDue
	s.pingDue = false
	s.mu.Unlock()
	if ping {
		b = framecodec.Ping{HasConn: true}.AppendFrame(b, s.frameWord())
	}
	return b
}
