package tunnel

import (
	"sync/atomic"
	"time"

	"github.com/culvertgate/culvert/framecodec"
	"github.com/culvertgate/culvert/internal/faultpoint"
)

// flowTurn is how many datagrams one flow may send before it is another's turn.
const flowTurn = 16

// datagrams is the unordered companion of a session: a carrier that may lose
// messages, and the goroutine that fills it. Another one reads it.
type datagrams struct {
	s       *Session
	carrier Carrier
	wake    chan struct{} // one token: a flow is ready, or there is room
	poke    func()        // tellRoom, as a value that is made once
	gone    chan struct{} // closed when the carrier has ended

	// The sender's own.
	marks marks
	full  bool      // NotifyLow is owed a call
	wait  []*Stream // flows that keep datagrams until there is room
	room  atomic.Bool
}

// AttachDatagrams gives the session a carrier for datagrams: unordered, without
// retransmission, of whose messages each holds whole frames. The session owns it
// from now on. It returns false, and has closed the carrier, when there is one
// already, when the session has ended, and in dialect 1. When the carrier ends
// before the session, the flows end with it and another one may be attached.
func (s *Session) AttachDatagrams(c Carrier) bool {
	d := &datagrams{s: s, carrier: c, wake: make(chan struct{}, 1), gone: make(chan struct{})}
	d.poke = d.tellRoom
	d.marks.init()
	s.mu.Lock()
	taken := !s.d1 && !s.ended && s.closing == nil && s.datagrams == nil
	if taken {
		s.datagrams = d
		s.wg.Add(2)
	}
	s.mu.Unlock()
	if !taken {
		_ = c.Close(framecodec.CodeProtocolError)
		return false
	}
	go s.runDatagrams(d.receive)
	go s.runDatagrams(d.send)
	s.EachStream(func(st *Stream) {
		if st.isFlow() {
			s.queueFlow(st) // it may have had something to say before
		}
	})
	return true
}

// HasDatagrams reports whether the session has a carrier for datagrams.
func (s *Session) HasDatagrams() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.datagrams != nil
}

func (s *Session) runDatagrams(loop func()) {
	defer s.wg.Done()
	s.guard(loop)
}

// receive is the goroutine that reads datagrams.
func (d *datagrams) receive() {
	for d.carrier.Wait() == nil {
		faultpoint.Here(faultpoint.DatagramReceive)
		buf := receivePool.Get().(*receiveBuf)
		n, err := d.carrier.ReadMessage(buf[:])
		var fault *Error
		if err == nil {
			fault = d.message(buf[:n])
		}
		receivePool.Put(buf)
		if fault != nil {
			d.s.Close(fault.Code, fault.Text)
			break
		}
		if err != nil {
			break
		}
	}
	d.over()
}

// message takes the frames of a message. A frame may not span messages here, one
// of which may be lost.
func (d *datagrams) message(msg []byte) *Error {
	var f framecodec.Frame
	for len(msg) > 0 {
		n, err := f.Parse(msg, framecodec.MaxPayload2)
		switch {
		case err != nil:
			return Errorf(framecodec.CodeProtocolError, "datagrams: %w", err)
		case f.Conn == 0:
			return Errorf(framecodec.CodeProtocolError, "a control frame among datagrams")
		}
		msg = msg[n:]
		d.s.framesIn.Add(1)
		d.s.bytesIn.Add(uint64(len(f.Payload)))
		d.s.onDatagram(f)
	}
	return nil
}

// over is the end of the carrier, which is the end of the flows.
func (d *datagrams) over() {
	s := d.s
	s.mu.Lock()
	if s.datagrams == d {
		s.datagrams = nil
	}
	s.mu.Unlock()
	close(d.gone)
	_ = d.carrier.Close(framecodec.CodeTunnelClosed)
	lost := &Error{Code: framecodec.CodeTunnelClosed, Text: "the channel for datagrams was closed"}
	s.EachStream(func(st *Stream) {
		if st.isFlow() {
			s.endStream(st, lost, true)
		}
	})
}

// send is the goroutine that writes datagrams, the only one that does.
func (d *datagrams) send() {
	buf := (*receiveBuf)(nil) // a datagram with its envelope is never larger than a message
	for {
		d.gotRoom()
		st := d.s.pickFlow()
		if st == nil {
			if buf != nil { // nothing is held while idle
				receivePool.Put(buf)
				buf = nil
			}
			select {
			case <-d.wake:
				continue
			case <-d.gone:
				return
			case <-d.s.done:
				return
			}
		}
		faultpoint.Here(faultpoint.DatagramSend)
		if buf == nil {
			buf = receivePool.Get().(*receiveBuf)
		}
		d.serve(st, buf)
	}
}

