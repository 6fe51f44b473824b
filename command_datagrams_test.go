package culvert

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/culvertgate/culvert/framecodec"
	"github.com/culvertgate/culvert/internal/testkit"
	"github.com/culvertgate/culvert/tunnel"
)

// udpClient is a program that sends to a forward.
func udpClient(t *testing.T, address string) net.Conn {
	t.Helper()
	c, err := net.Dial("udp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// TestCommandDatagrams: a forward of datagrams gives each local client a flow of
// its own to a named target or an address, which ends when nothing is said for a
// while; the next datagram opens another. Ctrl-C waits for none.
func TestCommandDatagrams(t *testing.T) {
	g := commandGateway(t)
	c := start(t, nil, "connect", "--url", g.URL(), "--token-file", secretFile(t, "alice"), "--udp-idle", "1s",
		"--target", "datagrams", "--listen", "udp/0", "--forward", "udp/[::1]:0=udp/echo.example:7", "--forward", "0=echo")
	named := c.says(t, `listening on udp/(127\.0\.0\.1:\d+) for datagrams`)
	address := c.says(t, `listening on udp/(\[::1\]:\d+) for udp/echo.example:7`)
	c.says(t, `connected to`)
	flows := func(want int) {
		t.Helper()
		testkit.Eventually(t, commandPatience, func() error {
			if got := g.Sessions()[0].Tunnel().Stats().Streams; got != want {
				return fmt.Errorf("the gateway has %d flows, want %d", got, want)
			}
			return nil
		})
	}
	a, b, v6 := udpClient(t, named), udpClient(t, named), udpClient(t, address)
	for i, text := range []string{"one", "two", strings.Repeat("x", 8000)} {
		for name, client := range map[string]net.Conn{"a": a, "b": b, "v6": v6} {
			if err := testkit.Echoes(client, name+text); err != nil {
				t.Fatalf("%s, %d: %v", name, i, err)
			}
		}
	}
	flows(3)
	flows(0)
	if err := testkit.Echoes(a, "again"); err != nil {
		t.Errorf("after the flow's end: %v", err)
	}
	began := time.Now()
	c.cancel()
	if err := c.wait(t); err != nil || time.Since(began) > drainTime/2 {
		t.Errorf("it ended after %v with %v", time.Since(began), err)
	}
	if text := c.err.String(); strings.Contains(text, "no flow") || strings.Contains(text, "warning") {
		t.Errorf("it said %q", text)
	}
	if l, err := net.ListenPacket("udp", named); err != nil {
		t.Errorf("the socket is left: %v", err)
	} else {
		_ = l.Close()
	}
}

// TestCommandDatagramsRefused: a target that the gateway does not open is said, a
// few times, and not with each datagram; others go on.
func TestCommandDatagramsRefused(t *testing.T) {
	g := commandGateway(t)
	c := start(t, nil, "connect", "--once", "--url", g.URL(), "--token-file", secretFile(t, "alice"),
		"--forward", "udp/0=udp/other.example:7", "--forward", "udp/0.0.0.0:0=datagrams")
	refused := c.says(t, `listening on udp/(127\.0\.0\.1:\d+) for udp/other.example:7`)
	open := c.says(t, `listening on udp/(\S+:\d+) for datagrams`)
	c.says(t, `warning: udp/\S+ can be reached from other machines`)
	c.says(t, `connected to`)
	client := udpClient(t, refused)
	for range 100 {
		_, _ = client.Write([]byte("anybody?"))
	}
	c.says(t, `udp/`+client.LocalAddr().String()+`: no flow to udp/other.example:7: unknown_target: no such target`)
	for range 20 {
		_, _ = udpClient(t, refused).Write([]byte("anybody?"))
	}
	_, port, _ := net.SplitHostPort(open)
	if err := testkit.Echoes(udpClient(t, "127.0.0.1:"+port), "I am"); err != nil {
		t.Error(err)
	}
	if n := strings.Count(c.err.String(), "no flow to"); n > 4 {
		t.Errorf("said %d times:\n%s", n, c.err.String())
	}
	c.cancel()
	if err := c.wait(t); err != nil {
		t.Error(err)
	}
}

// TestCommandDatagramFlags: what does not fit together is said before anything is
// connected.
func TestCommandDatagramFlags(t *testing.T) {
	taken, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	ticket := secretFile(t, "https://127.0.0.1:1/tunnel#ticket=t")
	for name, test := range map[string]struct{ args, want string }{
		"a stream target":        {"connect --forward udp/5353=tcp/10.0.0.7:53", "tcp/10.0.0.7:53 takes no datagrams"},
		"a datagram target":      {"connect --forward 5353=udp/10.0.0.7:53", "write the local address as udp/127.0.0.1:PORT"},
		"one to listen for":      {"connect --target udp/10.0.0.7:53 --listen 5353", "write the local address as udp/"},
		"a path":                 {"connect --forward udp/unix//run/x=dns", "is no address"},
		"no port":                {"connect --forward udp/127.0.0.1=dns", "is no address"},
		"a port too high":        {"connect --forward udp/70000=dns", "is no address"},
		"standard input":         {"connect --target udp/10.0.0.7:53 --stdio", "needs a stream"},
		"doctor":                 {"doctor --target udp/10.0.0.7:53", "needs a stream"},
		"socks":                  {"socks --listen udp/1080", "SOCKS5 is served over TCP"},
		"dialect 1":              {"connect --dialect 1 --forward udp/5353=dns", "dialect 1 carries no datagrams"},
		"a ticket by itself":     {"connect --listen udp/5353 --ticket-file " + ticket, "datagrams need a target"},
		"an idle time of no use": {"connect --forward udp/5353=dns --udp-idle 1ms", "give at least 1s"},
		"a port in use":          {"connect --forward udp/" + taken.LocalAddr().String() + "=dns", "listening on udp/" + taken.LocalAddr().String()},
	} {
		t.Run(name, func(t *testing.T) {
			args := strings.Fields(test.args)
			if !strings.Contains(test.args, "--ticket-file") {
				args = append(args, "--url", "https://127.0.0.1:1/tunnel")
			}
			c := start(t, nil, args...)
			if err := c.wait(t); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("%v, want %q", err, test.want)
			}
		})
	}
}

// TestFlowTable: it takes as many flows as it may have and no more, asks again for
// one that was refused only after a while, and is empty when it is closed.
func TestFlowTable(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	var opened, failed atomic.Int32
	answers := make(chan string, 10)
	table := flowTable[string]{
		room: make(flowRoom, 3),
		open: func(ctx context.Context, target tunnel.Target, ep tunnel.Endpoint) error {
			opened.Add(1)
			switch target.Host {
			case "refused":
				ep.Close(framecodec.CodeNotAllowed)
				return &tunnel.Error{Code: framecodec.CodeNotAllowed}
			case "slow":
				<-ctx.Done()
				ep.Close(framecodec.CodeCancelled)
				return ctx.Err()
			}
			_, err := ep.TryWrite([]byte("hello"))
			return err
		},
		failed: func(string, tunnel.Target, error) { failed.Add(1) },
		guard:  func(f func()) { f() },
	}
	table.init()
	add := func(key, host string) *tunnel.DatagramConn {
		return table.add(key, tunnel.Target{Kind: tunnel.KindUDP, Host: host, Port: 1}, func(p []byte) { answers <- key + " " + string(p) })
	}
	a := add("a", "open")
	if again := add("a", "open"); a == nil || again != a || table.find("a") != a {
		t.Errorf("a key has %p, %p and %p", a, again, table.find("a"))
	}
	if got := <-answers; got != "a hello" {
		t.Errorf("answer %q", got)
	}
	if add("r", "refused") == nil || add("s", "slow") == nil {
		t.Error("there is no room below the limit")
	}
	if add("x", "open") != nil || table.find("x") != nil {
		t.Error("there is room beyond the limit")
	}
	testkit.Eventually(t, commandPatience, func() error {
		if failed.Load() == 0 {
			return errors.New("no flow was refused")
		}
		return nil
	})
	if r := table.find("r"); r == nil {
		t.Error("a refused flow is forgotten at once: the next datagram asks again")
	} else if _, err := r.Write([]byte("x")); tunnel.CodeOf(err) != framecodec.CodeNotAllowed {
		t.Errorf("writing to it: %v", err)
	}
	testkit.Eventually(t, commandPatience, func() error {
		if table.find("r") != nil {
			return errors.New("it is kept")
		}
		return nil
	})
	_ = a.Close() // a flow's end makes room too
	testkit.Eventually(t, commandPatience, func() error {
		if add("x", "open") == nil {
			return errors.New("there is no room")
		}
		return nil
	})
	table.close()
	if add("y", "open") != nil || len(table.flows) != 0 || failed.Load() != 1 || opened.Load() != 4 {
		t.Errorf("closed: %d flows, %d opened, %d refused", len(table.flows), opened.Load(), failed.Load())
	}
}

// silentOpener never gets an answer.
type silentOpener struct{}

func (silentOpener) OpenEndpoint(ctx context.Context, _ tunnel.Target, ep tunnel.Endpoint) (*tunnel.Stream, error) {
	<-ctx.Done()
	ep.Close(framecodec.CodeCancelled)
	return nil, ctx.Err()
}

// TestForwardsShareFlows: all forwards of a command have flows for so many clients
// together, which leaves most of a tunnel's streams to connections.
func TestForwardsShareFlows(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	var limits EndpointLimits
	limits.applyDefaults()
	if maxForwarded > limits.StreamsPerTunnel/2 {
		t.Errorf("forwards of datagrams may take %d of %d streams", maxForwarded, limits.StreamsPerTunnel)
	}
	var said bytes.Buffer
	dns := tunnel.Target{Kind: tunnel.KindNamedDatagram, Host: "dns"}
	s, err := newLocalServer(&console{out: &said}, []forward{{"udp", "127.0.0.1:0", dns}, {"udp", "127.0.0.1:0", dns}}, false)
	if err != nil {
		t.Fatal(err)
	}
	s.start(t.Context(), silentOpener{})
	client := func(port int) netip.AddrPort {
		return netip.AddrPortFrom(netip.MustParseAddr("192.0.2.1"), uint16(port))
	}
	for i := range maxForwarded {
		if s.datagrams[i%2].flow(client(i)) == nil {
			t.Fatalf("there is no room for client %d", i)
		}
	}
	for _, d := range s.datagrams {
		if d.flow(client(maxForwarded)) != nil {
			t.Error("there is room for one client more")
		}
		if d.flow(client(0)) == nil && d.flow(client(1)) == nil {
			t.Error("clients that have a flow are turned away")
		}
	}
	s.close()
	if !strings.Contains(said.String(), "1,024 clients of forwards have flows") {
		t.Errorf("it said %q", said.String())
	}
	if len(s.flows) != 0 {
		t.Errorf("%d flows count at the end", len(s.flows))
	}
}
