package tunnel_test

import (
	"bytes"
	"encoding/binary"
	"net"
	"testing"

	"github.com/culvertgate/culvert/framecodec"
	"github.com/culvertgate/culvert/tunnel"
)

// stuckEnd is an Endpoint that gives and takes nothing.
type stuckEnd struct{}

func (stuckEnd) TryRead([]byte) (int, error)  { return 0, tunnel.ErrWouldBlock }
func (stuckEnd) TryWrite([]byte) (int, error) { return 0, tunnel.ErrWouldBlock }
func (stuckEnd) CloseWrite() error            { return nil }
func (stuckEnd) Close(tunnel.Code)            {}
func (stuckEnd) Bind(tunnel.Readiness)        {}

// stuck has all streams attached to Endpoints that take nothing, under a budget
// that lets no window grow.
func stuck(cfg *tunnel.Config) {
	cfg.Budget.SetLimit(tunnel.MinSessionMemory)
	cfg.Accept = func(in *tunnel.Incoming) { _ = in.Attach(stuckEnd{}, "") }
}

// forward takes no streams of the gateway.
func forward(cfg *tunnel.Config) { cfg.Accept = nil }

// reversible lets the gateway open streams; the raw peer names the feature too.
func reversible(cfg *tunnel.Config) {
	accept := cfg.Accept
	cfg.Accept = func(in *tunnel.Incoming) {
		if accept != nil {
			accept(in)
			return
		}
		in.Refuse(framecodec.CodeUnknownTarget, "")
	}
	cfg.Exposed = func(tunnel.Kind, string) (tunnel.Code, string) { return 0, "" }
}

func header(conn uint32, word uint64, length uint32) []byte {
	b := make([]byte, framecodec.HeaderSize)
	framecodec.PutHeader(b, conn, word, 0)
	binary.BigEndian.PutUint32(b[12:], length)
	return b
}

func hello(change func(*framecodec.Hello)) framecodec.Hello {
	h := rawHello
	change(&h)
	return h
}

// payload is a control payload of a kind with data.
func payload(kind uint16, data ...byte) []byte {
	return append(binary.BigEndian.AppendUint16(nil, kind), data...)
}

// violation is a broken rule of dialect 2: what is sent, and what ends of it.
type violation struct {
	name   string
	bare   bool // before any Hello
	client bool // the session is a client; the raw peer plays the gateway
	change func(*tunnel.Config)
	act    func(r *raw) // streams 1 and 3 are open, unless bare
	stream uint32       // the stream that ends of it; 0: the session
}

