package tunnel

import (
	"container/heap"
	"time"
)

// Rates are how many payload bytes may pass in a second, in each direction for
// itself. The zero value is no limit.
type Rates struct {
	// Out and In are the tunnel's, towards the peer and from it; its session, flows
	// and raw channels share them. nil: no limit.
	Out, In *Bucket
	// Stream is that of each stream, in bytes a second. 0: no limit.
	Stream int64
}

func (r Rates) limited() bool { return r.Out != nil || r.In != nil || r.Stream > 0 }

// turnsPerSecond is how often each stream has a turn, where the rate allows frames
// of that size.
const turnsPerSecond = 16

// SetRates changes the limits, also of streams that run. What has no limit any more
// goes on at once. It is safe for concurrent use.
func (s *Session) SetRates(r Rates) {
	var next *Rates
	if r.limited() {
		next = &r
	}
	old := s.rates.Swap(next)
	if old == nil && next == nil || old != nil && next != nil && *old == *next {
		return
	}
	for _, st := range s.everyStream() {
		s.rateStream(st)
	}
	s.signal() // the sender sees that they have changed
}

// heldPace is one direction of a limited stream. While it waits it lies in the
// session's heap.
type heldPace struct {
	pace
	st   *Stream
	in   bool
	held bool // guarded by the stream's lock

	// Guarded by the session's lock.
	at    time.Duration
	place int // in the heap and 1; 0: in none
}

// streamRate is what a limited stream has besides. Stream.rate is written under the
// stream's and the session's lock.
type streamRate struct {
	perSecond int64
	out, in   heldPace
}

func newStreamRate(st *Stream, perSecond int64) *streamRate {
	r := &streamRate{perSecond: perSecond}
	r.out = heldPace{pace: pace{bucket: NewBucket(perSecond)}, st: st}
	r.in = heldPace{st: st, in: true}
	if !st.s.d1 { // which has no windows: one stream can not be held alone
		r.in.bucket = NewBucket(perSecond)
	}
	return r
}

// rateStream gives a stream the limit that counts now.
func (s *Session) rateStream(st *Stream) {
	st.mu.Lock()
	defer st.mu.Unlock()
	old := st.rate
	if !s.rateStreamLocked(st) || old == nil || st.gone || st.flow != nil {
		return
	}
	s.checkWindowLocked(st)
	if old.out.held {
		s.queueReady(st)
	}
}

