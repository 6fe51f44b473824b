package tunnel

import (
	"errors"
	"io"
	"net"
	"sync/atomic"
	"time"

	"github.com/culvertgate/culvert/framecodec"
	"github.com/culvertgate/culvert/internal/faultpoint"
)

// interactiveRun is how many messages of interactive streams may go in a row
// while bulk streams wait.
const interactiveRun = 32

// leastMessage is what a carrier must be able to move in one message: RFC 8831
// section 6.6 recommends 16 KiB as what every peer takes.
const leastMessage = 16 << 10

// closeGrace is how long a closing session waits for the peer's last
// acknowledgement.
const closeGrace = 2 * time.Second

// controlReserve is how far beyond the high mark control frames may go: a
// Window must not wait behind our own bulk data.
const controlReserve = 64 << 10

// sendState belongs to the sender goroutine, but for what is atomic.
type sendState struct {
	credit     sendCredit
	marks      marks
	sequence   uint64 // of the next control frame (dialect 2)
	next       uint32 // number of the next stream we open
	hello      bool   // ours has been sent
	closeSent  bool   // the last frame is out
	answerable int    // bytes of Session.replies from before the last look at an empty control list; written under mu
	run        int    // interactive turns in a row
	dead       bool   // room was promised where there is none: the carrier has ended
	paced      *paced // nil: no limit
	at         time.Duration
	roomTold   atomic.Bool // the carrier has called back
	wallMs     uint64      // dialect 1's word
}

func (x *sendState) init(s *Session) {
	x.next = 1
	if !s.client {
		x.next = 2
	}
	x.marks.init()
	x.credit.init(s)
}

// runSender is the sender goroutine: it sleeps until there is something to send
// and room for it, and is the only one that writes to the carrier.
func (s *Session) runSender() *Error {
	if s.carrier.MaxMessage() < leastMessage {
		return Errorf(framecodec.CodeProtocolError, "the other side takes messages of %d bytes at most, %d are needed", s.carrier.MaxMessage(), leastMessage)
	}
	defer s.stopAlarm()
	for {
		if r := s.rates.Load(); r != nil || s.send.paced != nil {
			s.lookAtRates(r)
		}
		room := s.carrierRoom()
		if room == roomNone {
			s.flushWaiting()
			if !s.sleepForRoom() {
				return nil
			}
			continue
		}
		faultpoint.Here(faultpoint.SessionSender)
		buf := messagePool.Get().(*messageBuf)
		msg := s.fill(buf[:0], room)
		var err error
		if len(msg) > 0 {
			s.send.marks.wrote(len(msg))
			err = s.carrier.WriteMessage(msg)
		}
		messagePool.Put(buf)
		switch {
		case err != nil:
			return s.writeFailed(err)
		case len(msg) == 0 && s.closed() && (s.send.closeSent || !s.maySpeak()):
			return s.lastWords()
		case len(msg) == 0 && !s.sleepForWork(room):
			return nil
		}
	}
}

// writeFailed leaves the last word to the receiver: what the peer said before the
// carrier ended, such as why, may still have to be read.
func (s *Session) writeFailed(err error) *Error {
	if s.closed() {
		return carrierError(err)
	}
	timer := time.NewTimer(closeGrace)
	defer timer.Stop()
	select {
	case <-s.done:
	case <-timer.C:
	}
	return carrierError(err)
}

// carrierError is the end that a failing carrier means.
func carrierError(err error) *Error {
	if e, ok := err.(*Error); ok { //nolint:errorlint // the carrier's own verdict, not one it wraps
		return e
	}
	return &Error{Code: framecodec.CodeTunnelLost, Text: "the connection to the other side was lost", Err: err}
}

type roomKind uint8

const (
	roomNone    roomKind = iota
	roomControl          // for control frames only
	roomAll
)