// All of them end with protocol_error: the session's with a Close, a stream's
// with a Reset, and then all others go on.
var violations = []violation{
	// The envelope.
	{name: "length above the maximum", act: func(r *raw) { r.write(header(1, 0, framecodec.MaxPayload2+1)) }},
	{name: "length of 4 GiB", act: func(r *raw) { r.write(header(1, 0, 1<<32-1)) }},
	{name: "length above the maximum, byte by byte", act: func(r *raw) {
		for _, b := range header(1, 0, 1<<30) {
			r.write([]byte{b})
		}
	}},
	{name: "length that lies", act: func(r *raw) { r.write(append(header(1, 0, 3), "four;"...)) }},
	{name: "wrong terminator", act: func(r *raw) { r.write(append(header(1, 0, 4), "four:"...)) }},
	{name: "control payload above 32 KiB", act: func(r *raw) { r.sendPayload(make([]byte, framecodec.MaxControl+1)) }},
	{name: "control payload without a kind", act: func(r *raw) { r.sendPayload([]byte{1}) }},
	{name: "empty control payload", act: func(r *raw) { r.sendPayload(nil) }},

	// Hello.
	{name: "data before Hello", bare: true, act: func(r *raw) { r.data(1, []byte("x")) }},
	{name: "Open before Hello", bare: true, act: func(r *raw) { r.send(framecodec.Open{Conn: 1, Kind: 1}) }},
	{name: "Ping before Hello", bare: true, act: func(r *raw) { r.send(framecodec.Ping{HasConn: true, Extra: make([]byte, 8)}) }},
	{name: "Hello of version 1", bare: true, act: func(r *raw) { r.send(hello(func(h *framecodec.Hello) { h.Version = 1 })) }},
	{name: "Hello with a small stream window", bare: true, act: func(r *raw) { r.send(hello(func(h *framecodec.Hello) { h.StreamWindow = 65535 })) }},
	{name: "Hello with a small session window", bare: true, act: func(r *raw) { r.send(hello(func(h *framecodec.Hello) { h.SessionWindow = 1<<20 - 1 })) }},
	{name: "Hello without payload", bare: true, act: func(r *raw) { r.send(hello(func(h *framecodec.Hello) { h.MaxPayload = 0 })) }},
	{name: "Hello with a broken extension", bare: true, act: func(r *raw) { r.send(hello(func(h *framecodec.Hello) { h.TLVs = []byte{0, 1, 0, 9} })) }},
	{name: "Hello cut short", bare: true, act: func(r *raw) { r.sendPayload(payload(401, 0, 2)) }},
	{name: "Hello with a wrong sequence number", bare: true, act: func(r *raw) { r.word = 1; r.send(rawHello) }},
	{name: "second Hello", act: func(r *raw) { r.send(rawHello) }},

	// The control sequence and its messages.
	{name: "control sequence skips", act: func(r *raw) { r.word++; r.send(framecodec.Window{Limit: 1 << 30}) }},
	{name: "control sequence repeats", act: func(r *raw) { r.word--; r.send(framecodec.Window{Limit: 1 << 30}) }},
	{name: "unknown message", act: func(r *raw) { r.sendPayload(payload(499)) }},
	{name: "reserved message 408", act: func(r *raw) { r.sendPayload(payload(408)) }},
	{name: "reserved message 409", act: func(r *raw) { r.sendPayload(payload(409)) }},
	{name: "message of dialect 1", act: func(r *raw) { r.send(framecodec.OpenConnection{Conn: 5}) }},
	{name: "Expose that was not agreed upon", act: func(r *raw) { r.send(framecodec.Expose{Kind: 1, Name: []byte("x")}) }},
	{name: "Ping without a clock", act: func(r *raw) { r.send(framecodec.Ping{}) }},
	{name: "Ping of a connection", act: func(r *raw) { r.send(framecodec.Ping{Conn: 1, HasConn: true, Extra: make([]byte, 8)}) }},
	{name: "Ping that is too long", act: func(r *raw) { r.send(framecodec.Ping{HasConn: true, Extra: make([]byte, 9)}) }},
	{name: "Pong that nobody asked for", act: func(r *raw) { r.send(framecodec.Pong{Extra: make([]byte, 8)}) }},
	{name: "Reset whose text is not UTF-8", act: func(r *raw) { r.sendPayload(payload(405, 0, 0, 0, 1, 0, 1, 0, 1, 0xff)) }},
	{name: "Window cut short", act: func(r *raw) { r.sendPayload(payload(402, 0, 0, 0, 1)) }},

	// Numbers.
	{name: "number that skips", act: func(r *raw) { r.send(framecodec.Open{Conn: 7, Kind: 1}) }},
	{name: "number that repeats", act: func(r *raw) { r.send(framecodec.Open{Conn: 3, Kind: 1}) }},
	{name: "number 0", act: func(r *raw) { r.send(framecodec.Open{Conn: 0, Kind: 1}) }},
	{name: "even number from a client", act: func(r *raw) { r.send(framecodec.Open{Conn: 4, Kind: 1}) }},
	{name: "first number is not 1", bare: true, act: func(r *raw) { r.send(rawHello); r.send(framecodec.Open{Conn: 3, Kind: 1}) }},
	{name: "first number is 2", bare: true, act: func(r *raw) { r.send(rawHello); r.send(framecodec.Open{Conn: 2, Kind: 1}) }},
	{name: "Open cut short", act: func(r *raw) { r.sendPayload(payload(403, 0, 0, 0, 5)) }},
	{name: "data of a stream that was never opened", act: func(r *raw) { r.data(5, []byte("x")) }},
	{name: "data of a stream of ours that cannot be", act: func(r *raw) { r.data(2, []byte("x")) }},
	{name: "Window of a stream that was never opened", act: func(r *raw) { r.send(framecodec.Window{Conn: 5, Limit: 1}) }},
	{name: "Reset of a stream that was never opened", act: func(r *raw) { r.send(framecodec.Reset{Conn: 5}) }},
	{name: "Finish of a stream that was never opened", act: func(r *raw) { r.send(framecodec.Finish{Conn: 5}) }},
	{name: "Opened of a stream that was never opened", act: func(r *raw) { r.send(framecodec.Opened{Conn: 5}) }},
	{name: "gateway opens a stream", client: true, change: forward, act: func(r *raw) { r.send(framecodec.Open{Conn: 2, Kind: 1}) }},
	{name: "gateway opens a stream of the client's", client: true, act: func(r *raw) { r.send(framecodec.Open{Conn: 5, Kind: 1}) }},

	// Services.
	{name: "Withdraw that was not agreed upon", act: func(r *raw) { r.send(framecodec.Withdraw{Name: []byte("x")}) }},
	{name: "Exposed that was not agreed upon", client: true, change: forward, act: func(r *raw) { r.send(framecodec.Exposed{Name: []byte("x")}) }},
	{name: "Exposed from a client", change: reversible, act: func(r *raw) { r.send(framecodec.Exposed{Name: []byte("x")}) }},
	{name: "Expose from a gateway", client: true, change: reversible, act: func(r *raw) { r.send(framecodec.Expose{Kind: 1, Name: []byte("x")}) }},
	{name: "Expose cut short", change: reversible, act: func(r *raw) { r.sendPayload(payload(411, 1, 0, 2, 'x')) }},
	{name: "Expose whose name has no answer", change: reversible, act: func(r *raw) {
		r.send(framecodec.Expose{Kind: 1, Name: bytes.Repeat([]byte("x"), framecodec.MaxHost+1)})
	}},
	{name: "Expose as long as a frame", change: reversible, act: func(r *raw) { r.send(framecodec.Expose{Kind: 1, Name: bytes.Repeat([]byte("x"), 24_000)}) }},
	{name: "Withdraw cut short", change: reversible, act: func(r *raw) { r.sendPayload(payload(412, 0, 2, 'x')) }},
	{name: "Exposed cut short", client: true, change: reversible, act: func(r *raw) { r.sendPayload(payload(413, 0)) }},
	{name: "the gateway's first number is not 2", client: true, change: reversible, act: func(r *raw) { r.send(framecodec.Open{Conn: 4, Kind: 1}) }},
	{name: "a number of the gateway's skips", client: true, change: reversible, act: func(r *raw) {
		r.send(framecodec.Open{Conn: 2, Kind: 1})
		r.send(framecodec.Open{Conn: 6, Kind: 1})
	}},
	{name: "odd number from a gateway", client: true, change: reversible, act: func(r *raw) { r.send(framecodec.Open{Conn: 1, Kind: 1}) }},
	{name: "data of a stream that no gateway opened", client: true, change: reversible, act: func(r *raw) { r.data(2, []byte("x")) }},

	// Credit.
	{name: "session credit taken back", act: func(r *raw) { r.send(framecodec.Window{Limit: 1<<20 - 1}) }},
	{name: "session credit below what was consumed", act: func(r *raw) { r.send(framecodec.Window{Consumed: 1 << 30, Limit: 1 << 21}) }},
	{name: "session credit exceeded", change: stuck, act: func(r *raw) {
		for n := uint32(5); n <= 9; n += 2 {
			r.send(framecodec.Open{Conn: n, Kind: 1})
		}
		for _, n := range []uint32{1, 3, 5, 7} {
			r.data(n, make([]byte, 256<<10))
		}
		r.data(9, []byte("x"))
	}},
	{name: "stream credit exceeded", change: stuck, stream: 1, act: func(r *raw) { r.data(1, make([]byte, 256<<10+1)) }},
	{name: "stream limit taken back", stream: 1, act: func(r *raw) { r.send(framecodec.Window{Conn: 1, Limit: 256<<10 - 1}) }},
	{name: "more consumed than was sent", stream: 1, act: func(r *raw) { r.send(framecodec.Window{Conn: 1, Consumed: 1, Limit: 1 << 20}) }},

	// Offsets and ends.
	{name: "offset that skips", stream: 1, act: func(r *raw) { r.sent[1] = 1; r.data(1, []byte("x")) }},
	{name: "offset that repeats", stream: 1, act: func(r *raw) { r.data(1, []byte("x")); r.sent[1] = 0; r.data(1, []byte("x")) }},
	{name: "Finish below the bytes sent", stream: 1, act: func(r *raw) { r.data(1, []byte("xy")); r.send(framecodec.Finish{Conn: 1, Offset: 1}) }},
	{name: "Finish beyond the bytes sent", stream: 1, act: func(r *raw) { r.send(framecodec.Finish{Conn: 1, Offset: 1}) }},
	{name: "Finish twice", stream: 1, act: func(r *raw) { r.send(framecodec.Finish{Conn: 1}); r.send(framecodec.Finish{Conn: 1}) }},
	{name: "data behind Finish", stream: 1, act: func(r *raw) { r.send(framecodec.Finish{Conn: 1}); r.data(1, []byte("x")) }},
	{name: "Opened from the side that opened", stream: 1, act: func(r *raw) { r.send(framecodec.Opened{Conn: 1}) }},
	{name: "Opened twice", client: true, stream: 1, act: func(r *raw) { r.send(framecodec.Opened{Conn: 1}) }},
	{name: "data before Opened", client: true, stream: 5, act: func(r *raw) { r.unanswered(); r.data(5, []byte("x")) }},
	{name: "Finish before Opened", client: true, stream: 5, act: func(r *raw) { r.unanswered(); r.send(framecodec.Finish{Conn: 5}) }},
}

