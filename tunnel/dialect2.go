package tunnel

import (
	"encoding/binary"
	"time"

	"github.com/culvertgate/culvert/framecodec"
)

// streamWindow is the window of a new stream, as our Hello says it, unless a rate
// makes it smaller.
const streamWindow = 256 << 10

// offered are the features that we name.
func (s *Session) offered() uint32 {
	if s.client && s.cfg.Accept != nil || !s.client && s.cfg.Exposed != nil {
		return framecodec.FeatureDatagrams | framecodec.FeatureReverse
	}
	return framecodec.FeatureDatagrams
}

// appendSession2 writes the frames of the session itself.
func (s *Session) appendSession2(b []byte) []byte {
	if !s.send.hello {
		s.send.hello = true
		b = framecodec.Hello{
			Version: framecodec.Version, MaxPayload: framecodec.MaxPayload2,
			StreamWindow: s.first, SessionWindow: s.recv.granted.Load(),
			Features: s.offered(),
		}.AppendFrame(b, s.frameWord())
		s.helloDone()
	}
	if s.recv.windowDue.Swap(false) {
		b = s.appendSessionWindow(b)
	}
	s.mu.Lock()
	ping, away := s.pingDue, s.goAway
	s.pingDue, s.goAway = false, nil
	s.mu.Unlock()
	if ping {
		var stamp [8]byte
		binary.BigEndian.PutUint64(stamp[:], uint64(now()))
		b = framecodec.Ping{HasConn: true, Extra: stamp[:]}.AppendFrame(b, s.frameWord())
	}
	if away != nil {
		b = away.AppendFrame(b, s.frameWord())
	}
	return b
}

// helloDone opens Ready when both Hellos have passed.
func (s *Session) helloDone() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.helloHalf {
		close(s.ready)
		s.pingDue = true
		return
	}
	s.helloHalf = true
}

// appendStream2 writes what a stream owes; the caller holds its lock.
func (s *Session) appendStream2(b []byte, st *Stream, owed uint8) []byte {
	if st.num == 0 {
		return b
	}
	if owed&oweOpen != 0 {
		var tlvs framecodec.TLVs
		if st.extra.trace != "" {
			tlvs = framecodec.AppendTLV(tlvs, framecodec.TLVTraceparent, []byte(st.extra.trace))
		}
		b = framecodec.Open{
			Conn: st.num, Kind: uint8(st.target.Kind), Window: st.firstWindow(),
			Host: []byte(st.target.Host), Port: st.target.Port, TLVs: tlvs,
		}.AppendFrame(b, s.frameWord())
	}
	if st.gone {
		if owed&oweReset != 0 && st.extra != nil && st.extra.err != nil {
			b = framecodec.Reset{Conn: st.num, Code: st.extra.err.Code,
				Text: peerText(st.extra.err.Text)}.AppendFrame(b, s.frameWord())
		}
		return b
	}
	if owed&oweOpened != 0 {
		var tlvs framecodec.TLVs
		if a := st.extra.address; a != "" {
			tlvs = framecodec.AppendTLV(tlvs, framecodec.TLVAddress, []byte(a))
			st.extra.address = ""
		}
		b = framecodec.Opened{Conn: st.num, Window: st.firstWindow(), TLVs: tlvs}.AppendFrame(b, s.frameWord())
		st.extra = nil // nothing of the opening is needed any more
	}
	if owed&oweWindow != 0 && !st.finSeen {
		b = s.appendStreamWindow(b, st)
	}
	return b
}

// appendFinish puts the end of our direction behind its data; the caller holds
// the stream's lock and has kept tailRoom for it.
func (s *Session) appendFinish(b []byte, st *Stream) []byte {
	if s.d1 {
		return framecodec.SendEOF{Conn: st.num}.AppendFrame(b, s.frameWord())
	}
	return framecodec.Finish{Conn: st.num, Offset: st.sent}.AppendFrame(b, s.frameWord())
}

