package badinput

import (
	"net"
	"net/netip"
	"sync"
	"testing"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/culvertgate/culvert/internal/testkit"
)

// dnsServer is the endpoint's resolver. What a name leads to may change with
// each look-up.
type dnsServer struct {
	conn  net.PacketConn
	done  chan struct{}
	names map[string][][]string // addresses of the first look-up, the second, ..., the last for all behind it

	mu    sync.Mutex
	asked map[dnsmessage.Question]int // guarded by mu
}

// startDNS serves names in a network; private is a machine beside the gateway.
func startDNS(t *testing.T, n *testkit.Namespace, private netip.Addr) *dnsServer {
	t.Helper()
	conn, err := n.ListenPacket("udp", dnsAddress)
	check(t, err)
	s := &dnsServer{conn: conn, done: make(chan struct{}), asked: map[dnsmessage.Question]int{}, names: map[string][][]string{
		"echo.example.":        {{"127.0.0.1"}},
		"loopback.example.":    {{"127.0.0.1"}},
		"private.example.":     {{private.String()}},
		"private.invalid.":     {{private.String()}},
		"mapped.example.":      {{"::ffff:127.0.0.1"}},
		"nat64.example.":       {{"64:ff9b::7f00:1"}},
		"two.example.":         {{"127.0.0.1", "127.0.0.13"}},
		"change.example.":      {{"127.0.0.1"}, {"127.0.0.13"}},
		"change-back.example.": {{"127.0.0.13"}, {"127.0.0.1"}},
	}}
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
		reply := dnsmessage.Message{Header: dnsmessage.Header{ID: m.ID, Response: true, RecursionAvailable: true}, Questions: m.Questions}
		reply.Answers, reply.RCode = s.answer(m.Questions[0])
		if out, err := reply.Pack(); err == nil {
			_, _ = s.conn.WriteTo(out, from)
		}
	}
}

func (s *dnsServer) answer(q dnsmessage.Question) ([]dnsmessage.Resource, dnsmessage.RCode) {
	s.mu.Lock()
	n := s.asked[q]
	s.asked[q]++
	s.mu.Unlock()
	lists, known := s.names[q.Name.String()]
	if !known {
		return nil, dnsmessage.RCodeNameError
	}
	var found []dnsmessage.Resource
	for _, text := range lists[min(n, len(lists)-1)] {
		a := netip.MustParseAddr(text)
		r := dnsmessage.Resource{Header: dnsmessage.ResourceHeader{Name: q.Name, Type: q.Type, Class: q.Class}}
		switch {
		case q.Type == dnsmessage.TypeA && a.Is4():
			r.Body = &dnsmessage.AResource{A: a.As4()}
		case q.Type == dnsmessage.TypeAAAA && !a.Is4():
			r.Body = &dnsmessage.AAAAResource{AAAA: a.As16()}
		default:
			continue
		}
		found = append(found, r)
	}
	return found, dnsmessage.RCodeSuccess
}

// forget starts all names anew and returns how often the busiest question was
// asked since.
func (s *dnsServer) forget() (most int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, n := range s.asked {
		most = max(most, n)
	}
	clear(s.asked)
	return most
}
