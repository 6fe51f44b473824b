package tunnel

import (
	"encoding/json"
	"time"

	"github.com/culvertgate/culvert/framecodec"
)

// Dialect 1 is what the reference system speaks; SPEC.md section 2. It has no
// windows: a stream's queue is bounded by stalling the whole channel.
const (
	// queue1 is how much one stream of dialect 1 may have queued.
	queue1 = 1 << 20
	// ping1 is the most that a Ping may carry.
	ping1 = 2 << 10
)

// appendStream1 writes what a stream owes; the caller holds its lock.
func (s *Session) appendStream1(b []byte, st *Stream, owed uint8) []byte {
	if owed&oweOpen != 0 {
		m := framecodec.OpenConnection{Conn: st.num}
		if !st.target.Named() {
			m.HasTarget, m.Host, m.Port = true, []byte(st.target.Host), st.target.Port
		}
		b = m.AppendFrame(b, s.frameWord())
	}
	if owed&owePing != 0 && !st.gone {
		b = probeFrame(st.num).AppendFrame(b, s.frameWord())
	}
	if owed&oweOpened != 0 && !st.gone {
		b = framecodec.ConnectionOpened{Conn: st.num}.AppendFrame(b, s.frameWord())
	}
	if owed&oweReset != 0 && st.num != 0 {
		m := framecodec.CloseConnection{Conn: st.num, Reason: framecodec.ReasonNormal}
		if st.extra != nil && st.extra.err != nil {
			m.Reason, m.Text = reason1(st.extra.err.Code), peerText(st.extra.err.Text)
		}
		b = m.AppendFrame(b, s.frameWord())
	}
	return b
}

// reason1 is what a peer is told of one connection's end. The reference's
// listening side accepts nothing any more after Error or UpstreamClosed, so one
// target's reset would end the whole forward: it is told Unknown instead.
func reason1(c Code) framecodec.Reason {
	switch r := c.Reason(); r {
	case framecodec.ReasonError, framecodec.ReasonUpstreamClosed:
		return framecodec.ReasonUnknown
	default:
		return r
	}
}

// control1 handles a control frame of dialect 1. What is wrong with one
// connection concerns that connection only.
func (s *Session) control1(payload []byte) *Error {
	msg, data, err := framecodec.ParseControl(payload)
	if err != nil {
		return nil // shorter than a code: skipped, as an unknown one is
	}
	switch msg {
	case framecodec.MsgPing:
		return s.onPing1(data)
	case framecodec.MsgPong:
		s.onPong1(data)
	case framecodec.MsgOpenConnection:
		return s.onOpen1(data)
	case framecodec.MsgConnectionOpened:
		if m, err := framecodec.ParseConnectionOpened(data); err == nil {
			if st := s.known1(m.Conn); st != nil {
				s.opened(st, 0)
			}
		}
	case framecodec.MsgSendEOF:
		if m, err := framecodec.ParseSendEOF(data); err == nil {
			if st := s.known1(m.Conn); st != nil {
				s.opened(st, 0) // who has an end to say is connected
				s.peerEnded(st)
			}
		}
	case framecodec.MsgCloseConnection:
		return s.onClose1(data)
	case framecodec.MsgMetricsRequest:
		return s.onMetrics1()
	default: // an answer that nobody waits for, or unknown: skipped
	}
	return nil
}

// data1 takes a data frame of dialect 1.
func (s *Session) data1(f framecodec.Frame) (fault *Error) {
	if st := s.known1(f.Conn); st != nil {
		s.deliver(st, f)
	} else {
		fault = s.stray1(f.Conn)
	}
	if s.rates.Load() != nil {
		s.pay1(len(f.Payload))
	}
	return fault
}

func (s *Session) known1(n uint32) *Stream {
	if n == 0 {
		return nil
	}
	return s.table.get(n)
}

func (s *Session) onPing1(data []byte) *Error {
	if len(data) > ping1 {
		return Errorf(framecodec.CodeProtocolError, "a Ping of more than 2 KiB")
	}
	m, err := framecodec.ParsePing(data)
	if err != nil {
		return nil //nolint:nilerr // a malformed Ping gets no answer, and nothing else happens
	}
	return s.owe(framecodec.Pong{Conn: m.Conn, Extra: m.Extra})
}

// frameAppender is a message that can write itself as a whole frame.
type frameAppender interface {
	AppendFrame(b []byte, word uint64) []byte
}

// owe leaves a reply and waits while the peer is owed too much.
func (s *Session) owe(m frameAppender) *Error {
	if room, fault := s.reply(m); room || fault != nil {
		return fault
	}
	for {
		select {
		case <-s.room:
		case <-s.done:
			return nil
		}
		s.mu.Lock()
		fits := len(s.replies) < repliesMost
		s.mu.Unlock()
		if fits {
			return nil
		}
	}
}

