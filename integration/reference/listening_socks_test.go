package reference

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"testing"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/culvertgate/culvert/internal/testkit"
)

// What the names and addresses of the SOCKS tests lead to. The first address is
// served but is none of the machine's own, as far as a gateway can know.
const (
	inside    = "10.66.0.1"
	blackHole = "10.67.0.1"
	noRoute   = "10.68.0.1"
)

// socksEndpoint lets the wheel's clients name some targets.
const socksEndpoint = `
		dynamic {
			allow tcp/127.0.0.1:9000-9001
			allow tcp/*.example:80 private
			allow tcp/10.67.0.0/24:80
			allow tcp/10.68.0.0/24:80
			resolver 127.0.0.1:53
		}
`

func startSOCKS(t testing.TB) *listening {
	t.Helper()
	l := startListening(t, plan{endpoint: socksEndpoint, socks: true})
	serveNames(t, l.net, map[string]string{"web.example.": inside})
	for _, route := range []string{"local " + inside + "/32 dev lo", "unreachable " + noRoute + "/32"} {
		if out, err := l.net.Command("sh", "-c", "ip route add "+route).CombinedOutput(); err != nil {
			t.Fatalf("ip route add %s: %v %s", route, err, out)
		}
	}
	must[*testkit.Rule](t)(l.net.BlackHole(netip.MustParsePrefix(blackHole + "/32")))
	return l
}

func TestListeningWheelSOCKS5(t *testing.T) {
	l := startSOCKS(t)
	serveEcho(t, l.net, targetPort)
	serveAt(t, l.net, inside+":80", say("by name"))
	t.Run("by address", func(t *testing.T) {
		c := dial(t, l.net, l.tube.ListenAddr)
		check(t, askSOCKS(c, "127.0.0.1", targetPort), echoes(c, 1, 300_000))
	})
	t.Run("by name", func(t *testing.T) {
		c := dial(t, l.net, l.tube.ListenAddr)
		check(t, askSOCKS(c, "web.example", 80))
		if word, err := io.ReadAll(c); err != nil || string(word) != "by name" {
			t.Errorf("%q, %v", word, err)
		}
	})
	becomes(t, "results", opened, l.gateway, counts{"ok": 2})
}

// The reference tells its SOCKS clients nothing: their connections just end. Its
// log shows that it was told why.
func TestListeningWheelIsToldWhySOCKS5WasRefused(t *testing.T) {
	l := startSOCKS(t)
	want, wantTold := counts{}, map[string]string{}
	for i, r := range []struct {
		host   string
		port   int
		result string
		told   string
	}{
		{"127.0.0.1", targetPort + 1, "refused", "ServerRefuse: the target refused the connection"},
		{"127.0.0.1", targetPort + 2, "not_allowed", "ServerRefuse: not allowed"},
		{blackHole, 80, "timeout", "Timeout: the target did not answer in time"},
		{noRoute, 80, "unreachable", "ConnectionFailed: the target cannot be reached"},
		{"nowhere.example", 80, "resolve_failed", "AddressResolutionFailed: the name cannot be resolved"},
	} {
		t.Run(fmt.Sprintf("%s:%d", r.host, r.port), func(t *testing.T) {
			c := dial(t, l.net, l.tube.ListenAddr)
			if err := askSOCKS(c, r.host, r.port); err != io.EOF { //nolint:errorlint // io.ReadFull's own
				t.Errorf("%v, want the end", err)
			}
			want[r.result]++
			becomes(t, "results", opened, l.gateway, want)
			wantTold[fmt.Sprint(i+1)] = r.told
			l.isTold(t, wantTold)
		})
	}
	onlyTunnel(t, l.gateway)
}

// socksError is a refusal by its reply (RFC 1928 section 6).
type socksError byte

func (e socksError) Error() string { return fmt.Sprintf("SOCKS reply %d", byte(e)) }

// askSOCKS asks the server behind c for a host (a name, or an IPv4 literal,
// which goes as an address) and port. The error is a socksError for a refusal,
// and io.EOF when the server ends the connection without a reply.
func askSOCKS(c *net.TCPConn, host string, port int) error {
	if _, err := c.Write([]byte{5, 1, 0}); err != nil {
		return err
	}
	var reply [10]byte
	if _, err := io.ReadFull(c, reply[:2]); err != nil || reply[0] != 5 || reply[1] != 0 {
		return fmt.Errorf("method: % x, %w", reply[:2], err)
	}
	request := []byte{5, 1, 0}
	if a, err := netip.ParseAddr(host); err == nil {
		request = append(append(request, 1), a.AsSlice()...)
	} else {
		request = append(append(request, 3, byte(len(host))), host...)
	}
	if _, err := c.Write(append(request, byte(port>>8), byte(port))); err != nil {
		return err
	}
	if _, err := io.ReadFull(c, reply[:]); err != nil {
		return err
	}
	if reply[1] != 0 {
		return socksError(reply[1])
	}
	return nil
}

// serveNames is a DNS server for a few names with an IPv4 address each.
func serveNames(t testing.TB, n *testkit.Namespace, addresses map[string]string) {
	t.Helper()
	socket := must[net.PacketConn](t)(n.ListenPacket("udp", loopback(53)))
	done := make(chan struct{})
	go func() {
		defer close(done)
		query := make([]byte, 512)
		for {
			size, from, err := socket.ReadFrom(query)
			if err != nil {
				return // closed below
			}
			if reply, err := answer(query[:size], addresses); err == nil {
				_, _ = socket.WriteTo(reply, from) // else it asks again
			}
		}
	}()
	t.Cleanup(func() {
		check(t, socket.Close())
		<-done
	})
}

func answer(query []byte, addresses map[string]string) ([]byte, error) {
	var m dnsmessage.Message
	if err := m.Unpack(query); err != nil {
		return nil, err
	}
	reply := dnsmessage.Message{
		Header:    dnsmessage.Header{ID: m.ID, Response: true, RecursionAvailable: true, RCode: dnsmessage.RCodeNameError},
		Questions: m.Questions,
	}
	for _, q := range m.Questions {
		address, known := addresses[q.Name.String()]
		if !known {
			continue
		}
		reply.RCode = dnsmessage.RCodeSuccess
		if q.Type == dnsmessage.TypeA {
			reply.Answers = append(reply.Answers, dnsmessage.Resource{
				Header: dnsmessage.ResourceHeader{Name: q.Name, Type: q.Type, Class: q.Class, TTL: 1},
				Body:   &dnsmessage.AResource{A: netip.MustParseAddr(address).As4()},
			})
		}
	}
	return reply.Pack()
}
