package framecodec

import (
	"errors"
	"fmt"
	"reflect"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// encoder is what every message can do.
type encoder interface {
	AppendPayload(b []byte) []byte
	AppendFrame(b []byte, word uint64) []byte
}

// sample is one message with what a parser must make of every part of it.
type sample struct {
	value    encoder
	prefixes []int // lengths of its data, below the whole, that are a message too
	parse    func(data []byte) error
	appendTo func(b []byte) []byte
}

// kind is a message with its parser, behind a type that the tests can range over.
type kind struct {
	msg      Message
	parse    func(data []byte) (encoder, error)
	tail     bool // bytes behind the data are not an error
	keepConn bool // the connection number is returned with the error
	samples  []sample
}

func kindOf[T encoder](msg Message, parse func([]byte) (T, error), samples ...sample) kind {
	k := kind{
		msg:     msg,
		parse:   func(data []byte) (encoder, error) { return parse(data) },
		samples: samples,
	}
	for i := range k.samples {
		value := k.samples[i].value.(T)
		k.samples[i].parse = func(data []byte) error { _, err := parse(data); return err }
		k.samples[i].appendTo = func(b []byte) []byte { return value.AppendFrame(b, 1) }
	}
	return k
}

func of(value encoder, prefixes ...int) sample { return sample{value: value, prefixes: prefixes} }

func (k kind) withTail() kind     { k.tail = true; return k }
func (k kind) withKeepConn() kind { k.keepConn = true; return k }

var (
	sampleTLVs  = AppendTLV(AppendTLV(nil, TLVPriority, []byte{PriorityInteractive}), TLVTraceparent, []byte("00-4bf92f-01"))
	sampleHello = Hello{
		Version: 2, MaxPayload: MaxPayload2, StreamWindow: 256 << 10, SessionWindow: 16 << 20,
		Features: FeatureDatagrams | FeatureReverse, SessionID: [16]byte{1, 2, 15: 16},
	}
)

func withTLVs(h Hello) Hello { h.TLVs = sampleTLVs; return h }

// kinds has every message of the format; a test checks that none is missing.
var kinds = []kind{
	kindOf(MsgPing, ParsePing,
		of(Ping{}),
		of(Ping{HasConn: true, Conn: 7, Extra: []byte("abc")}, 0, 1, 2, 3, 4, 5, 6),
		of(Ping{HasConn: true, Extra: make([]byte, 8)}, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11)).withTail(),
	kindOf(MsgPong, ParsePong,
		of(Pong{Conn: 1 << 31}),
		of(Pong{Conn: 7, Extra: []byte("abc")}, 4, 5, 6)).withTail(),
	kindOf(MsgOpenConnection, ParseOpenConnection,
		of(OpenConnection{Conn: 1}),
		of(OpenConnection{Conn: 1, HasTarget: true}, 4),
		of(OpenConnection{Conn: 0xfffffffe, HasTarget: true, Host: []byte("a.io"), Port: 443}, 4)).withKeepConn(),
	kindOf(MsgCloseConnection, ParseCloseConnection,
		of(CloseConnection{Conn: 1}, 4),
		of(CloseConnection{Conn: 2, Reason: ReasonUpstreamClosed, Text: []byte("näh")}, 4, 5, 6, 7, 8, 9, 10)).withTail(),
	kindOf(MsgConnectionOpened, ParseConnectionOpened, of(ConnectionOpened{Conn: 3})).withTail(),
	kindOf(MsgSendEOF, ParseSendEOF, of(SendEOF{Conn: 3})).withTail(),
	kindOf(MsgMetricsRequest, ParseMetricsRequest, of(MetricsRequest{})).withTail(),
	kindOf(MsgMetricsResponse, ParseMetricsResponse, of(MetricsResponse{JSON: []byte("{}")}, 0, 1)).withTail(),
	kindOf(MsgMetricsConfig, ParseMetricsConfig, of(MetricsConfig{JSON: []byte("{}")}, 0, 1)).withTail(),
	kindOf(MsgHello, ParseHello,
		of(sampleHello),
		of(withTLVs(sampleHello), 38, 43),
		of(Hello{Version: 0xffff, MaxPayload: 1, StreamWindow: MinStreamWindow, SessionWindow: MinSessionWindow})),
	kindOf(MsgWindow, ParseWindow,
		of(Window{}),
		of(Window{Conn: 5, Consumed: 1<<63 + 1, Limit: 1<<64 - 1})),
	kindOf(MsgOpen, ParseOpen,
		of(Open{Conn: 1, Kind: KindNamed, Window: 256 << 10, Host: []byte("ssh")}),
		of(Open{Conn: 3, Kind: KindTCP, Window: 1, Host: []byte("::1"), Port: 65535, TLVs: sampleTLVs}, 16, 21),
		of(Open{Conn: 2, Kind: 255})),
	kindOf(MsgOpened, ParseOpened,
		of(Opened{Conn: 1, Window: 1 << 31}),
		of(Opened{Conn: 1, TLVs: AppendTLV(nil, TLVAddress, []byte("192.0.2.1:22"))}, 8)),
	kindOf(MsgReset, ParseReset,
		of(Reset{Conn: 1, Code: CodeRefused}),
		of(Reset{Conn: 1, Code: 9999, Text: []byte("näh")})),
	kindOf(MsgFinish, ParseFinish, of(Finish{Conn: 1, Offset: 1 << 40})),
	kindOf(MsgGoAway, ParseGoAway,
		of(GoAway{}),
		of(GoAway{Code: CodeDraining, Deadline: 30000, Text: []byte("reload")})),
	kindOf(MsgClose, ParseClose,
		of(Close{}),
		of(Close{Code: CodeClosedByAdmin, Text: []byte("für immer")})),
	kindOf(MsgExpose, ParseExpose, of(Expose{Kind: KindNamedDatagram, Name: []byte("dns")}), of(Expose{})),
	kindOf(MsgWithdraw, ParseWithdraw, of(Withdraw{Name: []byte("dns")}), of(Withdraw{})),
	kindOf(MsgExposed, ParseExposed,
		of(Exposed{Name: []byte("dns")}),
		of(Exposed{Code: CodeNotAllowed, Name: []byte("dns"), Text: []byte("taken")})),
}

func kindNamed(t testing.TB, name string) kind {
	t.Helper()
	for _, k := range kinds {
		if k.msg.String() == name {
			return k
		}
	}
	t.Fatalf("no message is called %q", name)
	return kind{}
}

// diff compares messages; an empty slice is as good as none.
func diff(want, got encoder) string {
	if reflect.DeepEqual(want, got) { // much faster than cmp, for the fuzz targets
		return ""
	}
	return cmp.Diff(want, got, cmpopts.EquateEmpty())
}

// data returns what stands behind the message code.
func data(e encoder) []byte { return e.AppendPayload(nil)[2:] }

// checkSyntax fails unless err is a SyntaxError within n bytes.
func checkSyntax(t *testing.T, err error, n int) {
	t.Helper()
	var se *SyntaxError
	if !errors.As(err, &se) {
		t.Fatalf("error is %v (%T), want a SyntaxError", err, err)
	}
	if se.Offset < 0 || se.Offset > n || se.What == "" {
		t.Fatalf("SyntaxError %+v does not point into %d bytes", se, n)
	}
}

func TestMessagesSurviveTheWire(t *testing.T) {
	for _, k := range kinds {
		for _, s := range k.samples {
			wire := s.value.AppendFrame([]byte("before"), 7)
			if string(wire[:6]) != "before" {
				t.Fatalf("%v: AppendFrame changed what was there", k.msg)
			}
			frame, n, err := ParseFrame(wire[6:], MaxPayload2)
			if err != nil || n != len(wire)-6 || frame.Conn != 0 || frame.Word != 7 {
				t.Fatalf("%v: frame %+v, %d bytes, error %v", k.msg, frame, n, err)
			}
			msg, rest, err := ParseControl(frame.Payload)
			if err != nil || msg != k.msg {
				t.Fatalf("%v: read as %v, error %v", k.msg, msg, err)
			}
			got, err := k.parse(rest)
			if err != nil {
				t.Fatalf("%v: %v", k.msg, err)
			}
			if d := diff(s.value, got); d != "" {
				t.Errorf("%v came back different: %s", k.msg, d)
			}
		}
	}
}

func TestMessagesCutAtEveryByte(t *testing.T) {
	for _, k := range kinds {
		for _, s := range k.samples {
			whole := data(s.value)
			valid := map[int]bool{}
			for _, n := range s.prefixes {
				valid[n] = true
			}
			for n := range whole {
				got, err := k.parse(whole[:n:n])
				if valid[n] {
					if err != nil {
						t.Errorf("%+v cut to %d bytes: %v, want a message", s.value, n, err)
					}
					continue
				}
				if err == nil {
					t.Errorf("%+v cut to %d bytes was read as %+v", s.value, n, got)
					continue
				}
				checkSyntax(t, err, n)
				checkNothingReturned(t, k, got)
			}
		}
	}
}

func TestMessagesWithBytesBehind(t *testing.T) {
	for _, k := range kinds {
		for _, s := range k.samples {
			long := append(data(s.value), 0)
			got, err := k.parse(long)
			// The shortest OpenConnection grows into the start of one with a target.
			if k.tail && err != nil {
				t.Errorf("%v with a byte behind it: %v", k.msg, err)
			}
			if !k.tail {
				if err == nil {
					t.Errorf("%v with a byte behind it was read as %+v", k.msg, got)
					continue
				}
				checkSyntax(t, err, len(long))
				checkNothingReturned(t, k, got)
			}
		}
	}
}

// checkNothingReturned fails when an error came with half a message.
func checkNothingReturned(t *testing.T, k kind, got encoder) {
	t.Helper()
	if o, ok := got.(OpenConnection); ok && k.keepConn {
		got = OpenConnection{Conn: 0, HasTarget: o.HasTarget, Host: o.Host, Port: o.Port}
	}
	zero, _ := kindNamed(t, k.msg.String()).parse(nil)
	if d := diff(zero, got); d != "" {
		t.Errorf("%v: an error came with a message: %s", k.msg, d)
	}
}

func TestParsedMessagesAliasTheInput(t *testing.T) {
	open := append([]byte(nil), data(Open{Conn: 1, Kind: 1, Host: []byte("ssh"), TLVs: sampleTLVs})...)
	o, err := ParseOpen(open)
	if err != nil {
		t.Fatal(err)
	}
	open[openSize+2] = 'S'
	if string(o.Host) != "Ssh" {
		t.Errorf("host %q does not alias the input", o.Host)
	}
	// Growing an aliased slice must not reach the bytes behind it.
	_ = append(o.Host, 0xff, 0xff)
	if again, err := ParseOpen(open); err != nil || again.Port != 0 {
		t.Errorf("appending to the host wrote into the message: %+v, %v", again, err)
	}
	value, ok := o.TLVs.Get(TLVPriority)
	if !ok || cap(value) != len(value) {
		t.Errorf("extension value %v has room behind it", value)
	}
}

func TestNothingAllocates(t *testing.T) {
	for _, k := range kinds {
		for _, s := range k.samples {
			input, buffer := data(s.value), make([]byte, 0, 4096)
			if n := testing.AllocsPerRun(100, func() {
				if s.parse(input) != nil {
					t.Fatal("sample does not parse")
				}
			}); n != 0 {
				t.Errorf("parsing %v allocates %v times", k.msg, n)
			}
			if n := testing.AllocsPerRun(100, func() { s.appendTo(buffer) }); n != 0 {
				t.Errorf("appending %v allocates %v times", k.msg, n)
			}
		}
	}
}

func TestNoMessageIsMissing(t *testing.T) {
	have := map[Message]bool{}
	for _, k := range kinds {
		have[k.msg] = true
	}
	for n := range 1000 {
		m := Message(n)
		if known := m.String() != fmt.Sprintf("message_%d", n); known != have[m] {
			t.Errorf("message %d is called %q; in the table of messages: %v", n, m, have[m])
		}
	}
}
