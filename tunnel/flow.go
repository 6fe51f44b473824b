package tunnel

import (
	"context"
	"time"

	"github.com/culvertgate/culvert/framecodec"
)

// A flow is a Stream whose target takes datagrams: the same opening, policy,
// limits and codes, but no windows and no order. Its datagrams travel on the
// session's datagram carrier, see AttachDatagrams; SPEC.md section 3.5.

// flow is what a Stream has besides if it is one. The stream's lock guards it.
type flow struct {
	in        DatagramQueue // from the peer, for the Endpoint
	out       DatagramQueue // from the Endpoint, while the carrier has no room
	sent      uint64        // datagrams given to the carrier: the next counter
	received  uint64        // datagrams that arrived
	highest   uint64        // counter of the newest one that arrived, plus 1
	dropped   uint64        // on this side, in either direction
	waitsRoom bool          // in the list of those that wait for room
}

// isFlow reports whether the stream carries datagrams.
func (st *Stream) isFlow() bool { return st.target.Datagrams() }

// takesFlows is whether a flow can be had in this session, once both Hellos have
// passed.
func (s *Session) takesFlows() *Error {
	switch {
	case s.d1:
		return Errorf(framecodec.CodeNotAllowed, "dialect 1 carries no datagrams")
	case s.features.Load()&framecodec.FeatureDatagrams == 0:
		return Errorf(framecodec.CodeNotAllowed, "the other side carries no datagrams")
	}
	return nil
}

// awaitFlows waits until it is known whether the other side carries datagrams, if
// the target is one for them.
func (s *Session) awaitFlows(ctx context.Context, t Target) *Error {
	if !t.Datagrams() {
		return nil
	}
	select {
	case <-s.ready:
		return s.takesFlows()
	case <-s.done:
		return nil // admitOpen knows why
	case <-ctx.Done():
		return &Error{Code: CodeOf(ctx.Err()), Text: "gave up waiting for the other side", Err: ctx.Err()}
	}
}

// onDatagram takes a datagram of the peer's. What belongs to no flow that is open
// here is dropped and counted: the carrier keeps no order with the frames that
// open and end flows.
func (s *Session) onDatagram(f framecodec.Frame) {
	st := s.stream(f.Conn)
	if st == nil {
		s.stray.Add(1)
		return
	}
	if end := s.takeDatagram(st, f); end != nil {
		s.endStream(st, end, true)
	}
}

func (s *Session) takeDatagram(st *Stream, f framecodec.Frame) *Error {
	st.mu.Lock()
	defer st.mu.Unlock()
	switch {
	case st.gone:
		s.stray.Add(1)
		return nil
	case st.flow == nil:
		return Errorf(framecodec.CodeProtocolError, "a datagram for a stream that carries none")
	case len(f.Payload) > MaxDatagram:
		return Errorf(framecodec.CodeProtocolError, "a datagram of %d bytes", len(f.Payload))
	}
	fl := st.flow
	fl.received++
	fl.highest = max(fl.highest, f.Word+1)
	st.got += uint64(len(f.Payload))
	st.active = coarseNow()
	s.datagramsIn.Add(1)
	if !s.passesDatagram(st, len(f.Payload), true) {
		s.dropDatagram(fl)
		return nil
	}
	if st.ep != nil && fl.in.Len() == 0 {
		done, broken := s.writeDatagram(st, f.Payload)
		if done || broken != nil {
			return broken
		}
	}
	s.keepDatagram(fl, &fl.in, f.Payload)
	return nil
}

// dropDatagram counts one that is dropped; the caller holds the stream's lock.
func (s *Session) dropDatagram(fl *flow) {
	fl.dropped++
	s.datagramsDropped.Add(1)
}

// keepDatagram queues a datagram, unless memory is short: then it is dropped.
// What a queue may hold is small, but a tunnel may have thousands of them.
func (s *Session) keepDatagram(fl *flow, q *DatagramQueue, p []byte) {
	before, dropped := q.Bytes(), 1
	if hasMemory(s.cfg.Budget, p) {
		dropped = q.Push(p)
	}
	q.charge(s.cfg.Budget, before)
	fl.dropped += uint64(dropped)
	s.datagramsDropped.Add(uint64(dropped))
}

// writeDatagram gives a datagram to the Endpoint; done is false if that has no
// room and will tell Writable. The caller holds the stream's lock.
func (s *Session) writeDatagram(st *Stream, p []byte) (done bool, _ *Error) {
	for wanted := false; ; wanted = true {
		_, err := st.ep.TryWrite(p)
		switch {
		case err == nil:
			if wanted {
				st.bits.And(^bitWantRoom)
			}
			return true, nil
		case err != ErrWouldBlock: //nolint:errorlint // a sentinel that is never wrapped
			return false, s.brokenEndpoint(st, err)
		case wanted:
			return false, nil
		}
		st.bits.Or(bitWantRoom) // before the last attempt, so that no Writable is missed
	}
}

// flushFlowLocked writes what waits for the Endpoint; the caller holds the
// stream's lock.
func (s *Session) flushFlowLocked(st *Stream) *Error {
	fl := st.flow
	if fl == nil {
		return nil
	}
	for fl.in.Len() > 0 {
		done, broken := s.writeDatagram(st, fl.in.Front())
		if broken != nil {
			return broken
		}
		if !done {
			return nil
		}
		before := fl.in.Bytes()
		fl.in.Drop()
		fl.in.charge(s.cfg.Budget, before)
	}
	return nil
}

// clearFlow drops what waits in a flow that ends; the caller holds the stream's
// lock.
func (s *Session) clearFlow(st *Stream) {
	fl := st.flow
	if fl == nil {
		return
	}
	s.cfg.Budget.Release(int64(fl.in.Bytes() + fl.out.Bytes()))
	dropped := uint64(fl.in.Clear() + fl.out.Clear())
	fl.dropped += dropped
	s.datagramsDropped.Add(dropped)
}

// idleLimit is after how long without data a stream ends; 0: never.
func (s *Session) idleLimit(st *Stream) time.Duration {
	if st.isFlow() {
		return s.cfg.FlowIdleTimeout
	}
	return s.cfg.IdleTimeout
}
