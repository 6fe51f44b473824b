package socks5

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net/netip"
	"strconv"
	"strings"
	"testing"
)

// FuzzReadRequest: whatever a client sends, ReadRequest ends, reads no more than
// a handshake and answers by the rules of its errors.
func FuzzReadRequest(f *testing.F) {
	for _, request := range []string{toName, to4, to6} {
		f.Add([]byte(greeting + request + "more"))
		f.Add([]byte(greeting + request)[:7])
	}
	f.Add([]byte(greeting + "\x05\x03\x00\x01\x00\x00\x00\x00\x00\x00"))
	f.Add([]byte("\x05\x01\x02" + toName))
	f.Add([]byte("\x04\x01\x00\x50\x7f\x00\x00\x01\x00"))
	f.Add([]byte("GET / HTTP/1.1\r\n\r\n"))
	f.Add([]byte("\x05\xff" + strings.Repeat("\x00", 255) + "\x05\x01\x00\x03\xff" + strings.Repeat("x", 257)))
	f.Fuzz(func(t *testing.T, in []byte) {
		left := bytes.NewReader(in)
		c := &client{Reader: left}
		req, err := ReadRequest(c)
		used := in[:len(in)-left.Len()]
		if len(used) > 519 {
			t.Fatalf("%d bytes read", len(used))
		}
		var other *NotSOCKS5Error
		var refused *RefusedError
		switch answer := c.got.String(); {
		case err == nil:
			if answer != accepted {
				t.Fatalf("answered %q", answer)
			}
			if req.Command != Connect || req.User != "" {
				t.Fatalf("%+v", req)
			}
			checkRequest(t, req, used[2+int(used[1]):])
		case errors.As(err, &other):
			if answer != "" || in[0] == version {
				t.Fatalf("%v, answered %q", err, answer)
			}
		case errors.Is(err, ErrNoMethod):
			if answer != rejected {
				t.Fatalf("answered %q", answer)
			}
		case errors.As(err, &refused):
			if refused.Reply == Succeeded || answer != accepted+"\x05"+string(rune(refused.Reply))+nowhere {
				t.Fatalf("%v, answered %q", err, answer)
			}
		case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
			if left.Len() != 0 || answer != "" && answer != accepted {
				t.Fatalf("%v with %d bytes left, answered %q", err, left.Len(), answer)
			}
		default:
			t.Fatalf("an error of no known kind: %v", err)
		}
	})
}

// FuzzReadRequestWithUsers: the same of a conversation with a password in it, and
// nobody comes in whom Authenticate has not let in.
func FuzzReadRequestWithUsers(f *testing.F) {
	for _, request := range []string{toName, to4, to6, "\x05\x03\x00\x01\x00\x00\x00\x00\x00\x00"} {
		f.Add([]byte(offer+alice+request+"more"), true)
		f.Add([]byte(offer + alice + request)[:9], false)
	}
	f.Add([]byte(greeting+toName), false)
	f.Add([]byte(offer+"\x01\x05alice\x05wrong"+toName), false)
	f.Add([]byte(offer+"\x01\x05alice\x00"+toName), false)
	f.Add([]byte(offer+"\x01\x00\x06secret"+toName), false)
	f.Add([]byte(offer+"\x05\x05alice\x06secret"+toName), false)
	f.Add([]byte(offer+alice+"\x05\x02\x00\x01\x00\x00\x00\x00\x00\x00"), true)
	f.Add([]byte(offer+"\x01\xff"+strings.Repeat("\x1b", 255)+"\xff"+strings.Repeat("x", 255)+toName), false)
	f.Fuzz(func(t *testing.T, in []byte, associate bool) {
		left := bytes.NewReader(in)
		c := &client{Reader: left}
		calls, user, password := 0, "", ""
		even := func() bool { return calls == 1 && len(password)%2 == 0 }
		req, err := Options{AllowAssociate: associate, Authenticate: func(u, p string) bool {
			calls++
			user, password = u, p
			return even()
		}}.ReadRequest(c)
		used := in[:len(in)-left.Len()]
		if len(used) > 1032 || calls > 1 {
			t.Fatalf("%d bytes read, %d calls", len(used), calls)
		}
		if calls == 1 && (user == "" || password == "") {
			t.Fatalf("user %q with password %q", user, password)
		}
		if err != nil && req != (Request{}) {
			t.Fatalf("%+v with %v", req, err)
		}
		var other *NotSOCKS5Error
		var auth *AuthError
		var refused *RefusedError
		switch answer := c.got.String(); {
		case err == nil:
			if answer != chosen+welcome || !even() || req.User != user || req.Command != Connect && (req.Command != Associate || !associate) {
				t.Fatalf("%+v for user %q, answered %q", req, user, answer)
			}
			rest, message := used[2+int(used[1]):], spoken(user, password)
			if !strings.HasPrefix(string(rest), message) {
				t.Fatalf("%x was read as %x", rest, message)
			}
			checkRequest(t, req, rest[len(message):])
		case errors.As(err, &other):
			if answer != "" || in[0] == version {
				t.Fatalf("%v, answered %q", err, answer)
			}
		case errors.Is(err, ErrNoMethod):
			if answer != rejected || bytes.IndexByte(used[2:], byte(methodPassword)) >= 0 {
				t.Fatalf("answered %q", answer)
			}
		case errors.As(err, &auth):
			if answer != chosen+goAway || even() {
				t.Fatalf("%v, answered %q", err, answer)
			}
			if text := err.Error(); len([]rune(text)) > 400 || strings.ContainsFunc(text, func(r rune) bool { return !strconv.IsPrint(r) }) {
				t.Fatalf("unsafe text: %q", text)
			}
		case errors.As(err, &refused):
			if !even() || refused.Reply == Succeeded || answer != chosen+welcome+"\x05"+string(rune(refused.Reply))+nowhere {
				t.Fatalf("%v, answered %q", err, answer)
			}
		case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
			if left.Len() != 0 || answer != "" && answer != chosen && (answer != chosen+welcome || !even()) {
				t.Fatalf("%v with %d bytes left, answered %q", err, left.Len(), answer)
			}
		default:
			t.Fatalf("an error of no known kind: %v", err)
		}
	})
}

