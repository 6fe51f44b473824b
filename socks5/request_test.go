package socks5

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"
	"unicode/utf8"
)

// client is a scripted client: what it sends, and what it was sent.
type client struct {
	io.Reader
	got bytes.Buffer
}

func (c *client) Write(p []byte) (int, error) { return c.got.Write(p) }

func script(parts ...string) *client {
	return &client{Reader: strings.NewReader(strings.Join(parts, ""))}
}

const (
	greeting = "\x05\x01\x00"
	accepted = "\x05\x00"
	rejected = "\x05\xff"
	toName   = "\x05\x01\x00\x03\x04a.io\x01\xbb"
	to4      = "\x05\x01\x00\x01\x7f\x00\x00\x01\x00\x50"
	to6      = "\x05\x01\x00\x04\x20\x01\x0d\xb8\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01\xff\xff"
	nowhere  = "\x00\x01\x00\x00\x00\x00\x00\x00" // behind version and reply
)

func TestReadRequest(t *testing.T) {
	longest := strings.Repeat("x", 255)
	for _, tc := range []struct {
		name, in string
		host     string
		port     uint16
	}{
		{"name", greeting + toName, "a.io", 443},
		{"IPv4", greeting + to4, "127.0.0.1", 80},
		{"IPv6", greeting + to6, "2001:db8::1", 65535},
		{"IPv4 inside IPv6 stays what it is", greeting + "\x05\x01\x00\x04" + strings.Repeat("\x00", 10) + "\xff\xff\x0a\x00\x00\x01\x00\x16", "::ffff:10.0.0.1", 22},
		{"longest name", greeting + "\x05\x01\x00\x03\xff" + longest + "\x00\x16", longest, 22},
		{"shortest name", greeting + "\x05\x01\x00\x03\x01a\x00\x16", "a", 22},
		{"name in other letters", greeting + "\x05\x01\x00\x03\x06b\xc3\xbc.de\x00\x16", "bü.de", 22},
		{"address text as a name", greeting + "\x05\x01\x00\x03\x09127.0.0.1\x00\x16", "127.0.0.1", 22},
		{"port 0 is for the policy to refuse", greeting + "\x05\x01\x00\x03\x01a\x00\x00", "a", 0},
		{"reserved byte not 0", greeting + "\x05\x01\x77\x03\x04a.io\x01\xbb", "a.io", 443},
		{"several methods", "\x05\x03\x02\x01\x00" + toName, "a.io", 443},
		{"255 methods", "\x05\xff" + strings.Repeat("\x02", 254) + "\x00" + toName, "a.io", 443},

		// What curl 7.88.1 puts on the wire; TestCurl runs the installed one.
		{"curl 7.88 --socks5-hostname", "\x05\x02\x00\x01" + "\x05\x01\x00\x03\x0bexample.com\x00\x50", "example.com", 80},
		{"curl 7.88 --socks5", "\x05\x02\x00\x01" + "\x05\x01\x00\x01\x7f\x00\x00\x01\x1f\x91", "127.0.0.1", 8081},
		{"curl 7.88 --socks5 with a user", "\x05\x03\x00\x01\x02" + "\x05\x01\x00\x01\x7f\x00\x00\x01\x1f\x91", "127.0.0.1", 8081},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := script(tc.in, "early data")
			req, err := ReadRequest(c)
			if err != nil {
				t.Fatal(err)
			}
			if want := (Request{Command: Connect, Host: tc.host, Port: tc.port}); req != want {
				t.Errorf("got %+v, want %+v", req, want)
			}
			if got := c.got.String(); got != accepted {
				t.Errorf("the client was sent %q", got)
			}
			if rest, _ := io.ReadAll(c.Reader); string(rest) != "early data" {
				t.Errorf("behind the request %q is left", rest)
			}
		})
	}
}