// rateStreamLocked is rateStream but for waking up; changed: there was another
// limit. The caller holds the stream's lock.
func (s *Session) rateStreamLocked(st *Stream) (changed bool) {
	perSecond := int64(0)
	if r := s.rates.Load(); r != nil {
		perSecond = r.Stream
	}
	if st.rate == nil && perSecond <= 0 || st.rate != nil && st.rate.perSecond == perSecond {
		return false
	}
	var next *streamRate
	if perSecond > 0 {
		next = newStreamRate(st, perSecond)
		if st.flow == nil {
			next.in.debit(st.granted - st.taken)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.unholdLocked(st)
	st.rate = next
	return true
}

// unholdLocked takes a stream out of the heap; the caller holds the session's lock.
func (s *Session) unholdLocked(st *Stream) {
	if st.rate == nil {
		return
	}
	for _, p := range [...]*heldPace{&st.rate.out, &st.rate.in} {
		if p.place > 0 {
			heap.Remove(&s.held, p.place-1)
		}
	}
}

// hold has the sender look at a stream again when its bytes are due; the caller is
// the sender and holds the stream's lock.
func (s *Session) hold(p *heldPace) {
	p.held = true
	s.mu.Lock()
	defer s.mu.Unlock()
	if p.place == 0 && !p.st.forgotten && !s.ended {
		p.at = p.due
		heap.Push(&s.held, p)
	}
}

// heldHeap has the streams that wait for their rate, the first due in front. The
// session's lock guards it.
type heldHeap []*heldPace

func (h heldHeap) Len() int           { return len(h) }
func (h heldHeap) Less(i, j int) bool { return h[i].at < h[j].at }

func (h heldHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].place, h[j].place = i+1, j+1
}

// Push implements heap.Interface.
func (h *heldHeap) Push(x any) {
	p := x.(*heldPace)
	*h = append(*h, p)
	p.place = len(*h)
}

// Pop implements heap.Interface.
func (h *heldHeap) Pop() any {
	last := len(*h) - 1
	p := (*h)[last]
	(*h)[last] = nil
	*h = (*h)[:last]
	p.place = 0
	return p
}

// paced is the sender's own part of a limited session.
type paced struct {
	rates    *Rates
	out, in  pace // the tunnel's
	allowed  int  // bytes that the next frame may carry
	outWaits bool // streams may be ready, and none may send
	inWaits  bool // session credit is due, and may not be granted yet
	alarm    *time.Timer
}

// waits reports whether there were bytes to send that the tunnel's rate did not let
// pass.
func (p *paced) waits() bool { return p != nil && p.outWaits }

// lookAtRates is the sender's first step in each round of a limited session: it
// takes over limits that have changed, and lets those go on whose time has come.
func (s *Session) lookAtRates(r *Rates) {
	if s.send.paced == nil || s.send.paced.rates != r {
		s.takeRates(r)
	}
	p := s.send.paced
	if p == nil {
		return
	}
	p.outWaits = false
	at := now()
	if p.inWaits && at >= p.in.due {
		p.inWaits = false
		s.grantNow()
	}
	for h := s.popHeld(at); h != nil; h = s.popHeld(at) {
		s.letGo(h)
	}
}

// takeRates has the sender hold the limits that count now.
func (s *Session) takeRates(r *Rates) {
	if r == nil {
		s.stopAlarm()
		s.send.paced = nil
		s.grantNow()
		return
	}
	if s.send.paced == nil {
		s.send.paced = new(paced)
	}
	p := s.send.paced
	p.rates = r
	if p.out.bucket != r.Out {
		p.out = pace{bucket: r.Out}
	}
	if p.in.bucket == r.In || s.d1 {
		return
	}
	p.in = pace{bucket: r.In}
	p.in.debit(s.recv.granted.Load() - s.recv.taken.Load())
	p.inWaits = false
	s.grantNow()
}

// holdSession says whether the session credit waits for the rate: the receiver then
// need not wake the sender for it.
func (s *Session) holdSession(waits bool) {
	s.send.paced.inWaits = waits
	s.recv.windowHeld.Store(waits)
}

// grantNow has session credit granted that may have waited.
func (s *Session) grantNow() {
	s.recv.windowHeld.Store(false)
	if !s.d1 {
		s.recv.windowDue.Store(true)
	}
}

func (s *Session) popHeld(at time.Duration) *heldPace {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.held) == 0 || s.held[0].at > at {
		return nil
	}
	return heap.Pop(&s.held).(*heldPace)
}

// letGo has a stream go on that waited for its rate.
func (s *Session) letGo(p *heldPace) {
	st := p.st
	st.mu.Lock()
	p.held = false
	stays := !st.gone && st.rate != nil && (p == &st.rate.out || p == &st.rate.in) // no reload in between
	if stays && p.in {
		s.checkWindowLocked(st)
	}
	st.mu.Unlock()
	if stays && !p.in {
		s.queueReady(st)
	}
}

// mayPass is asked by the sender, in a limited session, before each data frame.
func (s *Session) mayPass() bool {
	p := s.send.paced
	p.allowed = p.out.room(chunkSize)
	p.outWaits = p.allowed == 0
	if p.out.bucket != nil && !p.outWaits {
		// Small frames, so that with many streams each has its turn soon.
		turn := p.out.bucket.perSecond / turnsPerSecond / max(s.live.Load(), 1)
		p.allowed = int(min(int64(p.allowed), max(turn, minRead)))
	}
	return !p.outWaits
}

