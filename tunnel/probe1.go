package tunnel

import (
	"encoding/binary"
	"time"

	"github.com/culvertgate/culvert/framecodec"
)

// The reference's listening side sends OpenConnection before it enters the number
// in its own table, and drops what it is told of it until then: an answer that is
// faster loses its beginning, or its end, without a word. It answers a Ping for a
// number only once it knows that number. So in dialect 1 the exit asks, and
// dials when it has heard. See docs/decisions/013.

const (
	probeFirst = 10 * time.Millisecond  // until the question is asked again; doubles each time
	probeRest  = 160 * time.Millisecond // up to this
	// Then the stream is accepted all the same: a peer that has never answered may
	// not know the question. One that has is busy: the reference's loop stands still
	// for three seconds when it closes a connection whose client stays.
	probeUnknown  = 250 * time.Millisecond
	probeAnswered = 5 * time.Second
	// longPath is a round trip behind which no answer is too fast: there no stream
	// waits for a second one.
	longPath = 20 * time.Millisecond
	// pathSamples is how many probes all have to say so: one may be late for a
	// peer's own reasons.
	pathSamples = 8
)

// path1 is what probes have told of the path.
type path1 struct {
	least   time.Duration
	samples int
}

func (p *path1) took(d time.Duration) {
	if p.samples == 0 || d < p.least {
		p.least = d
	}
	p.samples++
}

func (p *path1) long() bool { return p.samples >= pathSamples && p.least >= longPath }

// probe1 is what there is to a stream while its opener is asked.
type probe1 struct {
	timer *time.Timer
	wait  time.Duration
}

// acceptKnown has a stream accepted as soon as its opener knows its number. The
// caller is the receiver.
func (s *Session) acceptKnown(st *Stream) {
	if !s.d1 || s.recv.unanswering.Load() && !s.recv.answering.Load() || !s.ask(st, s.recv.path.long()) {
		s.accept(st)
	}
}

// accept hands a stream over, if it has not ended meanwhile.
func (s *Session) accept(st *Stream) {
	st.mu.Lock()
	st.asked = !st.gone
	asked := st.asked
	st.mu.Unlock()
	if asked {
		s.cfg.Accept(&Incoming{st})
	}
}

// ask sends a probe; waits: the stream is accepted at its answer. On a long path
// it only goes on measuring.
func (s *Session) ask(st *Stream, long bool) (waits bool) {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.owed |= owePing
	s.queueControl(st)
	if long || st.gone { // gone: the session has ended meanwhile
		return false
	}
	p := &probe1{wait: probeFirst}
	st.more().probe = p
	st.extra.cancel = func() { p.timer.Stop() }
	p.timer = time.AfterFunc(p.wait, func() { s.probeAgain(st) })
	return true
}

// probeAgain asks once more, or accepts the stream of a peer that does not
// answer.
func (s *Session) probeAgain(st *Stream) {
	if s.stillAsks(st) {
		return
	}
	s.recv.unanswering.Store(true) // counts only if it has never answered
	s.guard(func() { s.known(st) })
}

func (s *Session) stillAsks(st *Stream) bool {
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.gone || st.extra == nil || st.extra.probe == nil {
		return true // it is over
	}
	most := probeUnknown
	if s.recv.answering.Load() {
		most = probeAnswered
	}
	left := most - (now() - st.since)
	if left <= 0 {
		return false
	}
	p := st.extra.probe
	p.wait = min(2*p.wait, probeRest)
	p.timer.Reset(min(p.wait, left))
	st.owed |= owePing
	s.queueControl(st)
	return true
}

// known accepts a stream that waited for this.
func (s *Session) known(st *Stream) {
	st.mu.Lock()
	asked := !st.gone && st.extra != nil && st.extra.probe != nil
	if asked {
		st.extra.probe.timer.Stop()
		st.extra.probe, st.extra.cancel = nil, nil
	}
	st.mu.Unlock()
	if asked {
		s.accept(st)
	}
}

// probeFrame is the question; its clock comes back.
func probeFrame(n uint32) framecodec.Ping {
	return framecodec.Ping{HasConn: true, Conn: n, Extra: binary.BigEndian.AppendUint64(nil, uint64(now()))}
}

func (s *Session) onPong1(data []byte) {
	m, err := framecodec.ParsePong(data)
	if err != nil || m.Conn == 0 {
		return // answers nothing that was asked
	}
	s.recv.answering.Store(true)
	if len(m.Extra) == 8 {
		s.recv.path.took(now() - time.Duration(binary.BigEndian.Uint64(m.Extra)))
	}
	if st := s.known1(m.Conn); st != nil {
		s.known(st)
	}
}