func TestReadRequestRefuses(t *testing.T) {
	for _, tc := range []struct {
		name, in string
		reply    Reply
		rest     string // what may stay unread
	}{
		{"BIND", "\x05\x02\x00\x01\x7f\x00\x00\x01\x00\x50", CommandNotSupported, ""},
		{"UDP ASSOCIATE", "\x05\x03\x00\x01\x00\x00\x00\x00\x00\x00", CommandNotSupported, ""},
		{"UDP ASSOCIATE for a name", "\x05\x03\x00\x03\x04a.io\x01\xbb", CommandNotSupported, ""},
		{"command 0", "\x05\x00\x00\x03\x04a.io\x01\xbb", CommandNotSupported, ""},
		{"command 240 of Tor", "\x05\xf0\x00\x03\x04a.io\x00\x00", CommandNotSupported, ""},
		{"address type 0", "\x05\x01\x00\x00\x7f\x00\x00\x01\x00\x50", AddressTypeNotSupported, "\x00\x00\x01\x00\x50"},
		{"address type 2", "\x05\x01\x00\x02\x7f\x00\x00\x01\x00\x50", AddressTypeNotSupported, "\x00\x00\x01\x00\x50"},
		{"address type 5", "\x05\x01\x00\x05\x7f", AddressTypeNotSupported, ""},
		{"empty name", "\x05\x01\x00\x03\x00\x00\x50", GeneralFailure, ""},
		{"NUL in a name", "\x05\x01\x00\x03\x03a\x00b\x00\x50", GeneralFailure, ""},
		{"space in a name", "\x05\x01\x00\x03\x03a b\x00\x50", GeneralFailure, ""},
		{"no-break space in a name", "\x05\x01\x00\x03\x04a\xc2\xa0b\x00\x50", GeneralFailure, ""},
		{"new line in a name", "\x05\x01\x00\x03\x03a\nb\x00\x50", GeneralFailure, ""},
		{"delete in a name", "\x05\x01\x00\x03\x03a\x7fb\x00\x50", GeneralFailure, ""},
		{"C1 control in a name", "\x05\x01\x00\x03\x04a\xc2\x85b\x00\x50", GeneralFailure, ""},
		{"name not UTF-8", "\x05\x01\x00\x03\x03a\xffb\x00\x50", GeneralFailure, ""},
		{"request of another version", "\x04\x01\x00\x03\x04a.io\x01\xbb", GeneralFailure, "a.io\x01\xbb"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := script(greeting, tc.in)
			req, err := ReadRequest(c)
			var refused *RefusedError
			if !errors.As(err, &refused) || refused.Reply != tc.reply || req != (Request{}) {
				t.Fatalf("%+v, %v; want a refusal with %v", req, err, tc.reply)
			}
			if got, want := c.got.String(), accepted+"\x05"+string(rune(tc.reply))+nowhere; got != want {
				t.Errorf("the client was sent %q, want %q", got, want)
			}
			if rest, _ := io.ReadAll(c.Reader); string(rest) != tc.rest {
				t.Errorf("%q is left unread, want %q", rest, tc.rest)
			}
			if !utf8.ValidString(err.Error()) || strings.ContainsAny(err.Error(), "\x00\n\x7f") {
				t.Errorf("the error %q holds the client's bytes", err)
			}
		})
	}
}

// What comes from a client that wants to send datagrams is where from, as far as
// it knows.
func TestReadRequestOfAnAssociation(t *testing.T) {
	for _, tc := range []struct {
		name, in string
		host     string
		port     uint16
	}{
		{"unknown", "\x05\x03\x00\x01\x00\x00\x00\x00\x00\x00", "0.0.0.0", 0},
		{"unknown, IPv6", "\x05\x03\x00\x04" + strings.Repeat("\x00", 16) + "\x00\x00", "::", 0},
		{"unknown, as a name", "\x05\x03\x00\x03\x070.0.0.0\x00\x00", "0.0.0.0", 0},
		{"unknown port", "\x05\x03\x00\x01\x7f\x00\x00\x01\x00\x00", "127.0.0.1", 0},
		{"unknown address", "\x05\x03\x00\x01\x00\x00\x00\x00\xd4\x31", "0.0.0.0", 54321},
		{"known", "\x05\x03\x00\x04" + strings.Repeat("\x00", 15) + "\x01\xd4\x31", "::1", 54321},
		{"name", "\x05\x03\x00\x03\x04a.io\x01\xbb", "a.io", 443},
		{"reserved byte not 0", "\x05\x03\x01\x01\x00\x00\x00\x00\x00\x00", "0.0.0.0", 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := script(greeting, tc.in, "early data")
			req, err := Options{AllowAssociate: true}.ReadRequest(c)
			if want := (Request{Command: Associate, Host: tc.host, Port: tc.port}); err != nil || req != want {
				t.Errorf("got %+v, %v; want %+v", req, err, want)
			}
			if got := c.got.String(); got != accepted {
				t.Errorf("the client was sent %q", got)
			}
			if rest, _ := io.ReadAll(c.Reader); string(rest) != "early data" {
				t.Errorf("behind the request %q is left", rest)
			}
		})
	}
}