// serve is one turn of a flow.
func (d *datagrams) serve(st *Stream, buf *receiveBuf) {
	for range flowTurn {
		room := d.hasRoom()
		msg, more, broken := d.next(st, buf, room)
		if broken != nil {
			d.s.endStream(st, broken, true)
			return
		}
		if msg != nil {
			d.marks.wrote(len(msg))
			if d.carrier.WriteMessage(msg) != nil {
				return // the reader sees the end too, and says so
			}
		}
		if !more {
			return
		}
	}
	d.s.queueFlow(st)
}

// next takes a flow's next datagram: the oldest that waits, or one from the
// Endpoint. msg is what is to be written, nil for nothing; without room it went
// into the queue. more is false when the flow has nothing, or waits for room and
// has been read empty.
func (d *datagrams) next(st *Stream, buf *receiveBuf, room bool) (msg []byte, more bool, broken *Error) {
	st.mu.Lock()
	defer st.mu.Unlock()
	fl := st.flow
	if st.gone || st.ep == nil || !st.state.opened {
		return nil, false, nil // not yet: a datagram that overtakes its Open is lost
	}
	payload := buf[framecodec.HeaderSize : framecodec.HeaderSize+MaxDatagram]
	if room && fl.out.Len() > 0 {
		before := fl.out.Bytes()
		n := copy(payload, fl.out.Front())
		fl.out.Drop()
		fl.out.charge(d.s.cfg.Budget, before)
		return d.frame(st, buf, n), true, nil
	}
	// Cleared before the read: an edge that comes meanwhile queues it again.
	st.bits.And(^bitReadable)
	n, err := st.ep.TryRead(payload)
	switch {
	case err == ErrWouldBlock: //nolint:errorlint // a sentinel that is never wrapped
		if fl.out.Len() > 0 { // the room was used up before the queue was empty
			d.awaitRoom(st)
		}
		return nil, false, nil
	case err != nil:
		return nil, false, d.s.brokenEndpoint(st, err)
	}
	st.active = coarseNow()
	if room {
		return d.frame(st, buf, n), true, nil
	}
	d.s.keepDatagram(fl, &fl.out, payload[:n])
	d.awaitRoom(st)
	return nil, true, nil
}

// awaitRoom has a flow looked at when there is room; the caller holds the stream's
// lock.
func (d *datagrams) awaitRoom(st *Stream) {
	if !st.flow.waitsRoom {
		st.flow.waitsRoom = true
		d.wait = append(d.wait, st)
	}
}

// frame puts the envelope around n bytes of payload, or drops what the peer does
// not take; the caller holds the stream's lock.
func (d *datagrams) frame(st *Stream, buf *receiveBuf, n int) []byte {
	s, fl := d.s, st.flow
	size := n + framecodec.Overhead
	word := fl.sent
	fl.sent++ // what is dropped here is a gap that the other side can count
	if uint32(n) > s.send.credit.peerMost.Load() || size > d.carrier.MaxMessage() || !s.passesDatagram(st, n, false) {
		s.dropDatagram(fl)
		return nil
	}
	framecodec.PutHeader(buf[:], st.num, word, n)
	buf[size-1] = framecodec.Terminator
	st.sent += uint64(n)
	s.bytesOut.Add(uint64(n))
	s.framesOut.Add(1)
	s.datagramsOut.Add(1)
	return buf[:size]
}

// hasRoom looks whether the carrier takes another datagram. If it does not, the
// carrier is asked to say when it does.
func (d *datagrams) hasRoom() bool {
	if d.full {
		return false
	}
	buffered := d.carrier.Buffered()
	high := d.marks.high(now(), buffered, time.Duration(d.s.minRTTNanos.Load()))
	if buffered < high {
		return true
	}
	d.full = true
	d.room.Store(false)
	d.carrier.NotifyLow(d.marks.low(), d.poke)
	return false
}

// tellRoom is what the carrier calls when it has room, or has ended.
func (d *datagrams) tellRoom() {
	d.room.Store(true)
	d.signal()
}

func (d *datagrams) signal() {
	select {
	case d.wake <- struct{}{}:
	default:
	}
}

// gotRoom lets those go on that waited for room, if there is some.
func (d *datagrams) gotRoom() {
	if !d.full || !d.room.Load() {
		return
	}
	d.full = false
	for i, st := range d.wait {
		st.mu.Lock()
		st.flow.waitsRoom = false
		st.mu.Unlock()
		d.s.queueFlow(st)
		d.wait[i] = nil
	}
	d.wait = d.wait[:0]
}

// queueFlow puts a flow into the list of those to be looked at, if there is anyone
// to look: AttachDatagrams does it for those that came before.
func (s *Session) queueFlow(st *Stream) {
	s.mu.Lock()
	d := s.datagrams
	if d != nil && !st.inReady && !st.forgotten && !s.ended {
		st.inReady = true
		s.flows.push(st)
	}
	s.mu.Unlock()
	if d != nil {
		d.signal()
	}
}

// pickFlow takes the next flow to be looked at.
func (s *Session) pickFlow() *Stream {
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		st := s.flows.pop()
		if st == nil {
			return nil
		}
		st.inReady = false
		if !st.forgotten {
			return st
		}
		s.stale--
	}
}
