package tunnel

import (
	"errors"
	"sync/atomic"
	"time"

	"github.com/culvertgate/culvert/framecodec"
	"github.com/culvertgate/culvert/internal/faultpoint"
)

// recvState belongs to the receiver goroutine, but for what is atomic.
type recvState struct {
	maxPayload int
	partial    []byte // of a frame that spans messages; nil while there is none
	sequence   uint64 // of the next control frame due (dialect 2)
	highest    uint32 // highest number that the peer has opened (dialect 2)
	numbers    *numbers1
	told       [32]uint32
	toldAt     int
	path       path1 // how long probes take (dialect 1)
	closed     bool  // the peer has ended the session

	helloSeen  atomic.Bool   // in dialect 1: a client has heard anything
	highestOwn atomic.Uint32 // highest number that we have opened
	total      uint64        // payload bytes received (dialect 2)
	taken      atomic.Uint64 // of those, delivered or dropped
	granted    atomic.Uint64 // session credit given
	window     atomic.Int64  // session window; the sender's to change
	windowDue  atomic.Bool
	windowHeld atomic.Bool   // the rate allows no more: the sender knows when
	grantAt    time.Duration // the sender's own
	queued     atomic.Int64  // bytes in all leftover queues
	reserved   atomic.Int64  // taken from the budget
	drained    chan struct{} // one token: a queue became shorter (dialect 1)
	stalled    atomic.Bool   // it reads nothing until one does

	answering   atomic.Bool // the peer has answered a probe (dialect 1)
	unanswering atomic.Bool // it had the time once, and did not: unless answering, it is asked no more
}

func (r *recvState) init(s *Session) {
	r.drained = make(chan struct{}, 1)
	s.cfg.Budget.join()
	if s.d1 {
		r.maxPayload = framecodec.MaxPayload1
		r.numbers = new(numbers1)
		return
	}
	r.maxPayload = framecodec.MaxPayload2
	s.first = streamWindowAt(s.cfg.Rates.Stream)
	r.window.Store(MinSessionMemory)
	r.granted.Store(MinSessionMemory)
	r.reserved.Store(MinSessionMemory)
	s.cfg.Budget.Force(MinSessionMemory)
}

// release gives back what the budget lent, when neither goroutine can take more.
// In dialect 1 each queue has given back its own.
func (r *recvState) release(s *Session) {
	s.cfg.Budget.leave()
	if s.d1 {
		return
	}
	s.cfg.Budget.Release(r.reserved.Swap(0))
}

// runReceiver is the receiver goroutine. It holds a buffer only while there is a
// message to read.
func (s *Session) runReceiver() *Error {
	for {
		if err := s.carrier.Wait(); err != nil {
			return s.carrierGone(err)
		}
		faultpoint.Here(faultpoint.SessionReceiver)
		buf := receivePool.Get().(*receiveBuf)
		n, err := s.carrier.ReadMessage(buf[:])
		var fault *Error
		if err != nil {
			fault = s.carrierGone(err)
		} else {
			fault = s.message(buf[:n])
		}
		receivePool.Put(buf)
		if fault != nil {
			return s.fault(fault)
		}
	}
}

// carrierGone is how the session ends when its carrier does.
func (s *Session) carrierGone(err error) *Error {
	s.mu.Lock()
	closing := s.closing
	s.mu.Unlock()
	if closing != nil {
		return closing
	}
	return carrierError(err)
}

// fault is the end of the receiver. When the peer broke a rule it is told
// which; the sender then ends the session. A Close of the peer's is not answered.
func (s *Session) fault(err *Error) *Error {
	if err.Code != framecodec.CodeProtocolError || s.recv.closed {
		return err
	}
	s.Close(err.Code, err.Text)
	return nil
}

// message takes the frames of a message in place. A frame may span messages:
// its beginning is kept, and is bounded since its length was checked first.
func (s *Session) message(msg []byte) *Error {
	if s.d1 && s.client && !s.recv.helloSeen.Load() {
		s.heard()
	}
	kept := s.recv.partial
	if kept == nil {
		rest, fault := s.frames(msg)
		if len(rest) > 0 {
			s.recv.partial = append([]byte(nil), rest...)
		}
		return fault
	}
	kept = append(kept, msg...)
	rest, fault := s.frames(kept)
	switch len(rest) {
	case 0:
		s.recv.partial = nil // nothing is held while idle
	case len(kept):
		s.recv.partial = kept
	default:
		s.recv.partial = append([]byte(nil), rest...)
	}
	return fault
}

// frames handles all whole frames of data and returns what is behind them.
func (s *Session) frames(data []byte) ([]byte, *Error) {
	var f framecodec.Frame
	for len(data) > 0 {
		n, err := f.Parse(data, s.recv.maxPayload)
		if err != nil {
			if errors.Is(err, framecodec.ErrShort) {
				break
			}
			return nil, Errorf(framecodec.CodeProtocolError, "%w", err)
		}
		data = data[n:]
		s.framesIn.Add(1)
		if fault := s.frame(f); fault != nil {
			return nil, fault
		}
	}
	return data, nil
}

func (s *Session) frame(f framecodec.Frame) *Error {
	switch {
	case f.Conn != 0:
		return s.data(f)
	case s.d1:
		return s.control1(f.Payload)
	default:
		return s.control2(f.Word, f.Payload)
	}
}

