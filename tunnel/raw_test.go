package tunnel_test

import (
	"bytes"
	"context"
	"io"
	"net"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/culvertgate/culvert/framecodec"
	"github.com/culvertgate/culvert/tunnel"
)

// raw is a peer that writes frames by hand, right ones and wrong ones, against
// one Session.
type raw struct {
	t        *testing.T
	d        tunnel.Dialect
	s        *tunnel.Session
	w        *wire
	budget   *tunnel.Budget
	accepted chan *accepted
	word     uint64 // of the next control frame
	frames   []byte // received and not yet looked at
	sent     map[uint32]uint64
	opened   chan *tunnel.Stream // streams of the session's own opens
	shy      bool                // it leaves probes of dialect 1 to the test
}

type accepted struct {
	in   *tunnel.Incoming
	conn net.Conn
}

// message is what framecodec's messages have in common.
type message interface {
	AppendFrame(b []byte, word uint64) []byte
}

// newRaw starts a session of the given role; the raw peer has the other one.
func newRaw(t *testing.T, d tunnel.Dialect, role tunnel.Role, change func(*tunnel.Config)) *raw {
	t.Helper()
	t.Cleanup(func() { goleak.VerifyNone(t) })
	return rawBeside(t, d, role, change)
}

// rawBeside is newRaw for a test that has one already.
func rawBeside(t *testing.T, d tunnel.Dialect, role tunnel.Role, change func(*tunnel.Config)) *raw {
	t.Helper()
	a, b := newWires()
	r := &raw{t: t, d: d, w: b, budget: tunnel.NewBudget(nil, 64<<20), sent: map[uint32]uint64{},
		accepted: make(chan *accepted, 4096), opened: make(chan *tunnel.Stream, 16)}
	cfg := tunnel.Config{Dialect: d, Role: role, Budget: r.budget, Accept: func(in *tunnel.Incoming) {
		conn, ep := newConn()
		if in.Attach(ep, "192.0.2.1:80") == nil {
			r.accepted <- &accepted{in, conn}
		}
	}}
	if change != nil {
		change(&cfg)
	}
	r.s = tunnel.NewSession(a, cfg)
	watchdog := time.AfterFunc(20*time.Second, func() { _ = b.Close(0) })
	t.Cleanup(func() {
		watchdog.Stop()
		_ = b.Close(0)
		r.s.Wait()
	})
	return r
}

var rawHello = framecodec.Hello{Version: 2, MaxPayload: framecodec.MaxPayload2,
	StreamWindow: 256 << 10, SessionWindow: 1 << 20, Features: framecodec.FeatureReverse}

// greet exchanges Hellos.
func (r *raw) greet() {
	r.t.Helper()
	if r.d == tunnel.Dialect1 {
		return
	}
	r.send(rawHello)
	r.await(framecodec.MsgHello)
}

func (r *raw) send(m message) {
	r.write(m.AppendFrame(nil, r.word))
	r.word++
}

// sendPayload sends a control payload that no message makes.
func (r *raw) sendPayload(p []byte) {
	r.write(framecodec.AppendFrame(nil, 0, r.word, p))
	r.word++
}

func (r *raw) write(b []byte) {
	if err := r.w.WriteMessage(b); err != nil {
		r.t.Log("writing:", err) // the session has closed it
	}
}

// data sends payload at the next offset of the stream.
func (r *raw) data(n uint32, p []byte) {
	for len(p) > 0 {
		k := min(len(p), 32<<10)
		r.write(framecodec.AppendFrame(nil, n, r.sent[n], p[:k]))
		r.sent[n] += uint64(k)
		p = p[k:]
	}
}

// open opens a stream as a client does and waits for the answer.
func (r *raw) open(n uint32) net.Conn {
	r.t.Helper()
	if r.d == tunnel.Dialect1 {
		r.send(framecodec.OpenConnection{Conn: n})
		r.await(framecodec.MsgConnectionOpened)
	} else {
		r.send(framecodec.Open{Conn: n, Kind: framecodec.KindNamed, Host: []byte("x")})
		r.await(framecodec.MsgOpened)
	}
	return (<-r.accepted).conn
}

// openFrom has the session, a client, open a stream, which is answered.
func (r *raw) openFrom(n uint32) *tunnel.Conn {
	r.t.Helper()
	conn, ep := newConn()
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		st, err := r.s.Open(ctx, tunnel.Target{Kind: tunnel.KindNamed, Host: "x"}, ep)
		if err != nil {
			st = nil
		}
		r.opened <- st
	}()
	r.await(framecodec.MsgOpen)
	r.send(framecodec.Opened{Conn: n})
	<-r.opened
	return conn
}

// next returns the next frame that the session sends; ok is false at the end.
func (r *raw) next() (f framecodec.Frame, ok bool) {
	var buf [65536]byte
	for {
		f, n, err := framecodec.ParseFrame(r.frames, framecodec.MaxPayload1)
		if err == nil {
			r.frames = r.frames[n:]
			return f, true
		}
		if err := r.w.Wait(); err != nil {
			return f, false
		}
		k, err := r.w.ReadMessage(buf[:])
		if err != nil {
			return f, false
		}
		r.frames = append(append([]byte(nil), r.frames...), buf[:k]...)
	}
}

