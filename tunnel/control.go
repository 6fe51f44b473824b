package tunnel

import (
	"encoding/binary"
	"strings"

	"github.com/culvertgate/culvert/framecodec"
)

// Control frames owed are derived from state, not queued: a dirty bit per stream
// and kind, a few flags of the session, and a bounded buffer for what belongs to
// no stream. So a peer cannot make them pile up, and the receiver never waits
// for the sender except when that buffer is full.

// largestControl is the room that one control frame of ours may need: Open with
// a long name and a trace.
const largestControl = framecodec.Overhead + 2 + 13 + 1024 + 4 + framecodec.MaxText

// repliesMost bounds what is owed to a peer that asks and does not read.
const repliesMost = 64 << 10

// controlLimit is the part of a message that is for control frames.
func (s *Session) controlLimit() int { return min(controlRoom, s.carrier.MaxMessage()/4*3) }

// appendControl puts the control frames that are due into b, at most controlRoom
// bytes; all tells whether that were all of them.
func (s *Session) appendControl(b []byte) (_ []byte, all bool) {
	if s.d1 {
		b = s.appendPing1(b)
	} else if b, all = s.appendOffers(s.appendSession2(b)); !all {
		return b, false
	}
	for {
		if len(b)+largestControl > s.controlLimit() {
			return b, false
		}
		st := s.popControl()
		if st == nil {
			break
		}
		b = s.appendOwed(b, st)
	}
	// Behind the rest: what a stream ended with must not be overtaken by the
	// answer to data that came too late for it.
	if b, all = s.appendReplies(b); !all {
		return b, false
	}
	return s.appendClose(b), true
}

// owedResult is what is to be done after paying, without the stream's lock.
type owedResult struct {
	end   *Error // the stream ends with it
	tell  bool   // and the peer is told
	over  bool   // both directions have ended in order
	ready bool   // its data may follow now
}

// appendOwed pays what one stream owes, and writes its leftovers if there may be
// room for them now.
func (s *Session) appendOwed(b []byte, st *Stream) []byte {
	b, r := s.payStream(b, st)
	switch {
	case r.end != nil:
		s.endStream(st, r.end, r.tell)
	case r.over:
		s.completed(st)
	case r.ready:
		s.queueReady(st)
	}
	return b
}

func (s *Session) payStream(b []byte, st *Stream) ([]byte, owedResult) {
	st.mu.Lock()
	defer st.mu.Unlock()
	broken := s.flushLocked(st)
	owed := st.owed
	st.owed = 0
	if owed&oweOpen != 0 {
		if st.gone {
			return b, owedResult{} // given up before the peer heard of it
		}
		if err := s.number(st); err != nil {
			return b, owedResult{end: err}
		}
		s.rateStreamLocked(st) // SetRates does not see who is in neither a list nor the table
		st.limit = max(st.limit, s.send.credit.stream.Load())
	}
	if s.d1 {
		b = s.appendStream1(b, st, owed)
	} else {
		b = s.appendStream2(b, st, owed)
	}
	if broken != nil {
		return b, owedResult{end: broken, tell: true}
	}
	over := s.settleLocked(st)
	// It may have been looked at before it had a number or was answered.
	first := owed&(oweOpen|oweOpened) != 0
	return b, owedResult{over: over, ready: first && st.bits.Load()&bitReadable != 0}
}

// flushWaiting writes leftovers while the carrier has no room even for control
// frames. They must not wait for it: in dialect 1 the peer may not read before
// they are written, and the other way round.
func (s *Session) flushWaiting() {
	if !s.flushDue.Swap(false) {
		return
	}
	s.mu.Lock()
	last := s.control.tail
	s.mu.Unlock()
	for st := (*Stream)(nil); last != nil && st != last; {
		if st = s.popControl(); st == nil {
			return
		}
		over, broken := s.flushStream(st)
		switch {
		case broken != nil:
			s.endStream(st, broken, true)
		case over:
			s.completed(st)
		}
	}
}

func (s *Session) flushStream(st *Stream) (over bool, broken *Error) {
	st.mu.Lock()
	defer st.mu.Unlock()
	if broken = s.flushLocked(st); broken == nil {
		over = s.settleLocked(st)
	}
	if st.owed != 0 {
		if late := s.requeueControl(st); broken == nil && !over {
			broken = late
		}
	}
	return over, broken
}

// popControl takes the next stream that owes something.
func (s *Session) popControl() *Stream {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := s.control.pop()
	if st == nil {
		s.send.answerable = len(s.replies)
		return nil
	}
	st.inControl = false
	if st.forgotten {
		s.stale--
	}
	return st
}

// requeueControl puts back a stream whose frames could not go out; the caller
// holds its lock. It returns how the session ended if it is too late for that:
// whoever ended it may have missed a stream that was in no list.
func (s *Session) requeueControl(st *Stream) *Error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case st.inControl:
		return nil
	case s.ended:
		return s.err
	}
	st.inControl = true
	s.control.push(st)
	if st.forgotten {
		s.stale++
	}
	return nil
}

