package tunnel_test

import (
	"bytes"
	"encoding/json"
	"testing"

	"github.com/culvertgate/culvert/framecodec"
	"github.com/culvertgate/culvert/tunnel"
)

// nothing sends a Ping and expects its Pong to be the next thing said.
func (r *raw) nothing() {
	r.t.Helper()
	r.send(framecodec.Ping{HasConn: true, Extra: []byte("mark")})
	if msg, data, _ := r.nextControl(); msg != framecodec.MsgPong || !bytes.HasSuffix(data, []byte("mark")) {
		r.t.Errorf("%v %q was said, and nothing was due", msg, data)
	}
}

// SPEC.md section 2, rule by rule: what a peer sends (streams 1 and 2 are open)
// and what it is told.
var dialect1Rules = []struct {
	name string
	act  func(r *raw)
	// One of these is expected, or nothing.
	pong    []byte // data of a Pong
	opened  uint32 // ConnectionOpened
	closed  uint32 // CloseConnection of this connection
	reason  framecodec.Reason
	session bool // CloseConnection of connection 0
}{
	{name: "Ping without data", act: func(r *raw) { r.send(framecodec.Ping{}) }, pong: []byte{0, 0, 0, 0}},
	{name: "Ping of 3 bytes", act: func(r *raw) { r.sendPayload(payload(1, 9, 9, 9)) }, pong: []byte{0, 0, 0, 0}},
	{name: "Ping echoes all", act: func(r *raw) { r.sendPayload(payload(1, 0, 0, 0, 1, 7, 8, 9)) }, pong: []byte{0, 0, 0, 1, 7, 8, 9}},
	{name: "Ping of an unknown connection", act: func(r *raw) { r.sendPayload(payload(1, 0, 0, 9, 9)) }, pong: []byte{0, 0, 9, 9}},
	{name: "Ping of 1,404 bytes", act: func(r *raw) { r.sendPayload(payload(1, make([]byte, 1404)...)) }, pong: make([]byte, 1404)},
	{name: "Ping above 2 KiB", act: func(r *raw) { r.sendPayload(payload(1, make([]byte, 2049)...)) }, session: true},
	{name: "Open of an open connection", act: func(r *raw) { r.send(framecodec.OpenConnection{Conn: 1}) }, opened: 1},
	{name: "numbers may overtake", act: func(r *raw) {
		r.send(framecodec.OpenConnection{Conn: 9})
		r.await(framecodec.MsgConnectionOpened)
		r.send(framecodec.OpenConnection{Conn: 8})
	}, opened: 8},
	{name: "number far ahead", act: func(r *raw) { r.send(framecodec.OpenConnection{Conn: 2 + 4096}) }, opened: 2 + 4096},
	{name: "number too far ahead", act: func(r *raw) { r.send(framecodec.OpenConnection{Conn: 2 + 4097}) },
		closed: 2 + 4097, reason: framecodec.ReasonProtocolError},
	{name: "number of a connection that has ended", act: func(r *raw) {
		r.send(framecodec.CloseConnection{Conn: 1, Reason: framecodec.ReasonError})
		r.send(framecodec.OpenConnection{Conn: 1})
	}, closed: 1, reason: framecodec.ReasonProtocolError},
	{name: "number far behind", act: func(r *raw) {
		for _, n := range []uint32{4000, 8000} {
			r.send(framecodec.OpenConnection{Conn: n})
			r.await(framecodec.MsgConnectionOpened)
		}
		r.send(framecodec.OpenConnection{Conn: 3904})
	}, closed: 3904, reason: framecodec.ReasonProtocolError},
	// A close of connection 0, all that could be said, would end the channel.
	{name: "number 0", act: func(r *raw) { r.send(framecodec.OpenConnection{}) }},
	{name: "Open with a host that is cut", act: func(r *raw) { r.sendPayload(payload(101, 0, 0, 0, 3, 0, 0, 0, 9, 'x')) },
		closed: 3, reason: framecodec.ReasonProtocolError},
	{name: "Open with a name of 256 bytes", act: func(r *raw) {
		r.send(framecodec.OpenConnection{Conn: 3, HasTarget: true, Host: make([]byte, 256), Port: 1})
	}, closed: 3, reason: framecodec.ReasonConfigurationError},
	{name: "Open cut before its number", act: func(r *raw) { r.sendPayload(payload(101, 0, 0)) }},
	{name: "data of an unknown connection", act: func(r *raw) { r.data(77, []byte("x")) },
		closed: 77, reason: framecodec.ReasonConnectionLost},
	{name: "that is said once", act: func(r *raw) {
		r.data(77, []byte("x"))
		r.awaitEnd(framecodec.MsgCloseConnection)
		r.data(77, []byte("x"))
	}},
	{name: "unknown message", act: func(r *raw) { r.sendPayload(payload(999, 1, 2, 3)) }},
	{name: "payload of 1 byte", act: func(r *raw) { r.sendPayload([]byte{1}) }},
	{name: "SendEOF cut short", act: func(r *raw) { r.sendPayload(payload(104, 0)) }},
	{name: "CloseConnection cut short", act: func(r *raw) { r.sendPayload(payload(102, 0)) }},
	{name: "close of an unknown connection", act: func(r *raw) { r.send(framecodec.CloseConnection{Conn: 99}) }},
	{name: "MetricsConfig", act: func(r *raw) { r.send(framecodec.MetricsConfig{JSON: []byte("{}")}) }},
	{name: "length above 1 MiB", act: func(r *raw) { r.write(header(1, 0, 1<<20+1)) }, session: true},
	{name: "wrong terminator", act: func(r *raw) { r.write(append(header(1, 0, 1), "xx"...)) }, session: true},
}

