package policy

import (
	"context"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/culvertgate/culvert/framecodec"
	"github.com/culvertgate/culvert/tunnel"
)

// dnsServer answers A questions from a table and notes the names it was asked
// for; a nil table never answers.
type dnsServer struct {
	conn    net.PacketConn
	answers map[string][4]byte
	done    chan struct{}
	mu      sync.Mutex
	asked   []string
}

func startDNS(t *testing.T, answers map[string][4]byte) *dnsServer {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &dnsServer{conn: conn, answers: answers, done: make(chan struct{})}
	go s.serve()
	t.Cleanup(func() {
		_ = conn.Close()
		<-s.done
	})
	return s
}

func (s *dnsServer) serve() {
	defer close(s.done)
	buf := make([]byte, 1500)
	for {
		n, from, err := s.conn.ReadFrom(buf)
		if err != nil {
			return
		}
		var m dnsmessage.Message
		if m.Unpack(buf[:n]) != nil || len(m.Questions) != 1 {
			continue
		}
		q := m.Questions[0]
		s.mu.Lock()
		s.asked = append(s.asked, q.Name.String())
		s.mu.Unlock()
		if s.answers == nil {
			continue
		}
		reply := dnsmessage.Message{Header: dnsmessage.Header{ID: m.ID, Response: true, RecursionAvailable: true}, Questions: m.Questions}
		a, known := s.answers[q.Name.String()]
		switch {
		case !known:
			reply.RCode = dnsmessage.RCodeNameError
		case q.Type == dnsmessage.TypeA:
			reply.Answers = []dnsmessage.Resource{{
				Header: dnsmessage.ResourceHeader{Name: q.Name, Type: q.Type, Class: q.Class, TTL: 1},
				Body:   &dnsmessage.AResource{A: a},
			}}
		}
		out, err := reply.Pack()
		if err == nil {
			_, _ = s.conn.WriteTo(out, from)
		}
	}
}

func (s *dnsServer) names() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.asked)
}

func withServer(t *testing.T, s *dnsServer) *Policy {
	return mustNew(t, Config{Dynamic: &Dynamic{
		Rules:    []Rule{{Text: "tcp/*.test.example:443"}, {Text: "tcp/10.0.0.0/8:22"}},
		Resolver: s.conn.LocalAddr().String(),
	}})
}

// The configured server is asked, and for the name as it was checked: no search
// list makes another one of it.
func TestConfiguredResolver(t *testing.T) {
	s := startDNS(t, map[string][4]byte{"a.test.example.": {8, 8, 8, 8}})
	p := withServer(t, s)
	e := p.Explain(within(t, 5*time.Second), Subject{}, tcp("a.test.example", 443), nil)
	if !e.Allowed || len(e.Addresses) != 1 || e.Addresses[0].Address != "8.8.8.8:443" {
		t.Errorf("%+v", e)
	}
	e = p.Explain(within(t, 5*time.Second), Subject{}, tcp("b.test.example", 443), nil)
	if e.Code != framecodec.CodeResolveFailed {
		t.Errorf("%+v", e)
	}
	for _, name := range s.names() {
		if name != "a.test.example." && name != "b.test.example." {
			t.Errorf("asked for %s", name)
		}
	}
}

// A server that never answers costs the time that there is, and no more.
func TestSilentResolver(t *testing.T) {
	s := startDNS(t, nil)
	p := withServer(t, s)
	var d Dialer
	for target, want := range map[tunnel.Target]tunnel.Code{
		tcp("a.test.example", 443): framecodec.CodeTimeout,
		tcp("other.example", 22):   framecodec.CodeNotAllowed, // no name rule
	} {
		start := time.Now()
		_, _, err := d.Dial(within(t, 300*time.Millisecond), p, Subject{}, target)
		if took := time.Since(start); tunnel.CodeOf(err) != want || took > 2*time.Second {
			t.Errorf("%v: %v after %v", target, err, took)
		}
	}
	if len(s.names()) == 0 {
		t.Error("the server was not asked")
	}
}

func TestParseServer(t *testing.T) {
	for in, want := range map[string]string{
		"10.0.0.53": "10.0.0.53:53", "10.0.0.53:5353": "10.0.0.53:5353",
		"2001:db8::53": "[2001:db8::53]:53", "[2001:db8::53]": "[2001:db8::53]:53", "[2001:db8::53]:5353": "[2001:db8::53]:5353",
	} {
		if got, err := parseServer(in); err != nil || got != want {
			t.Errorf("%s: %s, %v", in, got, err)
		}
	}
}

// What a resolver returns is brought into one form before it is judged.
func TestLookupNormalises(t *testing.T) {
	z := zone{"a": {"::ffff:10.0.0.7", "10.0.0.7", "::10.0.0.7", "fe80::1%eth0", "8.8.8.8"}}
	got, err := lookup(t.Context(), z, "a")
	var text []string
	for _, a := range got {
		text = append(text, a.String())
	}
	if err != nil || strings.Join(text, " ") != "10.0.0.7 fe80::1 8.8.8.8" {
		t.Errorf("%v, %v", text, err)
	}
}

func TestSystemResolver(t *testing.T) {
	p := mustNew(t, Config{})
	list, err := p.resolver.LookupNetIP(within(t, 5*time.Second), "ip", "localhost")
	if err != nil || !slices.ContainsFunc(list, netip.Addr.IsLoopback) {
		t.Errorf("localhost: %v, %v", list, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := lookup(ctx, p.resolver, "a.example"); tunnel.CodeOf(err) != framecodec.CodeCancelled {
		t.Errorf("cancelled: %v", err)
	}
}