// paceStream is the sender's question how much of most a frame of a stream may
// carry. A stream that has to wait is put aside with its readable bit left, so that
// nothing but its time queues it again. The caller holds the stream's lock.
func (s *Session) paceStream(st *Stream, most int) int {
	most = min(most, s.send.paced.allowed)
	if st.rate == nil {
		return most
	}
	n := st.rate.out.room(most)
	if n == 0 {
		s.hold(&st.rate.out)
	}
	return n
}

// paceUsed is told what the frame carried.
func (s *Session) paceUsed(st *Stream, n int) {
	s.send.paced.out.used(n)
	if st.rate != nil {
		st.rate.out.used(n)
	}
}

// grantPaced returns how far a limit of granted bytes, of which the peer has used
// taken or has queued, may be moved towards wanted now; wait: more waits for p. That
// is not so while the peer has half of what it may have: its next bytes ask again.
func grantPaced(p *pace, queued, taken, granted, wanted uint64) (limit uint64, wait bool) {
	window := p.window(wanted - taken)
	most := min(taken+queued+window, wanted)
	low := func() bool { return granted-taken <= queued+window/2 }
	if !low() {
		return granted, false
	}
	for granted < most {
		n := p.room(int(min(most-granted, burstMost)))
		if n == 0 {
			return granted, low()
		}
		p.used(n)
		granted += uint64(n)
	}
	return granted, false
}

// nextLook is when the sender has to look again for the sake of a rate; 0: not
// before it is woken.
func (s *Session) nextLook() time.Duration {
	p := s.send.paced
	s.mu.Lock()
	defer s.mu.Unlock()
	next := time.Duration(0)
	sooner := func(at time.Duration) {
		if next == 0 || at < next {
			next = at
		}
	}
	if s.waiting == waitRate {
		sooner(p.out.due)
	}
	if p.inWaits {
		sooner(p.in.due)
	}
	if len(s.held) > 0 {
		sooner(s.held[0].at)
	}
	return next
}

// sleepPaced is sleep in a limited session. There is one timer for all its streams.
func (s *Session) sleepPaced() bool {
	p := s.send.paced
	var alarm <-chan time.Time
	if at := s.nextLook(); at > 0 {
		left := max(at-now(), 0)
		if p.alarm == nil {
			p.alarm = time.NewTimer(left)
		} else {
			p.alarm.Reset(left)
		}
		alarm = p.alarm.C
	}
	select {
	case <-s.wake:
	case <-alarm:
	case <-s.done:
		return false
	}
	if alarm != nil {
		p.alarm.Stop()
	}
	return true
}

// stopAlarm is the sender's last step.
func (s *Session) stopAlarm() {
	if p := s.send.paced; p != nil && p.alarm != nil {
		p.alarm.Stop()
	}
}

// passesDatagram reports whether a datagram may pass; if not it is dropped. The
// caller holds the stream's lock.
func (s *Session) passesDatagram(st *Stream, n int, in bool) bool {
	r := s.rates.Load()
	if r == nil {
		return true
	}
	whole, own := r.Out, (*Bucket)(nil)
	if in {
		whole = r.In
	}
	switch {
	case st.rate == nil:
	case in:
		own = st.rate.in.bucket
	default:
		own = st.rate.out.bucket
	}
	if !own.has() || !whole.Take(n) {
		return false
	}
	own.charge(n)
	return true
}

// pay1 is how a peer of dialect 1 is slowed down: nothing is read before what has
// come is paid for. The caller is the receiver.
func (s *Session) pay1(n int) {
	timer := (*time.Timer)(nil)
	for n > 0 {
		r := s.rates.Load() // a reload counts at once
		if r == nil {
			return
		}
		k, wait := r.In.Reserve(n)
		n -= k
		if wait <= 0 {
			continue
		}
		if timer == nil {
			timer = time.NewTimer(wait)
			defer timer.Stop()
			s.recv.stalled.Store(true)
			defer s.recv.stalled.Store(false)
		} else {
			timer.Reset(wait)
		}
		select {
		case <-timer.C:
		case <-s.done:
			return
		}
	}
}