func TestDialect1Rules(t *testing.T) {
	for _, rule := range dialect1Rules {
		t.Run(rule.name, func(t *testing.T) {
			r := newRaw(t, tunnel.Dialect1, tunnel.RoleGateway, nil)
			r.open(1)
			other := r.open(2)
			rule.act(r)
			switch {
			case rule.session:
				r.expectClose(framecodec.CodeProtocolError)
				return
			case rule.pong != nil:
				if data := r.await(framecodec.MsgPong); !bytes.Equal(data, rule.pong) {
					t.Errorf("Pong with %x, want %x", data, rule.pong)
				}
			case rule.opened != 0:
				if c, err := framecodec.ParseConnectionOpened(r.await(framecodec.MsgConnectionOpened)); err != nil || c.Conn != rule.opened {
					t.Errorf("opened %+v (%v)", c, err)
				}
			case rule.closed != 0:
				c, err := framecodec.ParseCloseConnection(r.awaitEnd(framecodec.MsgCloseConnection))
				if err != nil || c.Conn != rule.closed || c.Reason != rule.reason {
					t.Errorf("closed %+v (%v), want %d with %d", c, err, rule.closed, rule.reason)
				}
			}
			r.nothing()
			r.exchange(2, other)
		})
	}
}

func TestDialect1CloseOfConnection0(t *testing.T) {
	for reason, want := range map[framecodec.Reason]tunnel.Code{
		framecodec.ReasonNormal:       framecodec.CodeTunnelClosed,
		framecodec.ReasonAdminClosed:  framecodec.CodeClosedByAdmin,
		framecodec.ReasonTunnelClosed: framecodec.CodeTunnelClosed,
	} {
		r := newRaw(t, tunnel.Dialect1, tunnel.RoleGateway, nil)
		r.open(1)
		r.send(framecodec.CloseConnection{Reason: reason, Text: []byte("bye\x1b[2J")})
		<-r.s.Done()
		r.s.Wait()
		if err := r.s.Err(); tunnel.CodeOf(err) != want || bytes.ContainsRune([]byte(err.Error()), 0x1b) {
			t.Errorf("reason %d: %v, want %v without control characters", reason, err, want)
		}
	}
}

// The reference's listening side accepts nothing any more after Error or
// UpstreamClosed: no stream's end may stop the others.
func TestDialect1EndsNoListener(t *testing.T) {
	r := newRaw(t, tunnel.Dialect1, tunnel.RoleGateway, nil)
	for code := framecodec.CodeNormal + 1; code <= framecodec.CodeConflict; code++ {
		n := uint32(code)
		r.open(n)
		r.s.Stream(n).Reset(code, "why")
		c, err := framecodec.ParseCloseConnection(r.awaitEnd(framecodec.MsgCloseConnection))
		want := code.Reason()
		if want == framecodec.ReasonError || want == framecodec.ReasonUpstreamClosed {
			want = framecodec.ReasonUnknown
		}
		if err != nil || c.Conn != n || c.Reason != want || string(c.Text) != "why" {
			t.Errorf("%v: %+v (%v), want reason %d", code, c, err, want)
		}
	}
}

func TestDialect1Metrics(t *testing.T) {
	r := newRaw(t, tunnel.Dialect1, tunnel.RoleGateway, nil)
	r.open(1)
	r.send(framecodec.MetricsRequest{})
	m, err := framecodec.ParseMetricsResponse(r.await(framecodec.MsgMetricsResponse))
	if err != nil {
		t.Fatal(err)
	}
	var got struct {
		Version int `json:"schema_version"`
		Active  int `json:"active_connections_on_tube"`
	}
	if err := json.Unmarshal(m.JSON, &got); err != nil || got.Version != 1 || got.Active != 1 {
		t.Errorf("%s: %+v, %v", m.JSON, got, err)
	}
}

// The reference ends its target's direction by closing with ConnectionLost and
// goes on taking what we send; after Normal it takes nothing.
func TestDialect1ReferenceEnds(t *testing.T) {
	r := newRaw(t, tunnel.Dialect1, tunnel.RoleGateway, nil)
	lost, normal := r.open(1), r.open(2)
	r.data(1, []byte("all of it"))
	r.send(framecodec.CloseConnection{Conn: 1, Reason: framecodec.ReasonConnectionLost})
	readAll(t, lost, "all of it")
	if _, err := lost.Write([]byte("back")); err != nil {
		t.Fatal(err)
	}
	if f, ok := r.next(); !ok || f.Conn != 1 || string(f.Payload) != "back" {
		t.Errorf("got %+v", f)
	}
	_ = lost.Close()
	if _, err := framecodec.ParseSendEOF(r.awaitEnd(framecodec.MsgSendEOF)); err != nil {
		t.Error(err)
	}
	r.expectReset(1, framecodec.CodeNormal) // forget the number

	r.data(2, []byte("and this"))
	r.send(framecodec.CloseConnection{Conn: 2, Reason: framecodec.ReasonNormal})
	readAll(t, normal, "and this")
	waitFor(t, func() bool { return r.s.Stats().Streams == 0 })
	r.nothing()
}