// control2 handles a control frame of dialect 2. An error ends the session.
func (s *Session) control2(word uint64, payload []byte) *Error {
	if word != s.recv.sequence {
		return Errorf(framecodec.CodeProtocolError, "control frame %d where %d was due", word, s.recv.sequence)
	}
	s.recv.sequence++
	msg, data, err := framecodec.ParseControl(payload)
	if err != nil {
		return Errorf(framecodec.CodeProtocolError, "%w", err)
	}
	if !s.recv.helloSeen.Load() {
		if msg != framecodec.MsgHello {
			return Errorf(framecodec.CodeProtocolError, "%s before Hello", msg)
		}
		return s.onHello(data)
	}
	switch msg {
	case framecodec.MsgPing:
		return s.onPing2(data)
	case framecodec.MsgPong:
		return s.onPong2(data)
	case framecodec.MsgWindow:
		return s.onWindow(data)
	case framecodec.MsgOpen:
		return s.onOpen2(data)
	case framecodec.MsgOpened:
		return s.onOpened2(data)
	case framecodec.MsgReset:
		return s.onReset2(data)
	case framecodec.MsgFinish:
		return s.onFinish2(data)
	case framecodec.MsgGoAway:
		return s.onGoAway(data)
	case framecodec.MsgClose:
		return s.onClose2(data)
	case framecodec.MsgExpose, framecodec.MsgWithdraw, framecodec.MsgExposed:
		return s.onService(msg, data)
	default:
		return Errorf(framecodec.CodeProtocolError, "%s was not agreed upon", msg)
	}
}

func (s *Session) onHello(data []byte) *Error {
	m, err := framecodec.ParseHello(data)
	if err != nil {
		return Errorf(framecodec.CodeProtocolError, "Hello: %w", err)
	}
	c := &s.send.credit
	c.payload.Store(min(m.MaxPayload, c.payload.Load()))
	c.peerMost.Store(m.MaxPayload)
	c.stream.Store(max(uint64(m.StreamWindow), c.stream.Load()))
	c.limit.Store(max(m.SessionWindow, c.limit.Load()))
	s.features.Store(m.Features & s.offered())
	s.recv.helloSeen.Store(true)
	s.helloDone()
	s.EachStream(func(st *Stream) { s.raise(st, c.stream.Load()) })
	s.mu.Lock()
	s.wakeLocked(waitRoom)
	s.mu.Unlock()
	return nil
}

func (s *Session) onPing2(data []byte) *Error {
	m, err := framecodec.ParsePing(data)
	if err != nil || len(m.Extra) != 8 || m.Conn != 0 {
		return Errorf(framecodec.CodeProtocolError, "a Ping that is not a clock of 8 bytes")
	}
	return s.owe(framecodec.Pong{Extra: m.Extra})
}

func (s *Session) onPong2(data []byte) *Error {
	m, err := framecodec.ParsePong(data)
	if err != nil || len(m.Extra) != 8 {
		return Errorf(framecodec.CodeProtocolError, "a Pong that answers no Ping of ours")
	}
	sent := time.Duration(binary.BigEndian.Uint64(m.Extra))
	rtt := now() - sent
	if sent <= 0 || rtt < 0 || rtt > time.Hour {
		return Errorf(framecodec.CodeProtocolError, "a Pong that answers no Ping of ours")
	}
	rtt = max(rtt, 1) // a clock may be coarser than the path is long
	smooth := time.Duration(s.rttNanos.Load())
	if smooth == 0 {
		smooth = rtt
	}
	s.rttNanos.Store(int64(smooth + (rtt-smooth)/8))
	least := time.Duration(s.minRTTNanos.Load())
	if least == 0 || rtt < least {
		least = rtt
	} else {
		least += (rtt - least) / 64 // a path that became longer is believed slowly
	}
	s.minRTTNanos.Store(int64(least))
	return nil
}

func (s *Session) onWindow(data []byte) *Error {
	m, err := framecodec.ParseWindow(data)
	if err != nil {
		return Errorf(framecodec.CodeProtocolError, "Window: %w", err)
	}
	if m.Conn == 0 {
		c := &s.send.credit
		if m.Limit < c.limit.Load() || m.Consumed > m.Limit {
			return Errorf(framecodec.CodeProtocolError, "session credit was taken back")
		}
		c.limit.Store(m.Limit)
		s.mu.Lock()
		s.wakeLocked(waitCredit)
		s.mu.Unlock()
		return nil
	}
	st, fault := s.lookup(m.Conn)
	if st == nil || st.isFlow() { // a flow has no window
		return fault
	}
	st.mu.Lock()
	back := m.Limit < st.limit || m.Consumed > st.sent
	st.mu.Unlock()
	if back {
		s.endStream(st, Errorf(framecodec.CodeProtocolError, "the stream's limit was moved back"), true)
		return nil
	}
	s.raise(st, m.Limit)
	return nil
}

// raise gives a stream more credit.
func (s *Session) raise(st *Stream, limit uint64) {
	st.mu.Lock()
	unblock := false
	if limit > st.limit {
		st.limit = limit
		unblock = st.unblockLocked()
	}
	st.mu.Unlock()
	if unblock {
		s.queueReady(st)
	}
}

