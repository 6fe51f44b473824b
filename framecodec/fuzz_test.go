package framecodec

import (
	"bytes"
	"errors"
	"reflect"
	"testing"
)

// fuzzMessage holds a parser against what every parser promises: it does not
// panic; a fault is a SyntaxError within the input; and what it accepted means
// the same when it is written again, byte for byte where the layout is strict.
func fuzzMessage(f *testing.F, msg Message) {
	k := kindNamed(f, msg.String())
	for _, s := range k.samples {
		whole := data(s.value)
		f.Add(whole)
		f.Add(whole[:len(whole)/2])
		f.Add(append(whole, 0xff))
	}
	f.Add(bytes.Repeat([]byte{0xff}, 64))
	f.Add(make([]byte, 64))
	f.Fuzz(func(t *testing.T, in []byte) {
		before := bytes.Clone(in)
		got, err := k.parse(in)
		if !bytes.Equal(in, before) {
			t.Fatal("the parser changed its input")
		}
		if err != nil {
			checkSyntax(t, err, len(in))
			checkNothingReturned(t, k, got)
			return
		}
		again := data(got)
		if !k.tail && !bytes.Equal(again, in) {
			t.Fatalf("%x was written as %x", in, again)
		}
		back, err := k.parse(again)
		if err != nil || diff(got, back) != "" {
			t.Fatalf("%+v came back as %+v, %v", got, back, err)
		}
	})
}

func FuzzParsePing(f *testing.F)             { fuzzMessage(f, MsgPing) }
func FuzzParsePong(f *testing.F)             { fuzzMessage(f, MsgPong) }
func FuzzParseOpenConnection(f *testing.F)   { fuzzMessage(f, MsgOpenConnection) }
func FuzzParseCloseConnection(f *testing.F)  { fuzzMessage(f, MsgCloseConnection) }
func FuzzParseConnectionOpened(f *testing.F) { fuzzMessage(f, MsgConnectionOpened) }
func FuzzParseSendEOF(f *testing.F)          { fuzzMessage(f, MsgSendEOF) }
func FuzzParseMetricsRequest(f *testing.F)   { fuzzMessage(f, MsgMetricsRequest) }
func FuzzParseMetricsResponse(f *testing.F)  { fuzzMessage(f, MsgMetricsResponse) }
func FuzzParseMetricsConfig(f *testing.F)    { fuzzMessage(f, MsgMetricsConfig) }
func FuzzParseHello(f *testing.F)            { fuzzMessage(f, MsgHello) }
func FuzzParseWindow(f *testing.F)           { fuzzMessage(f, MsgWindow) }
func FuzzParseOpen(f *testing.F)             { fuzzMessage(f, MsgOpen) }
func FuzzParseOpened(f *testing.F)           { fuzzMessage(f, MsgOpened) }
func FuzzParseReset(f *testing.F)            { fuzzMessage(f, MsgReset) }
func FuzzParseFinish(f *testing.F)           { fuzzMessage(f, MsgFinish) }
func FuzzParseGoAway(f *testing.F)           { fuzzMessage(f, MsgGoAway) }
func FuzzParseClose(f *testing.F)            { fuzzMessage(f, MsgClose) }
func FuzzParseExpose(f *testing.F)           { fuzzMessage(f, MsgExpose) }
func FuzzParseWithdraw(f *testing.F)         { fuzzMessage(f, MsgWithdraw) }
func FuzzParseExposed(f *testing.F)          { fuzzMessage(f, MsgExposed) }

func FuzzParseFrame(f *testing.F) {
	f.Add(AppendFrame(nil, 1, 2, []byte("hi;")), 65519)
	f.Add(AppendFrame(nil, 0, 0, nil), 0)
	f.Add(bytes.Repeat([]byte{0xff}, 17), 1<<30)
	f.Add([]byte("0000000000000000:"), -1)
	f.Fuzz(func(t *testing.T, in []byte, limit int) {
		limit = min(limit, 1<<30)
		frame, n, err := ParseFrame(in, limit)
		var into Frame
		if n2, err2 := into.Parse(in, limit); n2 != n || (err2 == nil) != (err == nil) || !reflect.DeepEqual(into, frame) {
			t.Fatalf("Parse gives %+v, %d, %v; ParseFrame %+v, %d, %v", into, n2, err2, frame, n, err)
		}
		switch {
		case err == nil:
			if len(frame.Payload) > limit || n != len(frame.Payload)+Overhead {
				t.Fatalf("payload of %d bytes with limit %d, %d used", len(frame.Payload), limit, n)
			}
			if again := AppendFrame(nil, frame.Conn, frame.Word, frame.Payload); !bytes.Equal(again, in[:n]) {
				t.Fatalf("%x was written as %x", in[:n], again)
			}
		case errors.Is(err, ErrShort):
			if n == 0 && len(in) >= HeaderSize || n != 0 && (len(in) < HeaderSize || n <= len(in) || n > limit+Overhead) {
				t.Fatalf("%d bytes needed, %d are there, limit %d", n, len(in), limit)
			}
		default:
			checkSyntax(t, err, len(in))
			if n != 0 {
				t.Fatalf("%d bytes used of a broken stream", n)
			}
		}
	})
}

func FuzzParseControl(f *testing.F) {
	f.Add([]byte{0, 1})
	f.Add([]byte{1})
	f.Add(make([]byte, MaxControl+1))
	f.Fuzz(func(t *testing.T, in []byte) {
		msg, rest, err := ParseControl(in)
		if err != nil {
			checkSyntax(t, err, len(in))
			return
		}
		if again := append(appendMessage(nil, msg), rest...); !bytes.Equal(again, in) {
			t.Fatalf("%x was read as %v, %x", in, msg, rest)
		}
	})
}

func FuzzTLVs(f *testing.F) {
	f.Add([]byte(sampleTLVs), TLVPriority)
	f.Add([]byte{0, 1, 0}, uint16(1))
	f.Add([]byte{0, 1, 0xff, 0xff}, uint16(1))
	f.Fuzz(func(t *testing.T, in []byte, typ uint16) {
		var again, first TLVs
		found := false
		rest := TLVs(in)
		for len(rest) > 0 {
			got, value, next, err := rest.Next()
			if err != nil {
				checkSyntax(t, err, len(rest))
				break
			}
			if got == typ && !found {
				first, found = value, true
			}
			again = append(again, rest[:4+len(value)]...)
			rest = next
		}
		if !bytes.Equal(append(again, rest...), in) {
			t.Fatalf("%x was walked as %x", in, again)
		}
		if value, ok := TLVs(in).Get(typ); ok != found || !bytes.Equal(value, first) {
			t.Fatalf("Get(%d) gives %x, %v; walking gives %x, %v", typ, value, ok, first, found)
		}
	})
}

func FuzzSafeText(f *testing.F) {
	f.Add([]byte("refused"))
	f.Add([]byte("\x1b[2J\u202e\xff"))
	f.Add(bytes.Repeat([]byte("\x00ä"), 200))
	f.Fuzz(checkSafe)
}
