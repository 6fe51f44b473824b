package tunnel

import "time"

// What a direction of a stream can wait for.
const (
	WaitsNothing = ""       // it moves, or has ended
	WaitsTarget  = "target" // the stream is not open yet: a dial, or the peer's answer
	WaitsCredit  = "credit" // there is something to send, and the peer grants no bytes
	WaitsRoom    = "room"   // there is something to send, and the carrier has no room
	WaitsRate    = "rate"   // there is something to send, and a limit of rate lets nothing pass
	WaitsReader  = "reader" // there is something to deliver, and the Endpoint takes nothing
	WaitsData    = "data"   // whoever sends in this direction has said nothing new
)

// Waiting is what a direction waits for, and for how long.
type Waiting struct {
	For string `json:"waits_for,omitempty"`
	// Ms is for how long, in ms: since the stream last moved a byte, since its
	// Endpoint last took one (reader), since its beginning (target). Coarse.
	Ms int64 `json:"waits_ms,omitempty"`
}

// waitsLocked says what both directions wait for; the caller holds the lock. It is
// worked out from what is kept anyway, so it costs nothing but when it is asked for.
func (st *Stream) waitsLocked(at time.Duration) (out, in Waiting) {
	wait := func(what string, since time.Duration) Waiting {
		return Waiting{what, max(at-since, 0).Milliseconds()}
	}
	if st.gone {
		return out, in
	}
	if !st.state.opened {
		out = wait(WaitsTarget, st.since)
		in = out
		return out, in
	}
	if st.state.send == halfOpen {
		out = wait(st.outWaitsLocked(), st.active)
	}
	switch {
	case st.queue.n > 0, st.flow != nil && st.flow.in.n > 0:
		since := st.moved
		if st.flow != nil {
			since = st.active
		}
		in = wait(WaitsReader, since)
	case st.state.recv == halfOpen && !st.finSeen && st.inHeldLocked():
		in = wait(WaitsRate, st.active)
	case st.state.recv == halfOpen && !st.finSeen:
		in = wait(WaitsData, st.active)
	}
	return out, in
}

// inHeldLocked: the peer has used up what it may send, and a rate keeps it from
// getting more.
func (st *Stream) inHeldLocked() bool {
	if st.rate != nil && st.rate.in.held && st.granted == st.got {
		return true
	}
	r := &st.s.recv
	return r.windowHeld.Load() && r.granted.Load() <= r.taken.Load()+uint64(max0(r.queued.Load()))
}

func (st *Stream) outWaitsLocked() string {
	if st.flow != nil {
		if st.flow.waitsRoom {
			return WaitsRoom
		}
		return WaitsData
	}
	if st.blocked {
		return WaitsCredit
	}
	if st.rate != nil && st.rate.out.held {
		return WaitsRate
	}
	s := st.s
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case !st.inReady:
		return WaitsData
	case s.waiting == waitCredit:
		return WaitsCredit // that of all streams together
	case s.waiting == waitRate:
		return WaitsRate
	case s.waiting == waitRoom:
		return WaitsRoom
	default:
		return WaitsData
	}
}
