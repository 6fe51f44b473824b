package framecodec

import (
	"bytes"
	"encoding/binary"
	"strings"
	"testing"
)

// withText gives every message that ends with a text.
var withText = []struct {
	name   string
	make   func(text string) encoder
	before int // bytes before the text's length
}{
	{"Reset", func(s string) encoder { return Reset{Conn: 1, Code: CodeTimeout, Text: []byte(s)} }, 6},
	{"GoAway", func(s string) encoder { return GoAway{Code: CodeDraining, Text: []byte(s)} }, 6},
	{"Close", func(s string) encoder { return Close{Code: CodeDraining, Text: []byte(s)} }, 2},
	{"Exposed", func(s string) encoder { return Exposed{Name: []byte("nas"), Text: []byte(s)} }, 7},
}

func TestTextsOfPeersAreChecked(t *testing.T) {
	for _, m := range withText {
		for _, tc := range []struct {
			name, text string
			ok         bool
		}{
			{"none", "", true},
			{"longest", strings.Repeat("x", MaxText), true},
			{"too long", strings.Repeat("x", MaxText+1), false},
			{"65,535 bytes", strings.Repeat("x", 65535), false},
			{"a lone continuation byte", "a\x80", false},
			{"overlong form of /", "\xc0\xaf", false},
			{"a surrogate", "\xed\xa0\x80", false},
			{"beyond the last character", "\xf4\x90\x80\x80", false},
			{"half a character at the end", "\xf0\x9f\x98", false},
			{"control characters", "\x00\x1b[2J\n", true}, // escaped where they are shown
		} {
			in := data(m.make(""))[:m.before:m.before]
			in = binary.BigEndian.AppendUint16(in, uint16(len(tc.text)))
			in = append(in, tc.text...)
			got, err := kindNamed(t, m.name).parse(in)
			if tc.ok {
				if err != nil || diff(m.make(tc.text), got) != "" {
					t.Errorf("%s, %s: %+v, %v", m.name, tc.name, got, err)
				}
				continue
			}
			checkSyntax(t, err, len(in))
		}
	}
}

// Whatever the text is that we are given (an error of the system, say), what we
// send is accepted.
func TestTextsWeSendAreAccepted(t *testing.T) {
	for _, m := range withText {
		for _, text := range []string{
			"n\xffo", strings.Repeat("ä", 600), strings.Repeat("x", 1023) + "ä", strings.Repeat("\xff", 4096),
			strings.Repeat("x", 2047) + "ä", strings.Repeat("x\xff", 2000), strings.Repeat("x", 70000),
		} {
			got, err := kindNamed(t, m.name).parse(data(m.make(text)))
			if err != nil {
				t.Fatalf("%s with %.20q...: %v", m.name, text, err)
			}
			sent := data(got)[m.before+2:]
			clean := []byte(strings.ToValidUTF8(text, "\uFFFD"))
			if len(sent) > MaxText || !bytes.HasPrefix(clean, sent) || len(sent) < min(len(clean), MaxText-3) {
				t.Errorf("%s with %.20q... sent %d bytes %.40q", m.name, text, len(sent), sent)
			}
		}
	}
}

// A name that does not fit must never arrive as another one.
func TestNamesAreNeverCutToOthers(t *testing.T) {
	name := bytes.Repeat([]byte("a"), 70000)
	for _, m := range []encoder{
		Open{Conn: 1, Kind: KindNamed, Host: name}, OpenConnection{Conn: 1, HasTarget: true, Host: name},
		Expose{Kind: KindNamed, Name: name}, Withdraw{Name: name}, Exposed{Name: name},
	} {
		if _, _, err := ParseControl(m.AppendPayload(nil)); err == nil {
			t.Errorf("%T with a name of 70,000 bytes is accepted", m)
		}
	}
}

func TestParseHelloBounds(t *testing.T) {
	for _, tc := range []struct {
		name   string
		change func(*Hello)
		ok     bool
	}{
		{"as it is", func(*Hello) {}, true},
		{"version 0", func(h *Hello) { h.Version = 0 }, false},
		{"version 1", func(h *Hello) { h.Version = 1 }, false},
		{"version of the future", func(h *Hello) { h.Version = 900 }, true},
		{"payload 0", func(h *Hello) { h.MaxPayload = 0 }, false},
		{"payload 1", func(h *Hello) { h.MaxPayload = 1 }, true},
		{"payload above ours", func(h *Hello) { h.MaxPayload = 1<<32 - 1 }, true},
		{"stream window 65,535", func(h *Hello) { h.StreamWindow = MinStreamWindow - 1 }, false},
		{"stream window 65,536", func(h *Hello) { h.StreamWindow = MinStreamWindow }, true},
		{"session window below 1 MiB", func(h *Hello) { h.SessionWindow = MinSessionWindow - 1 }, false},
		{"session window of 1 MiB", func(h *Hello) { h.SessionWindow = MinSessionWindow }, true},
		{"unknown features", func(h *Hello) { h.Features = 1<<32 - 1 }, true},
	} {
		h := sampleHello
		tc.change(&h)
		got, err := ParseHello(data(h))
		switch {
		case tc.ok && (err != nil || diff(h, got) != ""):
			t.Errorf("%s: %+v, %v", tc.name, got, err)
		case !tc.ok:
			if err == nil {
				t.Errorf("%s was accepted", tc.name)
				continue
			}
			checkSyntax(t, err, helloSize)
		}
	}
}

// Refusing a bad name is the end of one stream; a SyntaxError would end all.
func TestBadHostsAreTheExitsToRefuse(t *testing.T) {
	for _, host := range []string{"", "\xff\xfe", "a b", "a\x00b", strings.Repeat("x", 300), "0x7f.1"} {
		o, err := ParseOpen(data(Open{Conn: 1, Kind: KindTCP, Host: []byte(host), Port: 1}))
		if err != nil || string(o.Host) != host {
			t.Errorf("%q: %+v, %v", host, o, err)
		}
	}
}
