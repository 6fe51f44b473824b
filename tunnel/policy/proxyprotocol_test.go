package policy

import (
	"context"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/culvertgate/culvert/framecodec"
	"github.com/culvertgate/culvert/tunnel"
)

// The headers byte by byte, as the specification of the PROXY protocol
// (sections 2.1 and 2.2) has them.
func TestProxyHeader(t *testing.T) {
	const sig = "\r\n\r\n\x00\r\nQUIT\n"
	v4, v6, unix := address("10.0.0.5", 22), address("2001:db8::5", 443), Address{Path: "/run/app.sock"}
	for _, tt := range []struct {
		version byte
		source  string
		to      Address
		want    string
	}{
		{1, "203.0.113.7", v4, "PROXY TCP4 203.0.113.7 10.0.0.5 0 22\r\n"},
		{1, "::ffff:203.0.113.7", v4, "PROXY TCP4 203.0.113.7 10.0.0.5 0 22\r\n"},
		{1, "2001:db8::9", v6, "PROXY TCP6 2001:db8::9 2001:db8::5 0 443\r\n"},
		{1, "fe80::9%eth0", v6, "PROXY TCP6 fe80::9 2001:db8::5 0 443\r\n"},
		{1, "203.0.113.7", v6, "PROXY TCP6 ::ffff:203.0.113.7 2001:db8::5 0 443\r\n"},
		{1, "2001:db8::9", v4, "PROXY TCP6 2001:db8::9 ::ffff:10.0.0.5 0 22\r\n"},
		{1, "203.0.113.7", unix, "PROXY TCP4 203.0.113.7 0.0.0.0 0 0\r\n"},
		{1, "2001:db8::9", unix, "PROXY TCP6 2001:db8::9 :: 0 0\r\n"},
		{1, "", v4, "PROXY UNKNOWN\r\n"},
		{2, "203.0.113.7", v4, sig + "\x21\x11\x00\x0c\xcb\x00\x71\x07\x0a\x00\x00\x05\x00\x00\x00\x16"},
		{2, "2001:db8::9", v6, sig + "\x21\x21\x00\x24\x20\x01\x0d\xb8" + strings.Repeat("\x00", 11) + "\x09\x20\x01\x0d\xb8" + strings.Repeat("\x00", 11) + "\x05\x00\x00\x01\xbb"},
		{2, "203.0.113.7", v6, sig + "\x21\x21\x00\x24" + strings.Repeat("\x00", 10) + "\xff\xff\xcb\x00\x71\x07\x20\x01\x0d\xb8" + strings.Repeat("\x00", 11) + "\x05\x00\x00\x01\xbb"},
		{2, "203.0.113.7", unix, sig + "\x21\x11\x00\x0c\xcb\x00\x71\x07" + strings.Repeat("\x00", 8)},
		{2, "", v4, sig + "\x20\x00\x00\x00"},
	} {
		var source netip.Addr
		if tt.source != "" {
			source = netip.MustParseAddr(tt.source)
		}
		got, err := proxyHeader(tt.version, source, tt.to)
		if err != nil || string(got) != tt.want {
			t.Errorf("v%d from %q to %v: %q, %v; want %q", tt.version, tt.source, tt.to, got, err, tt.want)
		}
	}
}

func address(a string, port uint16) Address { return Address{Addr: netip.MustParseAddr(a), Port: port} }

// The header is the first thing that a target gets, over TCP and unix sockets,
// and it is there when Dial returns.
func TestDialAnnounces(t *testing.T) {
	tcpListener := listen(t)
	path := filepath.Join(t.TempDir(), "s")
	unixListener, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unixListener.Close() })
	tcpAddress := tcpListener.Addr().String()
	_, port, _ := net.SplitHostPort(tcpAddress)
	p := mustNew(t, Config{Targets: []NamedTarget{
		{Name: "a", Addresses: []string{"tcp/" + tcpAddress}, ProxyProtocol: "v1"},
		{Name: "b", Addresses: []string{"unix/" + path}, ProxyProtocol: "v1"},
		{Name: "c", Addresses: []string{"tcp/" + tcpAddress}},
	}})
	d := Dialer{Source: netip.MustParseAddr("192.0.2.9")}
	for _, tt := range []struct {
		target   string
		listener net.Listener
		want     string
	}{
		{"a", tcpListener, "PROXY TCP4 192.0.2.9 127.0.0.1 0 " + port + "\r\nhello"},
		{"b", unixListener, "PROXY TCP4 192.0.2.9 0.0.0.0 0 0\r\nhello"},
		{"c", tcpListener, "hello"},
	} {
		c, _, err := d.Dial(within(t, 10*time.Second), p, Subject{}, named(tt.target))
		if err != nil {
			t.Fatal(err)
		}
		far, err := tt.listener.Accept()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(c, "hello"); err != nil {
			t.Error(err)
		}
		_ = c.Close()
		if got, err := io.ReadAll(far); err != nil || string(got) != tt.want {
			t.Errorf("%s: the target got %q, %v; want %q", tt.target, got, err, tt.want)
		}
		_ = far.Close()
	}
}

