package policy

import (
	"strings"
	"testing"
)

func TestParseHost(t *testing.T) {
	tests := []struct{ in, want string }{
		{"10.0.0.5", "10.0.0.5"},
		{"::1", "::1"},
		{"2001:DB8::0:1", "2001:db8::1"},
		{"::ffff:127.0.0.1", "127.0.0.1"},
		{"::ffff:7f00:1", "127.0.0.1"},
		{"::127.0.0.1", "127.0.0.1"},
		{"::7f00:1", "127.0.0.1"},
		{"64:ff9b::7f00:1", "64:ff9b::7f00:1"},
		{"::", "::"},
		{"localhost", "localhost"},
		{"LocalHost.", "localhost"},
		{"Example.COM", "example.com"},
		{"example.com.", "example.com"},
		{"bücher.example", "xn--bcher-kva.example"},
		{"BÜCHER.example", "xn--bcher-kva.example"},
		{"xn--bcher-kva.example", "xn--bcher-kva.example"},
		{"ｅｘａｍｐｌｅ。com", "example.com"},
		{"my_service", "my_service"},
		{"r3---sn-a.example", "r3---sn-a.example"},
		{"4.3.2.1.in-addr.arpa", "4.3.2.1.in-addr.arpa"},
		{"1password.com", "1password.com"},
		{strings.Repeat("a", 63) + ".example", strings.Repeat("a", 63) + ".example"},
	}
	for _, tt := range tests {
		h, err := parseHost(tt.in)
		if err != nil || h.String() != tt.want {
			t.Errorf("%q: %v, %v, want %s", tt.in, h, err, tt.want)
		}
	}
}

// The forms that readers disagree about, and what is no host at all.
func TestParseHostRefuses(t *testing.T) {
	for _, in := range []string{
		"",
		"127.1", "127.0.1", "127", "0",
		"0x7f000001", "0x7f.0.0.1", "0X7F000001", "127.0.0.0x1", "0x",
		"2130706433", "017700000001", "0177.0.0.1", "127.0.0.01", "08.8.8.8",
		"127.0.0.1.", "127.1.", "256.0.0.1", "1.2.3.4.5", "a.1", "example.0x1f",
		"１２７.０.０.１", "127。0。0。1", "①②⑦.0.0.1",
		"::ffff:0177.0.0.1", "::ffff:127.1", "0:0:0:0:0:ffff:7f00:1:1",
		"fe80::1%eth0", "fe80::1%25eth0", "::1%", "127.0.0.1%lo", "exa%6dple.com",
		"[::1]", "[127.0.0.1]", "::1:", ":", "1::2::3",
		".", "..", ".example", "a..b", "example..",
		"exam ple.com", " example.com", "example.com ", "example.com\n", "a\tb", "a\x00b", "127.0.0.1\x00.example.com", "\x7f",
		"user@example.com", "example.com:80", "example.com/x", "http://example.com", `a\b`, "a,b", "*", "*.example.com", "a*b",
		"xn--a", "xn--\xff", "\xff\xfe",
		strings.Repeat("a", 64) + ".example",
		strings.Repeat("a.", 127) + "ab",
		strings.Repeat("a", 5000),
	} {
		if h, err := parseHost(in); err == nil {
			t.Errorf("%q is taken as %v", in, h)
		}
	}
}

func FuzzParseHost(f *testing.F) {
	for _, s := range []string{"10.0.0.1", "bücher.example", "::ffff:1.2.3.4", "0x7f.1", "a..b", "xn--a", "ｅ。com"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		h, err := parseHost(s)
		if err != nil {
			return
		}
		if (h.name == "") == !h.addr.IsValid() {
			t.Fatalf("%q: neither or both of name and address: %+v", s, h)
		}
		again, err := parseHost(h.String())
		if err != nil || again != h {
			t.Fatalf("%q becomes %v, which becomes %v, %v", s, h, again, err)
		}
	})
}

func (h host) String() string {
	if h.name != "" {
		return h.name
	}
	return h.addr.String()
}