// AllowAssociate lets nothing else through.
func TestReadRequestOfAnAssociationRefuses(t *testing.T) {
	for _, tc := range []struct {
		name, in string
		reply    Reply
	}{
		{"BIND", "\x05\x02\x00\x01\x7f\x00\x00\x01\x00\x50", CommandNotSupported},
		{"command 0", "\x05\x00\x00\x03\x04a.io\x01\xbb", CommandNotSupported},
		{"command 4", "\x05\x04\x00\x03\x04a.io\x01\xbb", CommandNotSupported},
		{"empty name", "\x05\x03\x00\x03\x00\x00\x00", GeneralFailure},
		{"space in a name", "\x05\x03\x00\x03\x03a b\x00\x00", GeneralFailure},
		{"address type 2", "\x05\x03\x00\x02\x00", AddressTypeNotSupported},
	} {
		c := script(greeting, tc.in)
		req, err := Options{AllowAssociate: true}.ReadRequest(c)
		var refused *RefusedError
		if !errors.As(err, &refused) || refused.Reply != tc.reply || req != (Request{}) {
			t.Errorf("%s: %+v, %v; want a refusal with %v", tc.name, req, err, tc.reply)
		}
		if got, want := c.got.String(), accepted+"\x05"+string(rune(tc.reply))+nowhere; got != want {
			t.Errorf("%s: the client was sent %q, want %q", tc.name, got, want)
		}
	}
	c := script(greeting, toName)
	if req, err := (Options{AllowAssociate: true}).ReadRequest(c); err != nil || req.Command != Connect {
		t.Errorf("CONNECT beside associations: %+v, %v", req, err)
	}
}

func TestReadRequestWithoutAnAcceptableMethod(t *testing.T) {
	for name, in := range map[string]string{
		"none offered":       "\x05\x00",
		"password only":      "\x05\x01\x02",
		"GSSAPI or password": "\x05\x02\x01\x02",
		"255 others":         "\x05\xff" + strings.Repeat("\x80", 255),
		"0xff itself":        "\x05\x01\xff",
	} {
		c := script(in, toName)
		if _, err := ReadRequest(c); !errors.Is(err, ErrNoMethod) {
			t.Errorf("%s: %v", name, err)
		}
		if got := c.got.String(); got != rejected {
			t.Errorf("%s: the client was sent %q", name, got)
		}
		if rest, _ := io.ReadAll(c.Reader); string(rest) != toName {
			t.Errorf("%s: read on after the refusal, %q is left", name, rest)
		}
	}
}

// Clients of other protocols are told apart by their first byte, without waiting
// for a second one and without an answer that they could take for their own.
func TestReadRequestFromOtherProtocols(t *testing.T) {
	for _, tc := range []struct {
		name, in string
		want     Protocol
	}{
		{"SOCKS4", "\x04\x01\x00\x50\x7f\x00\x00\x01user\x00", SOCKS4},
		{"SOCKS4a", "\x04\x01\x00\x50\x00\x00\x00\x01\x00a.io\x00", SOCKS4},
		{"HTTP CONNECT", "CONNECT a.io:443 HTTP/1.1\r\n\r\n", HTTP},
		{"HTTP GET", "GET http://a.io/ HTTP/1.1\r\n\r\n", HTTP},
		{"HTTP/2", "PRI * HTTP/2.0\r\n\r\n", HTTP},
		{"TLS", "\x16\x03\x01\x02\x00", TLS},
		{"SSH", "SSH-2.0-OpenSSH_9.2\r\n", Unknown},
		{"zeros", "\x00\x00\x00\x00", Unknown},
	} {
		t.Run(tc.name, func(t *testing.T) {
			for _, in := range []io.Reader{
				strings.NewReader(tc.in),
				io.MultiReader(strings.NewReader(tc.in[:1]), blocked{t}),
			} {
				c := &client{Reader: in}
				_, err := ReadRequest(c)
				var other *NotSOCKS5Error
				if !errors.As(err, &other) || other.Protocol != tc.want {
					t.Errorf("%v, want one of %s", err, tc.want)
				}
				if c.got.Len() != 0 {
					t.Errorf("the client was sent %q", c.got.String())
				}
			}
		})
	}
}