func (s *Session) carrierRoom() roomKind {
	s.send.at = now()
	buffered := s.carrier.Buffered()
	high := s.send.marks.high(s.send.at, buffered, time.Duration(s.minRTTNanos.Load()))
	switch {
	case buffered < high:
		return roomAll
	case buffered < high+controlReserve && s.controlWaits():
		return roomControl
	case s.send.dead:
		return roomAll // writing says how it ended
	default:
		return roomNone
	}
}

func (s *Session) controlWaits() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.controlWaitsLocked()
}

func (s *Session) controlWaitsLocked() bool {
	if !s.maySpeak() {
		return s.d1 && s.pingDue
	}
	return !s.control.empty() || len(s.replies) > 0 || s.pingDue || s.goAway != nil || len(s.services.frames) > 0 ||
		s.closing != nil && !s.send.closeSent || s.recv.windowDue.Load() ||
		!s.d1 && !s.send.hello
}

// maySpeak: the gateway says nothing on a new channel before the client has, and a
// client of dialect 1 nothing but Pings before the gateway has.
func (s *Session) maySpeak() bool { return s.client != s.d1 || s.recv.helloSeen.Load() }

// fill builds the next message in b: control frames in front, then data of
// ready streams, as long as there are some and the chunk is not full.
func (s *Session) fill(b []byte, room roomKind) []byte {
	if s.send.closeSent {
		return b
	}
	if s.d1 {
		s.send.wallMs = uint64(time.Now().UnixMilli())
	}
	if !s.maySpeak() {
		if s.d1 {
			b = s.appendPing1(b)
		}
		return b
	}
	b, all := s.appendControl(b)
	if room != roomAll || !all {
		return b
	}
	limit := min(len(b)+chunkSize+framecodec.Overhead, s.carrier.MaxMessage()-tailRoom)
	for limit-len(b) > framecodec.Overhead+minRead {
		if s.closed() || s.send.credit.left(s) == 0 {
			break
		}
		if s.send.paced != nil && !s.mayPass() {
			break
		}
		st := s.pick()
		if st == nil {
			break
		}
		b = s.appendData(b, limit, st)
	}
	return b
}

// minRead: with less space than this a new message is better than a small frame.
const minRead = 1 << 10

// pick takes the next ready stream: interactive ones first, but one of the bulk
// ones after a long run of them.
func (s *Session) pick() *Stream {
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		bulk := !s.bulk.empty() && (s.interactive.empty() || s.send.run >= interactiveRun)
		list := &s.interactive
		if bulk {
			list = &s.bulk
		}
		st := list.pop()
		if st == nil {
			return nil
		}
		st.inReady = false
		switch {
		case st.forgotten:
			s.stale--
			continue
		case bulk:
			s.send.run = 0
			s.send.marks.bulkAt = s.send.at
		default:
			s.send.run++
			s.send.marks.interactiveAt = s.send.at
		}
		return st
	}
}

// readResult is what is to be done after a read, without the stream's lock.
type readResult struct {
	again  bool   // there may be more
	over   bool   // both directions have ended
	broken *Error // the Endpoint failed
}

// appendData reads from the stream's Endpoint straight behind a gap for the
// header, and puts the end of the direction behind the data when it has come.
func (s *Session) appendData(b []byte, limit int, st *Stream) []byte {
	b, r := s.readStream(b, limit, st)
	switch {
	case r.broken != nil:
		s.endStream(st, r.broken, true)
	case r.over:
		s.completed(st)
	case r.again:
		st.Readable()
	}
	return b
}