// A target that does not take the header is one that failed: the next address is
// tried, the code is fit for an open, and the connection is closed.
func TestDialAnnouncesInTime(t *testing.T) {
	p := mustNew(t, Config{Targets: []NamedTarget{
		{Name: "one", Addresses: []string{"tcp/10.0.0.1:1"}, ProxyProtocol: "v2"},
		{Name: "two", Addresses: []string{"tcp/10.0.0.1:1", "tcp/10.0.0.2:1"}, ProxyProtocol: "v2"},
	}})
	for _, tt := range []struct {
		target string
		err    error // of the write; nil: it takes nothing
		want   tunnel.Code
	}{
		{"one", &net.OpError{Op: "write", Err: os.NewSyscallError("write", syscall.EPIPE)}, framecodec.CodeRefused},
		{"one", &net.OpError{Op: "write", Err: os.NewSyscallError("write", syscall.ECONNRESET)}, framecodec.CodeRefused},
		{"one", nil, framecodec.CodeTimeout},
		{"two", nil, framecodec.CodeNormal},
	} {
		first := newStubborn(tt.err)
		var far net.Conn
		d := Dialer{Connect: func(_ context.Context, a Address, _ Control) (net.Conn, error) {
			if a.Addr == netip.MustParseAddr("10.0.0.1") {
				return first, nil
			}
			ours, theirs := net.Pipe()
			far = theirs
			go func() { _, _ = io.Copy(io.Discard, theirs) }()
			return ours, nil
		}}
		c, _, err := d.Dial(within(t, 300*time.Millisecond), p, Subject{}, named(tt.target))
		if tunnel.CodeOf(err) != tt.want {
			t.Errorf("%s, %v: %v, want %v", tt.target, tt.err, err, tt.want)
		}
		if err != nil && !AtFault(err) {
			t.Errorf("%v is not the target's fault", err)
		}
		if !first.closed {
			t.Error("the connection is left open")
		}
		if c != nil {
			_ = c.Close()
			_ = far.Close()
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	d := Dialer{Connect: func(context.Context, Address, Control) (net.Conn, error) {
		time.AfterFunc(10*time.Millisecond, cancel)
		return newStubborn(nil), nil
	}}
	if _, _, err := d.Dial(ctx, p, Subject{}, named("one")); tunnel.CodeOf(err) != framecodec.CodeCancelled || AtFault(err) {
		t.Errorf("cancelled: %v", err)
	}
}

// stubborn is a connection whose writes fail, or take nothing until the deadline.
type stubborn struct {
	net.Conn
	err    error
	over   chan struct{}
	closed bool
}

func newStubborn(err error) *stubborn { return &stubborn{err: err, over: make(chan struct{})} }

func (s *stubborn) Write([]byte) (int, error) {
	if s.err != nil {
		return 0, s.err
	}
	<-s.over
	return 0, os.ErrDeadlineExceeded
}

func (s *stubborn) SetWriteDeadline(time.Time) error {
	close(s.over)
	return nil
}

func (s *stubborn) Close() error {
	s.closed = true
	return nil
}

func TestTargetOptionErrors(t *testing.T) {
	for _, tt := range []struct {
		target NamedTarget
		want   string
	}{
		{NamedTarget{ProxyProtocol: "v3"}, `proxy_protocol "v3": write v1 or v2`},
		{NamedTarget{ProxyProtocol: "2"}, "write v1 or v2"},
		{NamedTarget{ProxyProtocol: "v2", Addresses: []string{"udp/10.0.0.1:53"}}, "a datagram target has none"},
		{NamedTarget{Breaker: "on"}, "the only word is off"},
	} {
		tt.target.Name = "x"
		if tt.target.Addresses == nil {
			tt.target.Addresses = []string{"tcp/10.0.0.1:1"}
		}
		if _, err := New(Config{Targets: []NamedTarget{tt.target}}); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%+v: %v, want %q", tt.target, err, tt.want)
		}
	}
}
