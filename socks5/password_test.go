package socks5

import (
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"
)

const (
	offer   = "\x05\x01\x02" // of a password
	chosen  = "\x05\x02"
	alice   = "\x01\x05alice\x06secret"
	welcome = "\x01\x00"
	goAway  = "\x01\x01"

	wrong = "user name or password is wrong"
	empty = "user name or password is empty"
)

// onlyAlice lets one user in.
var onlyAlice = Options{Authenticate: func(user, password string) bool { return user == "alice" && password == "secret" }}

func TestPassword(t *testing.T) {
	longest := strings.Repeat("x", 255)
	for _, tc := range []struct {
		name, in       string
		user, password string
		want           Request
	}{
		{"to a name", offer + alice + toName, "alice", "secret", Request{Connect, "a.io", 443, "alice"}},
		{"to IPv4", offer + alice + to4, "alice", "secret", Request{Connect, "127.0.0.1", 80, "alice"}},
		{"to IPv6", offer + alice + to6, "alice", "secret", Request{Connect, "2001:db8::1", 65535, "alice"}},
		{"shortest", offer + "\x01\x01a\x01b" + toName, "a", "b", Request{Connect, "a.io", 443, "a"}},
		{"longest", offer + "\x01\xff" + longest + "\xff" + longest + toName, longest, longest, Request{Connect, "a.io", 443, longest}},
		{"any bytes", offer + "\x01\x03\x00\xff\n\x02\x00:" + toName, "\x00\xff\n", "\x00:", Request{Connect, "a.io", 443, "\x00\xff\n"}},
		{"name and password alike", offer + "\x01\x02aa\x02aa" + toName, "aa", "aa", Request{Connect, "a.io", 443, "aa"}},
		{"beside other methods", "\x05\x03\x00\x01\x02" + alice + toName, "alice", "secret", Request{Connect, "a.io", 443, "alice"}},
		{"255 methods", "\x05\xff" + strings.Repeat("\x00", 254) + "\x02" + alice + toName, "alice", "secret", Request{Connect, "a.io", 443, "alice"}},
		{"for an association", offer + alice + "\x05\x03\x00\x01\x00\x00\x00\x00\x00\x00", "alice", "secret", Request{Associate, "0.0.0.0", 0, "alice"}},

		// What curl 7.88.1 puts on the wire; TestCurl runs the installed one.
		{"curl 7.88 --socks5 --proxy-user", "\x05\x03\x00\x01\x02" + "\x01\x05alice\x06secret" + "\x05\x01\x00\x01\x7f\x00\x00\x01\x1f\x91", "alice", "secret", Request{Connect, "127.0.0.1", 8081, "alice"}},
		{"curl 7.88 --socks5-hostname --proxy-user", "\x05\x03\x00\x01\x02" + "\x01\x05alice\x06secret" + "\x05\x01\x00\x03\x0bexample.com\x00\x50", "alice", "secret", Request{Connect, "example.com", 80, "alice"}},
		{"curl 7.88 --socks5-basic --proxy-user", "\x05\x02\x00\x02" + "\x01\x05alice\x06secret" + "\x05\x01\x00\x01\x7f\x00\x00\x01\x1f\x91", "alice", "secret", Request{Connect, "127.0.0.1", 8081, "alice"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := script(tc.in, "early data")
			calls := 0
			req, err := Options{AllowAssociate: true, Authenticate: func(user, password string) bool {
				calls++
				if user != tc.user || password != tc.password {
					t.Errorf("asked for user %q with password %q", user, password)
				}
				if got := c.got.String(); got != chosen {
					t.Errorf("before the decision the client was sent %q", got)
				}
				return true
			}}.ReadRequest(c)
			if err != nil || req != tc.want || calls != 1 {
				t.Errorf("got %+v, %v after %d calls; want %+v", req, err, calls, tc.want)
			}
			if got := c.got.String(); got != chosen+welcome {
				t.Errorf("the client was sent %q", got)
			}
			if rest, _ := io.ReadAll(c.Reader); string(rest) != "early data" {
				t.Errorf("behind the request %q is left", rest)
			}
		})
	}
}

