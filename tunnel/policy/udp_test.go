package policy

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/culvertgate/culvert/framecodec"
	"github.com/culvertgate/culvert/tunnel"
)

// packets listens on loopback and returns the port.
func packets(t *testing.T) (*net.UDPConn, uint16) {
	t.Helper()
	c, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c, c.LocalAddr().(*net.UDPAddr).AddrPort().Port()
}

// A flow is a connected socket: what others send to it does not arrive. Nobody
// needs to answer for it to open, and the first address with a route is taken.
func TestDialUDP(t *testing.T) {
	server, port := packets(t)
	stranger, _ := packets(t)
	p := mustNew(t, Config{
		Targets: []NamedTarget{{Name: "dns", Addresses: []string{
			"udp/lo.example:53", "udp/missing.example:53", fmt.Sprintf("udp/127.0.0.1:%d", port), "udp/127.0.0.1:1",
		}}},
		Dynamic: &Dynamic{Rules: []Rule{{Text: "udp/127.0.0.0/8:1-65535"}}},
	})
	d := Dialer{Keepalive: 15 * time.Second, Resolver: zone{"lo.example": {"127.0.0.1"}}}
	for _, target := range []tunnel.Target{flow("dns"), udp("127.0.0.1", port)} {
		c, at, err := d.Dial(within(t, 5*time.Second), p, Subject{}, target)
		if err != nil {
			t.Fatalf("%v: %v", target, err)
		}
		if want := (Address{Addr: loopback4, Port: port, UDP: true}); at != want || at.Network() != "udp4" {
			t.Errorf("%v: connected to %s/%v", target, at.Network(), at)
		}
		conn, ok := c.(*net.UDPConn)
		if !ok || conn.RemoteAddr() == nil {
			t.Fatalf("%v: a %T", target, c)
		}
		if _, err := conn.Write([]byte("question")); err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 64)
		_ = server.SetReadDeadline(time.Now().Add(5 * time.Second))
		n, from, err := server.ReadFromUDP(buf)
		if err != nil || string(buf[:n]) != "question" {
			t.Fatalf("%q, %v", buf[:n], err)
		}
		if _, err := stranger.WriteToUDP([]byte("poison"), from); err != nil {
			t.Fatal(err)
		}
		if _, err := server.WriteToUDP([]byte("answer"), from); err != nil {
			t.Fatal(err)
		}
		_ = conn.SetReadDeadline(time.Now().Add(5 * time.Second))
		if n, err := conn.Read(buf); err != nil || string(buf[:n]) != "answer" {
			t.Errorf("%v: read %q, %v", target, buf[:n], err)
		}
		_ = conn.Close()
	}
}

// The hook runs for UDP as for TCP: what became forbidden between the decision
// and the connection is not reached, and a TCP listener of the port does not
// count.
func TestRealUDPDialRunsControl(t *testing.T) {
	_, port := packets(t)
	var calls int
	network := "udp"
	p := mustNew(t, Config{
		Targets: []NamedTarget{{Name: "a", Addresses: []string{fmt.Sprintf("udp/127.0.0.1:%d", port)}}},
		Forbidden: func() []Listener {
			if calls++; calls%2 == 1 { // the check before the dial
				return nil
			}
			return Listeners(network, "127.0.0.1", port, "the socket")
		},
	})
	var d Dialer
	if _, _, err := d.Dial(within(t, 5*time.Second), p, Subject{}, flow("a")); tunnel.CodeOf(err) != framecodec.CodeNotAllowed || calls != 2 {
		t.Fatalf("%v after %d checks", err, calls)
	}
	network = "tcp"
	c, _, err := d.Dial(within(t, 5*time.Second), p, Subject{}, flow("a"))
	if err != nil {
		t.Fatal(err)
	}
	_ = c.Close()
}

// The reason tells an operator which kind was asked for; the client reads only
// that there is no such target.
func TestWrongKindOfName(t *testing.T) {
	p := office(t)
	for _, tt := range []struct {
		target tunnel.Target
		want   string
	}{
		{flow("ssh"), `the target "ssh" is a stream target, and the peer asks for a datagram`},
		{named("dns"), `the target "dns" is a datagram target, and the peer asks for a stream`},
		{flow(""), "default_target is for streams only"},
		{tunnel.Target{Kind: 9}, "knows no targets of kind 9"},
	} {
		d := p.Decide(Subject{}, tt.target)
		if d.Code != framecodec.CodeUnknownTarget || !strings.Contains(d.Reason, tt.want) {
			t.Errorf("%+v: %v, %q", tt.target, d.Code, d.Reason)
		}
		var known *tunnel.Error
		if err := d.Err(); !errors.As(err, &known) || known.Text != "no such target" {
			t.Errorf("%+v: the client reads %v", tt.target, err)
		}
	}
}

// Broadcast needs the operator's own spelling of the address: in a CIDR it would
// reach hosts that a deny rule names.
func TestSpelledOut(t *testing.T) {
	alice := Subject{Identity: "alice"}
	p := mustNew(t, Config{
		Targets: []NamedTarget{{Name: "wake", Addresses: []string{"udp/10.0.0.255:9", "udp/lan.example:9"}}},
		Dynamic: &Dynamic{Rules: []Rule{
			{Text: "udp/10.0.0.0/24:1-65535"},
			{Text: "udp/10.0.1.255:9", Users: []string{"alice"}},
			{Text: "tcp/10.0.0.255:9"},
			{Text: "udp/*.example:9 private"},
			{Text: "10.0.0.13", Deny: true},
			{Text: "10.0.0.254", Deny: true},
		}},
	})
	at := func(s string) Address {
		a := netip.MustParseAddrPort(s)
		return Address{Addr: a.Addr(), Port: a.Port(), UDP: true}
	}
	for _, tt := range []struct {
		subject Subject
		target  tunnel.Target
		step    int
		at      Address
		want    bool
	}{
		{Subject{}, flow("wake"), 0, at("10.0.0.255:9"), true},
		{Subject{}, flow("wake"), 1, at("10.0.0.255:9"), false},
		{Subject{}, udp("10.0.0.255", 9), 0, at("10.0.0.255:9"), false},
		{Subject{}, udp("10.0.0.254", 9), 0, at("10.0.0.254:9"), false},
		{alice, udp("10.0.1.255", 9), 0, at("10.0.1.255:9"), true},
		{Subject{}, udp("10.0.1.255", 9), 0, at("10.0.1.255:9"), false},
		{alice, udp("a.example", 9), 0, at("10.0.1.255:9"), true},
		{alice, udp("a.example", 9), 0, at("10.0.0.255:9"), false},
	} {
		steps, _ := p.plan(tt.subject, tt.target)
		if got := p.spelledOut(tt.subject, tt.target.Kind, steps[tt.step].grant, tt.at); got != tt.want {
			t.Errorf("%+v %v at %v: %v", tt.subject, tt.target, tt.at, got)
		}
	}
}