func (s *Session) readStream(b []byte, limit int, st *Stream) ([]byte, readResult) {
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.gone || st.ep == nil || st.num == 0 || st.owed&(oweOpen|oweOpened) != 0 {
		return b, readResult{} // not yet: what goes first queues it again
	}
	if st.state.send != halfOpen {
		st.bits.And(^bitReadable)
		return b, readResult{broken: s.brokenLocked(st)}
	}
	credit := s.dataCredit(st)
	if credit == 0 {
		if !st.blocked { // the readable bit stays: a Window frame queues it again
			st.blocked = true
			s.starved.Add(1)
			s.windowBlocked.Add(1)
		}
		return b, readResult{}
	}
	limited := s.send.paced != nil
	if limited {
		if credit = s.paceStream(st, credit); credit == 0 {
			return b, readResult{}
		}
	}
	// Cleared before the read: an edge that comes meanwhile queues it again.
	st.bits.And(^bitReadable)
	at := len(b) + framecodec.HeaderSize
	space := b[at:min(limit-1, at+credit)]
	n, err := st.ep.TryRead(space)
	if n > 0 {
		b = b[:at+n+1]
		framecodec.PutHeader(b[at-framecodec.HeaderSize:], st.num, s.dataWord(st), n)
		b[at+n] = framecodec.Terminator
		st.sent += uint64(n)
		st.active = coarseNow()
		s.send.credit.used += uint64(n)
		s.bytesOut.Add(uint64(n))
		s.framesOut.Add(1)
		if limited {
			s.paceUsed(st, n)
		}
		s.classify(st, n, n == len(space), limited)
	}
	switch err {
	case nil:
		return b, readResult{again: n == len(space)}
	case ErrWouldBlock: //nolint:errorlint // a sentinel that is never wrapped
		return b, readResult{}
	case io.EOF:
		b = s.appendFinish(b, st)
		st.state = st.state.next(eventLocalEnd)
		return b, readResult{over: s.settleLocked(st)}
	default:
		return b, readResult{broken: s.brokenEndpoint(st, err)}
	}
}

// dataCredit is how much the next frame of the stream may carry; the caller
// holds its lock.
func (s *Session) dataCredit(st *Stream) int {
	if s.d1 {
		return int(s.send.credit.payload.Load())
	}
	left := min(st.limit-st.sent, s.send.credit.left(s))
	return int(min(left, uint64(s.send.credit.payload.Load())))
}

// dataWord is the word of a data frame; the caller holds the stream's lock.
func (s *Session) dataWord(st *Stream) uint64 {
	if s.d1 {
		return s.send.wallMs
	}
	return st.sent
}

// classify moves a stream between the classes by what it read last. A small read
// that filled the room there was says nothing, unless a rate makes all room small.
func (s *Session) classify(st *Stream, n int, full, limited bool) {
	if n < chunkSize/4 && !(full && limited) {
		if !full && st.turns != interactiveTurns {
			st.turns = interactiveTurns
			st.bits.And(^bitBulk)
		}
		return
	}
	if st.turns > 0 {
		if st.turns--; st.turns == 0 {
			st.bits.Or(bitBulk)
		}
	}
}

// brokenEndpoint is the end of a stream whose Endpoint failed: the target's end
// at an exit, the opener's own at an entry. A target that is gone without a word
// has not reset anything: keep-alives or retransmissions ran out.
func (s *Session) brokenEndpoint(st *Stream, err error) *Error {
	if e, ok := err.(*Error); ok { //nolint:errorlint // the Endpoint's own verdict, not one it wraps
		return e
	}
	if st.entry {
		return &Error{Code: framecodec.CodeCancelled, Text: "the opener's connection was reset", Err: err}
	}
	if gone, ok := errors.AsType[net.Error](err); ok && gone.Timeout() {
		return &Error{Code: framecodec.CodeTimeout, Text: "the target does not answer any more", Err: err}
	}
	return &Error{Code: framecodec.CodeTargetClosed, Text: "the target reset the connection", Err: err}
}

func (s *Session) closed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.closing != nil
}

// lastWords waits until the peer has the Close frame, boundedly: data that is
// sent just before a close is lost in browsers.
func (s *Session) lastWords() *Error {
	timer := time.NewTimer(closeGrace)
	defer timer.Stop()
	acknowledged := make(chan struct{}, 1)
	s.carrier.NotifyLow(0, func() {
		select {
		case acknowledged <- struct{}{}:
		default:
		}
	})
	select {
	case <-acknowledged:
	case <-timer.C:
	case <-s.done:
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.closing
}