func TestPasswordRefused(t *testing.T) {
	longest := strings.Repeat("x", 255)
	for _, tc := range []struct {
		name, in string
		want     AuthError
		asked    bool   // whether Authenticate was
		rest     string // what stays unread of in
	}{
		{"wrong password", "\x01\x05alice\x07hunter2", AuthError{"alice", wrong}, true, ""},
		{"too little of it", "\x01\x05alice\x05hunte", AuthError{"alice", wrong}, true, ""},
		{"unknown user", "\x01\x03bob\x06hunter", AuthError{"bob", wrong}, true, ""},
		{"longest", "\x01\xff" + longest + "\xff" + strings.Repeat("hunter2", 37)[:255], AuthError{longest[:64] + "…", wrong}, true, ""},
		{"unsafe name", "\x01\x05\x1b[2J\n\x06hunter", AuthError{`\x1b[2J\n`, wrong}, true, ""},
		{"curl 7.88 --proxy-user alice:", "\x01\x05alice\x00", AuthError{"alice", empty}, false, ""},
		{"curl 7.88 --proxy-user :hunter", "\x01\x00\x06hunter", AuthError{"", empty}, false, ""},
		{"curl 7.88 --proxy-user :", "\x01\x00\x00", AuthError{"", empty}, false, ""},
		{"version of SOCKS", "\x05\x05alice\x06hunter", AuthError{"", "version 5"}, false, "alice\x06hunter"},
		{"version 0", "\x00\x00", AuthError{"", "version 0"}, false, ""},
		{"request instead", to4, AuthError{"", "version 5"}, false, to4[2:]},
	} {
		t.Run(tc.name, func(t *testing.T) {
			asked := false
			o := Options{Authenticate: func(string, string) bool {
				asked = true
				return false
			}}
			c := script(offer, tc.in, toName)
			req, err := o.ReadRequest(c)
			var auth *AuthError
			if !errors.As(err, &auth) || *auth != tc.want || req != (Request{}) {
				t.Fatalf("%+v, %v; want %+v", req, err, tc.want)
			}
			if asked != tc.asked {
				t.Errorf("Authenticate was called: %t", asked)
			}
			if got := c.got.String(); got != chosen+goAway {
				t.Errorf("the client was sent %q", got)
			}
			if rest, _ := io.ReadAll(c.Reader); string(rest) != tc.rest+toName {
				t.Errorf("%q is left unread, want %q", rest, tc.rest+toName)
			}
			if text := err.Error(); strings.Contains(text, "hunte") || strings.ContainsAny(text, "\x00\x1b\n") {
				t.Errorf("the error %q holds what no log may", text)
			}
		})
	}
}

