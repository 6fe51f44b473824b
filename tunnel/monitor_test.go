package tunnel_test

import (
	"errors"
	"fmt"
	"sync"

	"github.com/culvertgate/culvert/framecodec"
	"github.com/culvertgate/culvert/tunnel"
)

// monitor reads what both sessions write and holds it against SPEC.md, with
// nothing of the engine's own: who may say what and when, offsets, sequence
// numbers, windows and session credit.
type monitor struct {
	d   tunnel.Dialect
	mu  sync.Mutex
	err error
	// Index 0: the client's frames, 1: the gateway's.
	side [2]monitoredSide
	open map[uint32]*monitoredStream
	last uint32
}

type monitoredSide struct {
	hello    bool
	sequence uint64
	window   uint64 // of Hello: what the other side may send on a stream
	session  uint64 // credit given to the other side
	ahead    uint64 // the most that its session credit was ahead of what it had consumed
	eighth   uint64 // the largest window of one stream since the last session credit
	limited  bool   // a rate gives less credit than the window is, of which a stream has an eighth
	total    uint64 // data sent
	frames   int
}

type monitoredStream struct {
	answered bool
	limit    [2]uint64 // granted by that side to the other one
	sent     [2]uint64
	finished [2]bool
	reset    [2]bool
}

func newMonitor(d tunnel.Dialect) *monitor {
	m := &monitor{d: d, open: map[uint32]*monitoredStream{}}
	for i := range m.side {
		m.side[i].window, m.side[i].session = framecodec.MinStreamWindow, framecodec.MinSessionWindow
		m.side[i].ahead = framecodec.MinSessionWindow
	}
	return m
}

// tap returns the function that sees the messages of a side.
func (m *monitor) tap(side int) func([]byte) {
	return func(msg []byte) {
		m.mu.Lock()
		defer m.mu.Unlock()
		for len(msg) > 0 && m.err == nil {
			f, n, err := framecodec.ParseFrame(msg, 65536)
			if err != nil { // whole frames only: what our side of the protocol promises
				m.err = fmt.Errorf("side %d: %w", side, err)
				return
			}
			msg = msg[n:]
			m.side[side].frames++
			if err := m.frame(side, f); err != nil {
				m.err = fmt.Errorf("side %d, frame %d (connection %d, %d bytes): %w", side, m.side[side].frames, f.Conn, len(f.Payload), err)
			}
		}
	}
}

func (m *monitor) fault() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.err
}

func (m *monitor) frame(side int, f framecodec.Frame) error {
	switch {
	case f.Conn != 0:
		return m.data(side, f)
	case m.d == tunnel.Dialect1:
		return m.control1(side, f.Payload)
	default:
		return m.control2(side, f)
	}
}

func (m *monitor) data(side int, f framecodec.Frame) error {
	st := m.open[f.Conn]
	n := uint64(len(f.Payload))
	me, other := &m.side[side], &m.side[1-side]
	switch {
	case st == nil:
		return errors.New("data of a stream that was never opened")
	case side == 1 && !st.answered:
		return errors.New("data before the answer")
	case st.finished[side] || st.reset[side]:
		return errors.New("data behind the end")
	case m.d == tunnel.Dialect1:
		st.sent[side] += n
		return nil
	case !me.hello:
		return errors.New("data before Hello")
	case f.Word != st.sent[side]:
		return fmt.Errorf("offset %d where %d is due", f.Word, st.sent[side])
	}
	st.sent[side] += n
	me.total += n
	if limit := max(other.window, st.limit[1-side]); st.sent[side] > limit {
		return fmt.Errorf("%d bytes with a limit of %d", st.sent[side], limit)
	}
	if me.total > other.session {
		return fmt.Errorf("%d bytes in all with a session credit of %d", me.total, other.session)
	}
	return nil
}

func (m *monitor) control2(side int, f framecodec.Frame) error {
	me := &m.side[side]
	if f.Word != me.sequence {
		return fmt.Errorf("control sequence %d where %d is due", f.Word, me.sequence)
	}
	me.sequence++
	msg, data, err := framecodec.ParseControl(f.Payload)
	if err != nil {
		return err
	}
	if (msg == framecodec.MsgHello) == me.hello {
		return fmt.Errorf("%v, and Hello said: %v", msg, me.hello)
	}
	switch msg {
	case framecodec.MsgHello:
		h, err := framecodec.ParseHello(data)
		me.hello = true
		me.window, me.session = max(me.window, uint64(h.StreamWindow)), max(me.session, h.SessionWindow)
		if side == 1 && !m.side[0].hello {
			err = errors.New("the gateway spoke first")
		}
		return err
	case framecodec.MsgOpen:
		return m.opened2(side, data)
	case framecodec.MsgOpened:
		o, err := framecodec.ParseOpened(data)
		return errors.Join(err, m.answer(side, o.Conn, uint64(o.Window)))
	case framecodec.MsgWindow:
		w, err := framecodec.ParseWindow(data)
		return errors.Join(err, m.window(side, w))
	case framecodec.MsgFinish:
		fin, err := framecodec.ParseFinish(data)
		if st := m.open[fin.Conn]; err == nil && (st == nil || fin.Offset != st.sent[side]) {
			return errors.New("Finish at a wrong offset")
		}
		return errors.Join(err, m.finish(side, fin.Conn))
	case framecodec.MsgReset:
		r, err := framecodec.ParseReset(data)
		return errors.Join(err, m.reset(side, r.Conn, false))
	default: // of no stream
		return nil
	}
}

