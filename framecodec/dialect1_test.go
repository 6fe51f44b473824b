package framecodec

import (
	"bytes"
	"strings"
	"testing"
)

func TestParsePingWithoutANumber(t *testing.T) {
	for _, in := range []string{"", "a", "ab", "abc"} {
		p, err := ParsePing([]byte(in))
		if err != nil || p.HasConn || p.Conn != 0 || len(p.Extra) != 0 {
			t.Errorf("%q: %+v, %v", in, p, err)
		}
		if pong := p.Pong(); pong.Conn != 0 || len(pong.Extra) != 0 {
			t.Errorf("%q is answered by %+v, want connection 0 and nothing else", in, pong)
		}
	}
}

// The reference opens with these three times and waits for the echo.
func TestPingOfTheReferenceIsEchoed(t *testing.T) {
	in := make([]byte, 1404)
	p, err := ParsePing(in)
	if err != nil || !p.HasConn || p.Conn != 0 {
		t.Fatalf("%+v, %v", p, err)
	}
	if got := p.Pong().AppendPayload(nil); !bytes.Equal(got, append([]byte{0, 2}, in...)) {
		t.Errorf("answered by %d other bytes", len(got))
	}
}

func TestClock(t *testing.T) {
	for _, tc := range []struct {
		conn  uint32
		extra string
		clock uint64
		ok    bool
	}{
		{0, "\x00\x00\x00\x00\x00\x00\x01\x00", 256, true},
		{1, "\x00\x00\x00\x00\x00\x00\x01\x00", 0, false},
		{0, "\x00\x00\x00\x00\x00\x01\x00", 0, false},
		{0, "\x00\x00\x00\x00\x00\x00\x01\x00\x00", 0, false},
		{0, "", 0, false},
	} {
		if clock, ok := (Ping{HasConn: true, Conn: tc.conn, Extra: []byte(tc.extra)}).Clock(); clock != tc.clock || ok != tc.ok {
			t.Errorf("Ping %d %q: %d, %v", tc.conn, tc.extra, clock, ok)
		}
		if clock, ok := (Pong{Conn: tc.conn, Extra: []byte(tc.extra)}).Clock(); clock != tc.clock || ok != tc.ok {
			t.Errorf("Pong %d %q: %d, %v", tc.conn, tc.extra, clock, ok)
		}
	}
}

// Only one connection is at fault, so its number must be known.
func TestParseOpenConnectionKeepsTheNumberOfABadOne(t *testing.T) {
	for _, rest := range []string{"\x00", "\x00\x00\x00", "\x00\x00\x00\x05a.io\x01\xbb", "\xff\xff\xff\xff", "\x7f\xff\xff\xff\x00\x00", "\x00\x00\x00\x00\x00\x50!"} {
		o, err := ParseOpenConnection([]byte("\x00\x00\x01\x00" + rest))
		checkSyntax(t, err, 4+len(rest))
		if o.Conn != 256 || o.HasTarget || o.Host != nil || o.Port != 0 {
			t.Errorf("%q: %+v", rest, o)
		}
	}
}

// The reference's "connect as" block (length, 65 byte key, 12 byte nonce, text)
// must not be taken for a host.
func TestParseOpenConnectionRefusesTheEncryptedForm(t *testing.T) {
	in := append([]byte("\x00\x00\x00\x01\x00\x00\x00\x20"), make([]byte, 65+12+32)...)
	_, err := ParseOpenConnection(in)
	checkSyntax(t, err, len(in))
}

func TestParseCloseConnection(t *testing.T) {
	long := strings.Repeat("x", MaxText)
	for _, tc := range []struct {
		name, in string
		reason   Reason
		text     string
	}{
		{"number only", "", ReasonNormal, ""},
		{"reason", "\x0a", ReasonConnectionFailed, ""},
		{"reason 3 is not used", "\x03", ReasonUnknown, ""},
		{"reason of the future", "\x15", ReasonUnknown, ""},
		{"highest byte", "\xff", ReasonUnknown, ""},
		{"half a text length", "\x0a\x00", ReasonConnectionFailed, ""},
		{"empty text", "\x0a\x00\x00", ReasonConnectionFailed, ""},
		{"text", "\x0a\x00\x02no", ReasonConnectionFailed, "no"},
		{"text and more", "\x0a\x00\x02no!", ReasonConnectionFailed, "no"},
		{"text not fully there", "\x0a\x00\x03no", ReasonConnectionFailed, ""},
		{"text not UTF-8", "\x0a\x00\x02n\xff", ReasonConnectionFailed, ""},
		{"longest text", "\x0a\x04\x00" + long, ReasonConnectionFailed, long},
		{"text too long", "\x0a\x04\x01x" + long, ReasonConnectionFailed, ""},
		{"two bytes of reason, as the first generation wrote it", "\x00\x09", ReasonNormal, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c, err := ParseCloseConnection([]byte("\x00\x00\x00\x07" + tc.in))
			if err != nil || c.Conn != 7 || c.Reason != tc.reason || string(c.Text) != tc.text {
				t.Errorf("%+v, %v", c, err)
			}
		})
	}
}