// number gives an entry's stream its number, in the order in which the Opens go
// out, unless it is too late for that; the caller holds its lock. Whoever ends
// the session sees the stream in a list until then, and in the table afterwards.
func (s *Session) number(st *Stream) *Error {
	n := s.send.next
	s.mu.Lock()
	defer s.mu.Unlock()
	if n > s.lastNumber {
		s.refuseOpensLocked(&Error{Code: framecodec.CodeDraining, Text: "this tunnel has used up its stream numbers"})
		if !s.client && !s.d1 && !s.draining { // the client makes another tunnel then
			s.draining = true
			s.goAway = &framecodec.GoAway{Code: framecodec.CodeDraining}
			s.wakeLocked(waitRoom)
		}
	}
	if err := s.takesNoneLocked(); err != nil {
		return err
	}
	st.num = n
	table, index := s.place(n)
	table.put(index, st)
	s.recv.highestOwn.Store(n)
	if s.d1 {
		s.send.next++
	} else {
		s.send.next += 2
	}
	return nil
}

// takesNoneLocked returns why no stream can be opened, nil if one can; the caller
// holds the lock.
func (s *Session) takesNoneLocked() *Error {
	switch {
	case s.ended:
		return s.err
	case s.closing != nil:
		return s.closing
	default:
		return s.refusing
	}
}

// lastNumber leaves room below the end of the u32 for arithmetic. A session that
// gets there takes no new streams; who opens them makes a new tunnel.
const lastNumber = 1<<32 - 1024

// refuseOpensLocked has Open fail from now on; the caller holds the lock.
func (s *Session) refuseOpensLocked(why *Error) {
	if s.refusing == nil {
		s.refusing = why
		close(s.away)
	}
}

// place is where a stream's number belongs: in dialect 2 each side's numbers have
// a table of their own, so that both are dense.
func (s *Session) place(n uint32) (table *streamTable, index uint32) {
	switch {
	case s.d1:
		return &s.table, n
	case n&1 == 1:
		return &s.table, n >> 1
	default:
		return &s.reverse, n >> 1
	}
}

// stream returns the stream with that number, nil if there is none.
func (s *Session) stream(n uint32) *Stream {
	table, index := s.place(n)
	return table.get(index)
}

// ours reports whether a number of dialect 2 is one that this side gives out.
func (s *Session) ours(n uint32) bool { return n&1 == 1 == s.client }

// peersTable has the streams that the peer opens.
func (s *Session) peersTable() *streamTable {
	if s.client && !s.d1 {
		return &s.reverse
	}
	return &s.table
}

// allLocked lists the streams that have numbers, the client's first; the caller
// holds the lock.
func (s *Session) allLocked(list []*Stream) []*Stream { return s.reverse.all(s.table.all(list)) }

// frameWord is the word of the next control frame.
func (s *Session) frameWord() uint64 {
	s.framesOut.Add(1)
	if s.d1 {
		return s.send.wallMs
	}
	w := s.send.sequence
	s.send.sequence++
	return w
}

// reply leaves a control frame for the peer that belongs to no stream of ours; its
// word is stamped when it goes out. Called by the receiver only; room is false when
// the peer is owed too much: the receiver then waits. A frame that fits no message
// is an error, and a fault of ours: it would stay in front of all others.
func (s *Session) reply(m frameAppender) (room bool, _ *Error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	before := len(s.replies)
	s.replies = m.AppendFrame(s.replies, 0)
	if n := len(s.replies) - before; n > largestControl {
		s.replies = s.replies[:before]
		return false, Errorf(framecodec.CodeInternal, "an answer of %d bytes, at most %d fit a message", n, largestControl)
	}
	s.wakeLocked(waitRoom)
	return len(s.replies) < repliesMost, nil
}

// appendReplies moves whole frames from the buffer to the message.
func (s *Session) appendReplies(b []byte) (_ []byte, all bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.replies) == 0 {
		return b, true
	}
	used := 0
	for used < min(s.send.answerable, len(s.replies)) { // a later one may be about a stream that owes its end since
		length := int(binary.BigEndian.Uint32(s.replies[used+12:])) + framecodec.Overhead
		if len(b)+length > s.controlLimit() {
			break
		}
		frame := s.replies[used : used+length]
		binary.BigEndian.PutUint64(frame[4:12], s.frameWord())
		b = append(b, frame...)
		used += length
	}
	s.replies = s.replies[:copy(s.replies, s.replies[used:])]
	if len(s.replies) == 0 {
		s.replies = nil // nothing is held while idle
	}
	if len(s.replies) < repliesMost {
		select {
		case s.room <- struct{}{}:
		default:
		}
	}
	return b, len(s.replies) == 0
}

// appendClose puts the last frame behind everything else.
func (s *Session) appendClose(b []byte) []byte {
	s.mu.Lock()
	closing := s.closing
	s.mu.Unlock()
	if closing == nil || s.send.closeSent {
		return b
	}
	s.send.closeSent = true
	text := peerText(closing.Text)
	if s.d1 {
		m := framecodec.CloseConnection{Reason: closing.Code.Reason(), Text: text}
		return m.AppendFrame(b, s.frameWord())
	}
	return framecodec.Close{Code: closing.Code, Text: text}.AppendFrame(b, s.frameWord())
}

// peerText is a text as it may be sent: at most framecodec.MaxText bytes of
// valid UTF-8.
func peerText(text string) []byte {
	if len(text) > 200 {
		text = text[:200]
	}
	return []byte(strings.ToValidUTF8(text, ""))
}