// The reference's reader is a task of its own: what it says of a target that
// answers and ends at once may come before ConnectionOpened. Data or SendEOF
// prove that the connection is open, and its end is no refusal then.
func TestDialect1EndBeforeConnectionOpened(t *testing.T) {
	closing := func(reason framecodec.Reason) message {
		return framecodec.CloseConnection{Conn: 1, Reason: reason}
	}
	for _, tc := range []struct {
		name string
		data string
		end  message
		want tunnel.Code // of Open
	}{
		{"data, ConnectionLost", "banner", closing(framecodec.ReasonConnectionLost), framecodec.CodeNormal},
		{"data, Normal", "banner", closing(framecodec.ReasonNormal), framecodec.CodeNormal},
		{"data, SendEOF", "banner", framecodec.SendEOF{Conn: 1}, framecodec.CodeNormal},
		{"SendEOF alone", "", framecodec.SendEOF{Conn: 1}, framecodec.CodeNormal},
		{"data, ConnectionFailed", "banner", closing(framecodec.ReasonConnectionFailed), framecodec.CodeUnreachable},
		{"ConnectionLost alone", "", closing(framecodec.ReasonConnectionLost), framecodec.CodeInternal},
		{"Normal alone", "", closing(framecodec.ReasonNormal), framecodec.CodeRefused},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := newRaw(t, tunnel.Dialect1, tunnel.RoleClient, nil)
			conn, ep := newConn()
			opened := make(chan error, 1)
			go func() {
				_, err := r.s.Open(t.Context(), tunnel.Target{Kind: tunnel.KindNamed, Host: "x"}, ep)
				opened <- err
			}()
			r.await(framecodec.MsgOpenConnection)
			_ = conn.CloseWrite() // so that both directions are over by then
			r.await(framecodec.MsgSendEOF)
			r.data(1, []byte(tc.data))
			r.send(tc.end)
			r.send(framecodec.ConnectionOpened{Conn: 1}) // late
			if err := <-opened; tunnel.CodeOf(err) != tc.want || (err == nil) != (tc.want == framecodec.CodeNormal) {
				t.Fatalf("Open returned %v, want %v", err, tc.want)
			}
			if tc.want == framecodec.CodeNormal {
				readAll(t, conn, tc.data)
			}
			waitFor(t, func() bool { return r.s.Stats().Streams == 0 })
		})
	}
}

// Without windows there is none to report, however much has come.
func TestDialect1InfoHasNoWindow(t *testing.T) {
	r := newRaw(t, tunnel.Dialect1, tunnel.RoleGateway, nil)
	_ = r.open(1)
	r.data(1, make([]byte, 300<<10))
	waitFor(t, func() bool { return r.s.Stream(1).Info().BytesIn == 300<<10 })
	if i := r.s.Stream(1).Info(); i.Window != 0 || i.Credit != 0 {
		t.Errorf("window %d, credit %d", i.Window, i.Credit)
	}
}

// The reference's control frames may overtake its data. What comes behind an end
// that the Endpoint has been told is dropped: it takes no memory, and the other
// direction goes on.
func TestDialect1DataBehindTheEnd(t *testing.T) {
	for _, end := range []message{
		framecodec.SendEOF{Conn: 1},
		framecodec.CloseConnection{Conn: 1, Reason: framecodec.ReasonConnectionLost},
	} {
		var exit *handEnd
		r := newRaw(t, tunnel.Dialect1, tunnel.RoleGateway, func(cfg *tunnel.Config) {
			cfg.Accept = func(in *tunnel.Incoming) {
				exit = new(handEnd)
				_ = in.Attach(exit, "")
			}
		})
		r.send(framecodec.OpenConnection{Conn: 1})
		r.await(framecodec.MsgConnectionOpened)
		r.data(1, []byte("all"))
		r.send(end)
		r.nothing()
		exit.change(func() { exit.stuck = true }) // whatever it is given is left over
		r.data(1, make([]byte, 64<<10))
		r.nothing()
		if n := exit.taken(); n != len("all") || r.budget.Used() != 0 {
			t.Errorf("%d bytes delivered, %d queued", n, r.budget.Used())
		}
		exit.send([]byte("back"))
		if f, ok := r.next(); !ok || string(f.Payload) != "back" {
			t.Errorf("%+v, %v", f, r.s.Err())
		}
		exit.finish()
		r.expectReset(1, framecodec.CodeNormal)
		_ = r.w.Close(0)
		r.s.Wait()
		if n := r.budget.Used(); n != 0 {
			t.Errorf("%d bytes are never given back", n)
		}
	}
}
