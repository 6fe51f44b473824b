package socks5

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net/netip"
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
			checkRequest(t, req, used)
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

// checkRequest writes req as a client would and compares it with what was read.
func checkRequest(t *testing.T, req Request, used []byte) {
	t.Helper()
	request := used[2+int(used[1]):]
	want := []byte{version, byte(Connect), request[2], request[3]}
	if addressType(request[3]) == addressName {
		want = append(want, byte(len(req.Host)))
		want = append(want, req.Host...)
	} else {
		want = append(want, netip.MustParseAddr(req.Host).AsSlice()...)
	}
	want = binary.BigEndian.AppendUint16(want, req.Port)
	if req.Command != Connect || !bytes.Equal(want, request) {
		t.Fatalf("%x was read as %+v", request, req)
	}
}