// data takes a data frame.
func (s *Session) data(f framecodec.Frame) *Error {
	s.bytesIn.Add(uint64(len(f.Payload)))
	if s.d1 {
		return s.data1(f)
	}
	if !s.recv.helloSeen.Load() {
		return Errorf(framecodec.CodeProtocolError, "data before Hello")
	}
	s.recv.total += uint64(len(f.Payload))
	if s.recv.total > s.recv.granted.Load() {
		return Errorf(framecodec.CodeProtocolError, "session credit exceeded")
	}
	st, fault := s.lookup(f.Conn)
	if st == nil {
		if fault == nil {
			s.stray.Add(1)
			s.took(len(f.Payload))
		}
		return fault
	}
	s.deliver(st, f)
	return nil
}

// deliver hands a payload to the stream's Endpoint; what it does not take waits
// in the stream's queue, bounded by the window.
func (s *Session) deliver(st *Stream, f framecodec.Frame) {
	took, stalled, end := s.writeStream(st, f)
	s.took(took)
	switch {
	case end != nil:
		s.endStream(st, end, true)
	case stalled:
		s.stall(st)
	}
}

// writeStream returns how many bytes no longer count against the session credit,
// whether the receiver has to stop for the stream, and how it ends if it does.
func (s *Session) writeStream(st *Stream, f framecodec.Frame) (took int, stalled bool, end *Error) {
	p := f.Payload
	st.mu.Lock()
	defer st.mu.Unlock()
	if fault := s.checkDataLocked(st, f); fault != nil {
		return len(p), false, fault
	}
	if st.state.recv != halfOpen { // gone; in dialect 1 also behind an end that the Endpoint was told
		s.stray.Add(1)
		return len(p), false, nil
	}
	st.got += uint64(len(p))
	st.active = coarseNow()
	n := 0
	if st.queue.n == 0 && st.ep != nil && len(p) > 0 {
		var broken *Error
		if n, broken = s.tryWrite(st, p); broken != nil {
			return len(p), false, broken
		}
	}
	if n < len(p) {
		stalled = s.keepLocked(st, p[n:])
	}
	if n > 0 {
		st.taken += uint64(n)
		s.checkWindowLocked(st)
	}
	return n, stalled, nil
}

// checkDataLocked holds a data frame against the stream's state.
func (s *Session) checkDataLocked(st *Stream, f framecodec.Frame) *Error {
	if s.d1 || st.gone {
		return nil
	}
	switch {
	case st.flow != nil:
		return Errorf(framecodec.CodeProtocolError, "a datagram on the channel of the streams")
	case st.finSeen:
		return Errorf(framecodec.CodeProtocolError, "data behind Finish")
	case st.entry && !st.state.opened:
		return Errorf(framecodec.CodeProtocolError, "data before Opened")
	case f.Word != st.got:
		return Errorf(framecodec.CodeProtocolError, "data at offset %d where %d was due", f.Word, st.got)
	case st.got+uint64(len(f.Payload)) > st.granted:
		return Errorf(framecodec.CodeProtocolError, "stream credit exceeded")
	}
	return nil
}

// tryWrite gives p to the Endpoint until it takes no more. bitWantRoom is set
// before the last attempt, so that no Writable can be missed; the caller holds
// the stream's lock.
func (s *Session) tryWrite(st *Stream, p []byte) (int, *Error) {
	done := 0
	for wanted := false; ; {
		n, err := st.ep.TryWrite(p[done:])
		done += n
		if err != nil && err != ErrWouldBlock { //nolint:errorlint // a sentinel that is never wrapped
			return done, s.brokenEndpoint(st, err)
		}
		if done == len(p) {
			if wanted {
				st.bits.And(^bitWantRoom)
			}
			return done, nil
		}
		if wanted && n == 0 {
			return done, nil
		}
		wanted = true
		st.bits.Or(bitWantRoom)
	}
}

// keepLocked queues what the Endpoint did not take. It returns true when the
// receiver has to stop for it (dialect 1).
func (s *Session) keepLocked(st *Stream, p []byte) (stall bool) {
	if st.queue.n == 0 {
		st.moved = coarseNow()
	}
	st.queue.append(p)
	queued := s.recv.queued.Add(int64(len(p)))
	if s.d1 {
		s.cfg.Budget.Force(int64(len(p)))
		return st.queue.n > queue1 || s.cfg.Budget.Free(1) == 0
	}
	// The sender looks whether there can be more. A rate grants no more in advance
	// than what stands still may use up without half a window being in queues.
	if queued > s.recv.window.Load()/2 || s.recv.granted.Load()-s.recv.total <= streamWindowLeast {
		s.dueSessionWindow()
	}
	return false
}

// flushLocked writes leftovers; the caller holds the stream's lock.
func (s *Session) flushLocked(st *Stream) *Error {
	st.bits.And(^bitWantRoom)
	if st.gone || st.ep == nil {
		return nil
	}
	if st.flow != nil {
		return s.flushFlowLocked(st)
	}
	for st.queue.n > 0 {
		front := st.queue.front()
		n, broken := s.tryWrite(st, front)
		if n > 0 {
			st.queue.drop(n)
			st.taken += uint64(n)
			st.moved, st.active = coarseNow(), coarseNow()
			s.unqueued(n)
			s.took(n)
			s.checkWindowLocked(st)
		}
		if broken != nil {
			return broken
		}
		if n < len(front) {
			return nil
		}
	}
	return nil
}

// unqueued accounts for bytes that left a queue.
func (s *Session) unqueued(n int) {
	s.recv.queued.Add(-int64(n))
	if !s.d1 {
		return
	}
	s.cfg.Budget.Release(int64(n))
	s.drainedToken()
}