func (m *monitor) opened2(side int, data []byte) error {
	o, err := framecodec.ParseOpen(data)
	if err != nil || side != 0 || o.Conn != max(m.last+2, 1) && !(m.last == 0 && o.Conn == 1) {
		return fmt.Errorf("Open of %d behind %d: %w", o.Conn, m.last, err)
	}
	m.last = o.Conn
	m.open[o.Conn] = &monitoredStream{limit: [2]uint64{uint64(o.Window), 0}}
	return nil
}

func (m *monitor) answer(side int, n uint32, window uint64) error {
	st := m.open[n]
	if st == nil || side != 1 || st.answered || st.reset[1] {
		return errors.New("an answer that is not due")
	}
	st.answered = true
	st.limit[1] = window
	return nil
}

// limit is told that a side's rates change.
func (m *monitor) limit(side int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.side[side].limited = true
}

func (m *monitor) window(side int, w framecodec.Window) error {
	if w.Conn == 0 {
		me := &m.side[side]
		if w.Limit <= me.session || w.Consumed > m.side[1-side].total {
			return fmt.Errorf("session credit from %d to %d, %d consumed of %d", me.session, w.Limit, w.Consumed, m.side[1-side].total)
		}
		me.session = w.Limit
		me.ahead = max(me.ahead, w.Limit-w.Consumed)
		if me.eighth > me.ahead/8 && !me.limited {
			return fmt.Errorf("a stream was granted %d bytes ahead, more than an eighth of %d", me.eighth, me.ahead)
		}
		me.eighth = 0
		return nil
	}
	st := m.open[w.Conn]
	if st == nil || w.Limit <= st.limit[side] || w.Consumed > st.sent[1-side] {
		return errors.New("a Window that moves back or tells of more than was sent")
	}
	st.limit[side] = w.Limit
	// Beyond Hello's window and the least one, no more than an eighth of what is
	// free, which is no more than the session credit: the one of the next Window
	// of the session, since that may follow the stream's for which it was raised.
	if ahead := w.Limit - w.Consumed; w.Limit > m.side[side].window && ahead > 64<<10 {
		m.side[side].eighth = max(m.side[side].eighth, ahead)
	}
	return nil
}

func (m *monitor) finish(side int, n uint32) error {
	st := m.open[n]
	if st == nil || st.finished[side] || st.reset[side] || side == 1 && !st.answered {
		return errors.New("an end that is not due")
	}
	st.finished[side] = true
	return nil
}

// reset: lost is dialect 1's answer to data of a stream that is gone.
func (m *monitor) reset(side int, n uint32, lost bool) error {
	st := m.open[n]
	if st == nil || st.reset[side] && !lost {
		return errors.New("a reset that is not due")
	}
	st.reset[side] = true
	return nil
}

func (m *monitor) control1(side int, payload []byte) error {
	msg, data, err := framecodec.ParseControl(payload)
	if err != nil {
		return err
	}
	switch msg {
	case framecodec.MsgOpenConnection:
		o, err := framecodec.ParseOpenConnection(data)
		if err != nil || side != 0 || o.Conn != m.last+1 {
			return fmt.Errorf("OpenConnection of %d behind %d: %w", o.Conn, m.last, err)
		}
		m.last = o.Conn
		m.open[o.Conn] = &monitoredStream{}
	case framecodec.MsgConnectionOpened:
		o, err := framecodec.ParseConnectionOpened(data)
		return errors.Join(err, m.answer(side, o.Conn, 0))
	case framecodec.MsgSendEOF:
		e, err := framecodec.ParseSendEOF(data)
		return errors.Join(err, m.finish(side, e.Conn))
	case framecodec.MsgCloseConnection:
		c, err := framecodec.ParseCloseConnection(data)
		if err != nil || c.Conn == 0 {
			return err
		}
		return m.reset(side, c.Conn, c.Reason == framecodec.ReasonConnectionLost)
	default: // of no stream
	}
	return nil
}