// unanswered has the session open a stream that gets no answer.
func (r *raw) unanswered() {
	r.t.Helper()
	go func() {
		_, err := r.s.Open(r.t.Context(), tunnel.Target{Kind: tunnel.KindNamed, Host: "x"}, stuckEnd{})
		if tunnel.CodeOf(err) != framecodec.CodeProtocolError {
			r.t.Errorf("Open returned %v", err)
		}
		r.opened <- nil
	}()
	r.t.Cleanup(func() { <-r.opened })
	r.await(framecodec.MsgOpen)
}

func TestViolations(t *testing.T) {
	for _, v := range violations {
		t.Run(v.name, func(t *testing.T) { testViolation(t, v) })
	}
}

func testViolation(t *testing.T, v violation) {
	role := tunnel.RoleGateway
	if v.client {
		role = tunnel.RoleClient
	}
	r := newRaw(t, tunnel.Dialect2, role, v.change)
	if v.bare {
		v.act(r)
		for said := true; said; { // to the end of the wire
			_, said = r.next()
		}
		<-r.s.Done()
		if got := tunnel.CodeOf(r.s.Err()); got != framecodec.CodeProtocolError {
			t.Errorf("the session ended with %v", r.s.Err())
		}
		r.s.Wait()
		if n := r.budget.Used(); n != 0 {
			t.Errorf("%d bytes stay reserved", n)
		}
		return
	}
	r.greet()
	other := r.standingBy(v)
	v.act(r)
	if v.stream == 0 {
		r.expectClose(framecodec.CodeProtocolError)
		return
	}
	r.expectReset(v.stream, framecodec.CodeProtocolError)
	waitFor(t, func() bool { return r.s.Stream(v.stream) == nil })
	if other != nil {
		r.exchange(3, other)
	}
	if err := r.s.Err(); err != nil {
		t.Error("the session ended of it:", err)
	}
}

// standingBy opens streams 1 and 3 and returns the session's side of the latter;
// nil where nothing can go through it.
func (r *raw) standingBy(v violation) net.Conn {
	r.t.Helper()
	switch {
	case v.client:
		r.openFrom(1)
		return r.openFrom(3)
	case v.change != nil:
		for _, n := range []uint32{1, 3} {
			r.send(framecodec.Open{Conn: n, Kind: framecodec.KindNamed, Host: []byte("x")})
			r.await(framecodec.MsgOpened)
		}
		return nil
	default:
		r.open(1)
		return r.open(3)
	}
}