// spoken writes a user name and a password as a client would.
func spoken(user, password string) string {
	return "\x01" + string([]byte{byte(len(user))}) + user + string([]byte{byte(len(password))}) + password
}

// FuzzParseDatagram: what is parsed can be written again, and has an address that
// a request could have too; what is not has its reason.
func FuzzParseDatagram(f *testing.F) {
	for _, request := range []string{toName, to4, to6} {
		f.Add([]byte("\x00\x00\x00" + request[3:] + "data"))
		f.Add([]byte("\x00\x00\x00" + request[3:])[:8])
	}
	f.Add([]byte("\x00\x00\x01" + to4[3:] + "data"))
	f.Add([]byte("\xff\xff\x00" + to4[3:]))
	f.Add([]byte("\x00\x00\x00\x01\x7f\x00\x00\x01\x00\x00"))
	f.Add([]byte("\x00\x00\x00\x02\x7f\x00\x00\x01\x00\x50"))
	f.Add([]byte("\x00\x00\x00\x03\x00\x00\x50data"))
	f.Add([]byte("\x00\x00\x00\x03\xff" + strings.Repeat("x", 255) + "\x00\x50data"))
	f.Fuzz(func(t *testing.T, p []byte) {
		before := bytes.Clone(p)
		d, err := ParseDatagram(p)
		if !bytes.Equal(p, before) {
			t.Fatal("the datagram was written to")
		}
		if err != nil && (d.Address != nil || d.Data != nil) {
			t.Fatalf("%+v with %v", d, err)
		}
		switch {
		case err == nil:
			checkDatagram(t, d, p)
		case errors.Is(err, ErrDatagramShort):
			if _, err := ParseDatagram(append(before, make([]byte, 300)...)); errors.Is(err, ErrDatagramShort) {
				t.Fatalf("%x is too short with 300 bytes more", p)
			}
		case errors.Is(err, ErrFragment):
			if p[2] == 0 {
				t.Fatalf("%x is no fragment", p)
			}
		case errors.Is(err, ErrDatagramAddress):
			if req, err := ReadRequest(script(greeting, "\x05\x01\x00", string(p[3:]))); err == nil {
				t.Fatalf("%x: a request may have this address, %+v", p, req)
			}
		case errors.Is(err, ErrDatagramPort):
			req, err := ReadRequest(script(greeting, "\x05\x01\x00", string(p[3:])))
			if err != nil || req.Port != 0 {
				t.Fatalf("%x: a request has %+v, %v", p, req, err)
			}
		default:
			t.Fatalf("an error of no known kind: %v", err)
		}
	})
}

// checkDatagram compares d, parsed from p, with p.
func checkDatagram(t *testing.T, d Datagram, p []byte) {
	t.Helper()
	if p[2] != 0 || d.Port() == 0 || cap(d.Address) != len(d.Address) {
		t.Fatalf("%x was read as %+v", p, d)
	}
	whole := append(AppendDatagramHeader(nil, d.Address), d.Data...)
	if string(whole) != "\x00\x00\x00"+string(p[3:]) {
		t.Fatalf("%x was written as %x", p, whole)
	}
	for n := range 3 + len(d.Address) {
		if _, err := ParseDatagram(p[:n]); !errors.Is(err, ErrDatagramShort) {
			t.Fatalf("%d bytes of %x: %v", n, p, err)
		}
	}
	request := append([]byte("\x05\x01\x00"), d.Address...)
	req, err := ReadRequest(script(greeting, string(request)))
	if err != nil || req.Host != d.Host() || req.Port != d.Port() {
		t.Fatalf("%s port %d in a datagram, %+v, %v in a request", d.Host(), d.Port(), req, err)
	}
	checkRequest(t, req, request)
}

// checkRequest writes req as a client would and compares it with what was read.
func checkRequest(t *testing.T, req Request, request []byte) {
	t.Helper()
	want := []byte{version, byte(req.Command), request[2], request[3]}
	if addressType(request[3]) == addressName {
		want = append(want, byte(len(req.Host)))
		want = append(want, req.Host...)
	} else {
		want = append(want, netip.MustParseAddr(req.Host).AsSlice()...)
	}
	want = binary.BigEndian.AppendUint16(want, req.Port)
	if !bytes.Equal(want, request) {
		t.Fatalf("%x was read as %+v", request, req)
	}
}