// nextControl skips data frames.
func (r *raw) nextControl() (framecodec.Message, []byte, bool) {
	for {
		f, ok := r.next()
		if !ok {
			return 0, nil, false
		}
		if f.Conn == 0 {
			msg, data, err := framecodec.ParseControl(f.Payload)
			if err != nil {
				r.t.Fatal(err)
			}
			if !r.answersProbe(msg, data) {
				return msg, data, true
			}
		}
	}
}

// answersProbe answers the questions of dialect 1: whether an opener knows its own
// number, and whether anybody is there.
func (r *raw) answersProbe(msg framecodec.Message, data []byte) bool {
	if r.d != tunnel.Dialect1 || r.shy || msg != framecodec.MsgPing {
		return false
	}
	m, err := framecodec.ParsePing(data)
	if err != nil {
		return false
	}
	r.send(framecodec.Pong{Conn: m.Conn, Extra: m.Extra})
	return true
}

// await skips frames until a message of a kind, and returns its data.
func (r *raw) await(want framecodec.Message) []byte {
	r.t.Helper()
	for {
		msg, data, ok := r.nextControl()
		switch {
		case !ok:
			r.t.Fatalf("no %v came; the session: %v", want, r.s.Err())
		case msg == want:
			return data
		case msg == framecodec.MsgClose, msg == framecodec.MsgReset, msg == framecodec.MsgCloseConnection:
			r.t.Fatalf("%v instead of %v: %q", msg, want, data)
		}
	}
}

// expectClose is the end of the session, told and done.
func (r *raw) expectClose(code tunnel.Code) {
	r.t.Helper()
	if r.d == tunnel.Dialect1 {
		c, err := framecodec.ParseCloseConnection(r.awaitEnd(framecodec.MsgCloseConnection))
		if err != nil || c.Conn != 0 || c.Reason != code.Reason() {
			r.t.Errorf("CloseConnection %+v (%v), want reason %d for connection 0", c, err, code.Reason())
		}
	} else {
		c, err := framecodec.ParseClose(r.awaitEnd(framecodec.MsgClose))
		if err != nil || c.Code != code || len(c.Text) == 0 {
			r.t.Errorf("Close with %v %q (%v), want %v with a text", c.Code, c.Text, err, code)
		}
	}
	select {
	case <-r.s.Done():
	case <-time.After(10 * time.Second):
		r.t.Fatal("the session did not end")
	}
	if got := tunnel.CodeOf(r.s.Err()); got != code {
		r.t.Errorf("the session ended with %v, want %v", r.s.Err(), code)
	}
	r.s.Wait()
	waitFor(r.t, func() bool { return r.budget.Used() == 0 && r.s.Stats().Streams == 0 })
}

// awaitEnd is await for the messages that end something.
func (r *raw) awaitEnd(want framecodec.Message) []byte {
	r.t.Helper()
	for {
		msg, data, ok := r.nextControl()
		if !ok {
			r.t.Fatalf("no %v came; the session: %v", want, r.s.Err())
		}
		if msg == want {
			return data
		}
	}
}

// expectReset is the end of one stream; the session lives on.
func (r *raw) expectReset(n uint32, code tunnel.Code) {
	r.t.Helper()
	var at uint32
	var got tunnel.Code
	if r.d == tunnel.Dialect1 {
		c, err := framecodec.ParseCloseConnection(r.awaitEnd(framecodec.MsgCloseConnection))
		if err != nil {
			r.t.Fatal(err)
		}
		at, got, code = c.Conn, c.Reason.Code(), code.Reason().Code()
	} else {
		m, err := framecodec.ParseReset(r.awaitEnd(framecodec.MsgReset))
		if err != nil {
			r.t.Fatal(err)
		}
		at, got = m.Conn, m.Code
	}
	if at != n || got != code {
		r.t.Errorf("stream %d ended with %v, want %d with %v", at, got, n, code)
	}
}

// exchange sends bytes both ways through a stream.
func (r *raw) exchange(n uint32, conn net.Conn) {
	r.t.Helper()
	r.data(n, []byte("there"))
	var b [5]byte
	_ = conn.SetReadDeadline(time.Now().Add(10 * time.Second))
	if _, err := io.ReadFull(conn, b[:]); err != nil || string(b[:]) != "there" {
		r.t.Errorf("stream %d: read %q, %v", n, b, err)
		return
	}
	_ = conn.SetWriteDeadline(time.Now().Add(10 * time.Second))
	if _, err := conn.Write([]byte("back")); err != nil {
		r.t.Errorf("stream %d: %v", n, err)
		return
	}
	for {
		f, ok := r.next()
		if !ok {
			r.t.Errorf("stream %d: the session ended: %v", n, r.s.Err())
			return
		}
		if f.Conn == n {
			if !bytes.Equal(f.Payload, []byte("back")) {
				r.t.Errorf("stream %d: got %q", n, f.Payload)
			}
			return
		}
	}
}