// blocked is where a read would wait for ever.
type blocked struct{ t *testing.T }

func (b blocked) Read([]byte) (int, error) {
	b.t.Error("waited for more")
	return 0, io.EOF
}

func TestReadRequestCutAtEveryByte(t *testing.T) {
	for _, request := range []string{toName, to4, to6} {
		whole := greeting + request
		for n := range whole {
			c := script(whole[:n])
			req, err := ReadRequest(c)
			want := io.ErrUnexpectedEOF
			if n == 0 {
				want = io.EOF
			}
			if !errors.Is(err, want) || req != (Request{}) {
				t.Errorf("%d of %d bytes: %+v, %v", n, len(whole), req, err)
			}
			answer := ""
			if n >= len(greeting) {
				answer = accepted
			}
			if got := c.got.String(); got != answer {
				t.Errorf("%d of %d bytes: the client was sent %q", n, len(whole), got)
			}
		}
	}
}

func TestReadRequestByteByByte(t *testing.T) {
	for _, request := range []string{toName, to4, to6} {
		want, err := ReadRequest(script(greeting, request))
		if err != nil {
			t.Fatal(err)
		}
		for name, slow := range map[string]func(io.Reader) io.Reader{
			"one byte a read":  iotest.OneByteReader,
			"half of a read":   iotest.HalfReader,
			"data with an end": iotest.DataErrReader,
		} {
			c := &client{Reader: slow(strings.NewReader(greeting + request))}
			if got, err := ReadRequest(c); err != nil || got != want {
				t.Errorf("%s: %+v, %v; want %+v", name, got, err, want)
			}
		}
	}
}

// The largest handshake there is.
func TestReadRequestReadsAtMost519Bytes(t *testing.T) {
	in := "\x05\xff" + strings.Repeat("\x00", 255) + "\x05\x01\x00\x03\xff" + strings.Repeat("x", 255) + "\x00\x16"
	if len(in) != 519 {
		t.Fatalf("the script has %d bytes", len(in))
	}
	c := script(in, strings.Repeat("y", 10000))
	if _, err := ReadRequest(c); err != nil {
		t.Fatal(err)
	}
	if rest, _ := io.ReadAll(c.Reader); len(rest) != 10000 {
		t.Errorf("%d bytes read beyond the request", 10000-len(rest))
	}
}

var errBroken = errors.New("broken")

func TestReadRequestPassesErrorsOn(t *testing.T) {
	whole := greeting + toName
	for n := range whole {
		c := &client{Reader: io.MultiReader(strings.NewReader(whole[:n]), iotest.ErrReader(errBroken))}
		if _, err := ReadRequest(c); !errors.Is(err, errBroken) {
			t.Errorf("read error after %d bytes: %v", n, err)
		}
	}
	for name, in := range map[string]string{"method": whole, "refusal": greeting + "\x05\x02\x00\x01\x7f\x00\x00\x01\x00\x50"} {
		w := &brokenWriter{Reader: strings.NewReader(in), after: map[string]int{"method": 0, "refusal": 1}[name]}
		_, err := ReadRequest(w)
		if !errors.Is(err, errBroken) {
			t.Errorf("write error of the %s: %v", name, err)
		}
		var refused *RefusedError
		if errors.As(err, &refused) != (name == "refusal") {
			t.Errorf("write error of the %s: %v", name, err)
		}
	}
}

// brokenWriter fails its writes after the given number of them.
type brokenWriter struct {
	io.Reader
	after int
}

func (w *brokenWriter) Write(p []byte) (int, error) {
	if w.after == 0 {
		return 0, errBroken
	}
	w.after--
	return len(p), nil
}