func (s *Session) onOpen1(data []byte) *Error {
	m, err := framecodec.ParseOpenConnection(data)
	if m.Conn == 0 {
		return nil //nolint:nilerr // nothing can be said: a close of connection 0 would end the channel
	}
	if err != nil {
		return s.owe(framecodec.CloseConnection{Conn: m.Conn, Reason: framecodec.ReasonProtocolError})
	}
	if st := s.known1(m.Conn); st != nil {
		st.mu.Lock()
		again := st.state.opened && !st.entry
		st.mu.Unlock()
		if again { // said again if the number is already open
			return s.owe(framecodec.ConnectionOpened{Conn: m.Conn})
		}
		return nil
	}
	refuse := func(r framecodec.Reason, text string) *Error {
		return s.owe(framecodec.CloseConnection{Conn: m.Conn, Reason: r, Text: []byte(text)})
	}
	switch {
	case s.client:
		return refuse(framecodec.ReasonServerRefuse, "this side takes no connections")
	case len(m.Host) > framecodec.MaxHost:
		return refuse(framecodec.ReasonConfigurationError, "the host's name is too long")
	case !s.recv.numbers.use(m.Conn):
		return refuse(framecodec.ReasonProtocolError, "this connection number was used before, or is too far ahead")
	}
	t := Target{Kind: KindNamed}
	if m.HasTarget {
		t = Target{Kind: KindTCP, Host: string(m.Host), Port: m.Port}
	}
	code, text := s.admit(m.Conn, t, "", 0)
	if code != framecodec.CodeNormal {
		return refuse(reason1(code), text)
	}
	return nil
}

func (s *Session) onClose1(data []byte) *Error {
	m, err := framecodec.ParseCloseConnection(data)
	if err != nil {
		return nil //nolint:nilerr // concerns no connection that can be named
	}
	if m.Conn == 0 {
		code := m.Reason.Code()
		if code == framecodec.CodeNormal {
			code = framecodec.CodeTunnelClosed
		}
		s.recv.closed = true
		return &Error{Code: code, Text: framecodec.SafeText(m.Text)}
	}
	st := s.known1(m.Conn)
	if st == nil {
		return nil
	}
	orderly := m.Reason == framecodec.ReasonNormal || m.Reason == framecodec.ReasonConnectionLost
	if orderly && st.hasData() {
		s.opened(st, 0) // the reference's reader may be ahead of its ConnectionOpened
	}
	st.mu.Lock()
	orderly = orderly && st.state.opened
	if orderly && m.Reason == framecodec.ReasonNormal {
		st.quiet = true
		st.state = st.state.next(eventLocalEnd) // the peer takes nothing more
	}
	entry := st.entry
	st.mu.Unlock()
	if !orderly {
		s.endStream(st, &Error{Code: unopenedCode(m.Reason, entry), Text: framecodec.SafeText(m.Text)}, false)
		return nil
	}
	// All data, then FIN. The reference says ConnectionLost at every end of its
	// target and still takes what we send; after Normal it takes nothing.
	s.peerEnded(st)
	return nil
}

// hasData reports whether the peer has sent payload.
func (st *Stream) hasData() bool {
	st.mu.Lock()
	defer st.mu.Unlock()
	return st.got > 0
}

// unopenedCode never is normal: a connection that is closed before it was opened
// was refused by the exit, or given up by the entry.
func unopenedCode(r framecodec.Reason, entry bool) Code {
	switch c := r.Code(); {
	case c != framecodec.CodeNormal:
		return c
	case entry:
		return framecodec.CodeRefused
	default:
		return framecodec.CodeCancelled
	}
}

// onMetrics1 answers a MetricsRequest with what a peer of the reference reads.
func (s *Session) onMetrics1() *Error {
	type bytes struct {
		Sent     uint64 `json:"sent_total"`
		Received uint64 `json:"received_total"`
	}
	text, err := json.Marshal(struct {
		Schema    int    `json:"schema_version"`
		Transport string `json:"transport_type"`
		Active    int64  `json:"active_connections_on_tube"`
		Bytes     bytes  `json:"bytes"`
	}{1, "WebRTC", s.live.Load(), bytes{s.bytesOut.Load(), s.bytesIn.Load()}})
	if err != nil {
		return Errorf(framecodec.CodeInternal, "encoding metrics: %w", err)
	}
	return s.owe(framecodec.MetricsResponse{JSON: text})
}

// stray1 is data for a number that is not open: dropped, and said once.
func (s *Session) stray1(n uint32) *Error {
	s.stray.Add(1)
	if s.closed() {
		return nil // our Close says how its stream ended; this would make it an orderly end
	}
	for _, told := range s.recv.told {
		if told == n {
			return nil
		}
	}
	s.recv.told[s.recv.toldAt] = n
	s.recv.toldAt = (s.recv.toldAt + 1) % len(s.recv.told)
	return s.owe(framecodec.CloseConnection{Conn: n, Reason: framecodec.ReasonConnectionLost})
}

// stall stops reading the channel until the stream's queue is short again: that
// is dialect 1's only way to slow a peer down. After WriteTimeout the stream is
// cut instead.
func (s *Session) stall(st *Stream) {
	s.known(st) // nothing that answers a probe is read meanwhile
	timer := time.NewTimer(s.cfg.WriteTimeout)
	defer timer.Stop()
	s.recv.stalled.Store(true)
	defer s.recv.stalled.Store(false)
	for !s.queueFits(st) {
		select {
		case <-s.recv.drained:
		case <-s.done:
			return
		case <-timer.C:
			s.endStream(st, &Error{Code: framecodec.CodeSlowConsumer, Text: "the receiver took no data for too long"}, true)
			return
		}
	}
}

// queueFits: a stream whose queue is empty keeps up, whatever the others hold.
func (s *Session) queueFits(st *Stream) bool {
	st.mu.Lock()
	defer st.mu.Unlock()
	return st.gone || st.queue.n == 0 || st.queue.n <= queue1/2 && s.cfg.Budget.Free(1) > 0
}

// drainedToken has a stalled receiver look again.
func (s *Session) drainedToken() {
	select {
	case s.recv.drained <- struct{}{}:
	default:
	}
}