func (s *Session) onOpen2(data []byte) *Error {
	m, err := framecodec.ParseOpen(data)
	if err != nil {
		return Errorf(framecodec.CodeProtocolError, "Open: %w", err)
	}
	due := s.recv.highest + 2
	if s.recv.highest == 0 && !s.client {
		due = 1
	}
	switch {
	case s.client && s.features.Load()&framecodec.FeatureReverse == 0:
		return Errorf(framecodec.CodeProtocolError, "the gateway opens a stream that was not agreed upon")
	case m.Conn != due, due < s.recv.highest: // the latter: no number is left
		return Errorf(framecodec.CodeProtocolError, "Open of number %d out of turn", m.Conn)
	}
	s.recv.highest = m.Conn
	trace, _ := m.TLVs.Get(framecodec.TLVTraceparent)
	code, text := framecodec.CodeUnknownTarget, "this kind of target, or so long a name, is not known here"
	if m.Kind >= framecodec.KindNamed && m.Kind <= framecodec.KindNamedDatagram && len(m.Host) <= framecodec.MaxHost {
		t := Target{Kind: Kind(m.Kind), Host: string(m.Host), Port: m.Port}
		code, text = s.admit(m.Conn, t, string(trace), uint64(m.Window))
	}
	if code != framecodec.CodeNormal {
		return s.owe(framecodec.Reset{Conn: m.Conn, Code: code, Text: []byte(text)})
	}
	return nil
}

// lookup finds the stream of a number that the peer uses. A nil stream without
// an error is one that has ended; a number that was never opened is an error.
func (s *Session) lookup(n uint32) (*Stream, *Error) {
	if st := s.stream(n); st != nil {
		return st, nil
	}
	highest := s.recv.highest
	if s.ours(n) {
		highest = s.recv.highestOwn.Load()
	}
	if n > highest || n == 0 {
		return nil, Errorf(framecodec.CodeProtocolError, "stream %d was never opened", n)
	}
	return nil, nil
}

func (s *Session) onOpened2(data []byte) *Error {
	m, err := framecodec.ParseOpened(data)
	if err != nil {
		return Errorf(framecodec.CodeProtocolError, "Opened: %w", err)
	}
	st, fault := s.lookup(m.Conn)
	if st != nil && !s.opened(st, uint64(m.Window)) {
		s.endStream(st, Errorf(framecodec.CodeProtocolError, "Opened twice, or by the side that opened"), true)
	}
	return fault
}

func (s *Session) onReset2(data []byte) *Error {
	m, err := framecodec.ParseReset(data)
	if err != nil {
		return Errorf(framecodec.CodeProtocolError, "Reset: %w", err)
	}
	st, fault := s.lookup(m.Conn)
	if st != nil {
		code := m.Code
		if code == framecodec.CodeNormal {
			code = framecodec.CodeInternal
		}
		s.endStream(st, &Error{Code: code, Text: framecodec.SafeText(m.Text)}, false)
	}
	return fault
}

func (s *Session) onFinish2(data []byte) *Error {
	m, err := framecodec.ParseFinish(data)
	if err != nil {
		return Errorf(framecodec.CodeProtocolError, "Finish: %w", err)
	}
	st, fault := s.lookup(m.Conn)
	if st == nil {
		return fault
	}
	st.mu.Lock()
	wrong := st.flow != nil || m.Offset != st.got || st.finSeen || st.entry && !st.state.opened
	st.mu.Unlock()
	if wrong {
		s.endStream(st, Errorf(framecodec.CodeProtocolError, "Finish that is not at the next offset"), true)
		return nil
	}
	s.peerEnded(st)
	return nil
}

func (s *Session) onGoAway(data []byte) *Error {
	m, err := framecodec.ParseGoAway(data)
	if err != nil {
		return Errorf(framecodec.CodeProtocolError, "GoAway: %w", err)
	}
	s.mu.Lock()
	s.refuseOpensLocked(&Error{Code: m.Code, Text: "the other side takes no new streams"})
	s.mu.Unlock()
	return nil
}

func (s *Session) onClose2(data []byte) *Error {
	m, err := framecodec.ParseClose(data)
	if err != nil {
		return Errorf(framecodec.CodeProtocolError, "Close: %w", err)
	}
	code := m.Code
	if code == framecodec.CodeNormal {
		code = framecodec.CodeTunnelClosed
	}
	s.recv.closed = true
	return &Error{Code: code, Text: framecodec.SafeText(m.Text)}
}