func TestAuthErrorText(t *testing.T) {
	for want, err := range map[string]AuthError{
		`SOCKS5 user "alice" refused: user name or password is wrong`:             {"alice", wrong},
		`SOCKS5 authentication refused: user name or password is empty`:           {"", empty},
		`SOCKS5 user "a\" refused: \x00" refused: user name or password is wrong`: {safeUser("a\" refused: \x00"), wrong},
	} {
		if got := err.Error(); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}

func TestSafeUser(t *testing.T) {
	for in, want := range map[string]string{
		"":                            "",
		"alice":                       "alice",
		"Bücher & más":                "Bücher & más",
		`a"b\c`:                       `a\"b\\c`,
		"a\r\nb":                      `a\r\nb`,
		"\x1b]0;x\x07":                `\x1b]0;x\a`,
		"\x7f\u0085":                  `\x7f\u0085`,
		"\u202eabc":                   `\u202eabc`, // turns the direction
		"a\u200bb\U000e0041":          `a\u200bb\U000e0041`,
		"\u2028\u2029":                `\u2028\u2029`,
		"\xff\xc3":                    `\xff\xc3`,
		strings.Repeat("x", 64):       strings.Repeat("x", 64),
		strings.Repeat("x", 65):       strings.Repeat("x", 64) + "…",
		strings.Repeat("x", 63) + "ü": strings.Repeat("x", 63) + `\xc3…`,
		strings.Repeat("\x01", 255):   strings.Repeat(`\x01`, 64) + "…", // the longest there is
	} {
		if got := safeUser(in); got != want {
			t.Errorf("%q: got %q, want %q", in, got, want)
		}
	}
}

// A client without a password is not let in by another way.
func TestPasswordIsTheOnlyMethod(t *testing.T) {
	for name, in := range map[string]string{
		"none offered":     "\x05\x00",
		"none needed":      greeting,
		"curl 7.88":        "\x05\x02\x00\x01",
		"GSSAPI":           "\x05\x01\x01",
		"all others":       "\x05\x04\x00\x01\x03\x80",
		"0xff itself":      "\x05\x01\xff",
		"255 times nobody": "\x05\xff" + strings.Repeat("\x00", 255),
	} {
		o := Options{Authenticate: func(string, string) bool {
			t.Errorf("%s: Authenticate was called", name)
			return true
		}}
		c := script(in, toName)
		if req, err := o.ReadRequest(c); !errors.Is(err, ErrNoMethod) || req != (Request{}) {
			t.Errorf("%s: %+v, %v", name, req, err)
		}
		if got := c.got.String(); got != rejected {
			t.Errorf("%s: the client was sent %q", name, got)
		}
		if rest, _ := io.ReadAll(c.Reader); string(rest) != toName {
			t.Errorf("%s: read on after the refusal, %q is left", name, rest)
		}
	}
}

func TestPasswordCutAtEveryByte(t *testing.T) {
	for _, request := range []string{toName, to4, to6} {
		whole := offer + alice + request
		for n := range whole {
			c := script(whole[:n])
			req, err := onlyAlice.ReadRequest(c)
			want := io.ErrUnexpectedEOF
			if n == 0 {
				want = io.EOF
			}
			if !errors.Is(err, want) || req != (Request{}) {
				t.Errorf("%d of %d bytes: %+v, %v", n, len(whole), req, err)
			}
			answer := ""
			if n >= len(offer) {
				answer = chosen
			}
			if n >= len(offer+alice) {
				answer = chosen + welcome
			}
			if got := c.got.String(); got != answer {
				t.Errorf("%d of %d bytes: the client was sent %q", n, len(whole), got)
			}
		}
	}
}

func TestPasswordByteByByte(t *testing.T) {
	for _, in := range []string{offer + alice + toName, offer + alice + to6, offer + "\x01\x03bob\x06secret" + toName, offer + "\x01\x05alice\x00" + toName} {
		want, wantErr := onlyAlice.ReadRequest(script(in))
		for name, slow := range map[string]func(io.Reader) io.Reader{
			"one byte a read":  iotest.OneByteReader,
			"half of a read":   iotest.HalfReader,
			"data with an end": iotest.DataErrReader,
		} {
			c := &client{Reader: slow(strings.NewReader(in))}
			got, err := onlyAlice.ReadRequest(c)
			if got != want || !sameError(err, wantErr) {
				t.Errorf("%q, %s: %+v, %v; want %+v, %v", in, name, got, err, want, wantErr)
			}
		}
	}
}

// The largest handshake there is.
func TestPasswordReadsAtMost1032Bytes(t *testing.T) {
	long := "\xff" + strings.Repeat("x", 255)
	in := "\x05\xff" + strings.Repeat("\x02", 255) + "\x01" + long + long + "\x05\x01\x00\x03" + long + "\x00\x16"
	if len(in) != 1032 {
		t.Fatalf("the script has %d bytes", len(in))
	}
	c := script(in, strings.Repeat("y", 10000))
	if _, err := (Options{Authenticate: func(string, string) bool { return true }}).ReadRequest(c); err != nil {
		t.Fatal(err)
	}
	if rest, _ := io.ReadAll(c.Reader); len(rest) != 10000 {
		t.Errorf("%d bytes read beyond the request", 10000-len(rest))
	}
}

func TestPasswordPassesErrorsOn(t *testing.T) {
	whole := offer + alice + toName
	for n := range whole {
		c := &client{Reader: io.MultiReader(strings.NewReader(whole[:n]), iotest.ErrReader(errBroken))}
		if req, err := onlyAlice.ReadRequest(c); !errors.Is(err, errBroken) || req != (Request{}) {
			t.Errorf("read error after %d bytes: %+v, %v", n, req, err)
		}
	}
	for _, tc := range []struct {
		name, in string
		after    int // writes that succeed
		auth     bool
		refused  bool
	}{
		{"method", whole, 0, false, false},
		{"acceptance", whole, 1, false, false},
		{"refusal", offer + "\x01\x05alice\x05wrong", 1, true, false},
		{"refusal of an empty password", offer + "\x01\x05alice\x00", 1, true, false},
		{"refusal of a version", offer + "\x02\x05", 1, true, false},
		{"reply", offer + alice + "\x05\x02\x00\x01\x7f\x00\x00\x01\x00\x50", 2, false, true},
	} {
		w := &brokenWriter{Reader: strings.NewReader(tc.in), after: tc.after}
		req, err := onlyAlice.ReadRequest(w)
		if !errors.Is(err, errBroken) || req != (Request{}) {
			t.Errorf("write error of the %s: %+v, %v", tc.name, req, err)
		}
		var auth *AuthError
		var refused *RefusedError
		if errors.As(err, &auth) != tc.auth || errors.As(err, &refused) != tc.refused {
			t.Errorf("write error of the %s: %v", tc.name, err)
		}
	}
}
