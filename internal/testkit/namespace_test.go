package testkit

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func must[T any](t *testing.T) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// echoOnce serves one connection and gives back what it reads.
func echoOnce(l net.Listener) {
	c, err := l.Accept()
	if err != nil {
		return
	}
	defer c.Close()
	_, _ = io.Copy(c, c)
}

func TestNamespaceIsANetworkOfItsOwn(t *testing.T) {
	n := NewNamespace(t)
	l := must[net.Listener](t)(n.Listen("tcp", n.Addr().String()+":0"))
	defer l.Close()
	go echoOnce(l)

	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	c := must[net.Conn](t)(n.DialContext(ctx, "tcp", l.Addr().String()))
	defer c.Close()
	want := PayloadBytes(1, 1000)
	if _, err := c.Write(want); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len(want))
	if _, err := io.ReadFull(c, got); err != nil || string(got) != string(want) {
		t.Fatalf("echo inside: %v, equal %v", err, string(got) == string(want))
	}

	out := must[[]byte](t)(n.Command("ip", "-o", "addr").Output())
	if !strings.Contains(string(out), n.Addr().String()+"/24") || strings.Contains(string(out), "fe80") {
		t.Errorf("addresses inside:\n%s", out)
	}
	before := must[string](t)(os.Readlink("/proc/thread-self/ns/net"))
	inside := ""
	if err := n.Do(func() (err error) { inside, err = os.Readlink("/proc/thread-self/ns/net"); return err }); err != nil {
		t.Fatal(err)
	}
	after := must[string](t)(os.Readlink("/proc/thread-self/ns/net"))
	if inside == before || after != before {
		t.Errorf("network before %s, inside %s, after %s", before, inside, after)
	}
}

func TestNamespacesReachEachOtherOnlyWhenConnected(t *testing.T) {
	a, b := NewNamespace(t), NewNamespace(t)
	here, there, err := a.Connect(b)
	if err != nil {
		t.Fatal(err)
	}
	l := must[net.Listener](t)(b.Listen("tcp", there.String()+":0"))
	defer l.Close()
	go echoOnce(l)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	c := must[net.Conn](t)(a.DialContext(ctx, "tcp", l.Addr().String()))
	defer c.Close()
	if got := c.LocalAddr().(*net.TCPAddr).AddrPort().Addr(); got != here {
		t.Errorf("dialled from %s, want %s", got, here)
	}
	if c, err := a.DialContext(ctx, "tcp", b.Addr().String()+":1"); err == nil {
		c.Close()
		t.Error("reached an address that the cable does not lead to")
	}
}

func TestBlackHoleSwallowsConnections(t *testing.T) {
	n := NewNamespace(t)
	rule, err := n.BlackHole(netip.MustParsePrefix("10.66.0.0/24"))
	if err != nil {
		t.Fatal(err)
	}
	dial := func(timeout time.Duration) error {
		ctx, cancel := context.WithTimeout(t.Context(), timeout)
		defer cancel()
		c, err := n.DialContext(ctx, "tcp", "10.66.0.37:80")
		if err == nil {
			c.Close()
		}
		return err
	}
	if err := dial(300 * time.Millisecond); !errors.Is(err, os.ErrDeadlineExceeded) && !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("dialling a black hole: %v, want a time-out", err)
	}
	if err := rule.Remove(); err != nil {
		t.Fatal(err)
	}
	if err := dial(10 * time.Second); err == nil || !strings.Contains(err.Error(), "refused") {
		t.Errorf("dialling after the rule is gone: %v, want refused", err)
	}
}

func TestBlockUDPDropsSilentlyBothWays(t *testing.T) {
	n := NewNamespace(t)
	server := must[net.PacketConn](t)(n.ListenPacket("udp", n.Addr().String()+":0"))
	defer server.Close()
	client := must[net.PacketConn](t)(n.ListenPacket("udp", n.Addr().String()+":0"))
	defer client.Close()
	arrives := func(from, to net.PacketConn, wait time.Duration) error {
		if _, err := from.WriteTo([]byte("x"), to.LocalAddr()); err != nil {
			t.Fatalf("the sender must not notice: %v", err)
		}
		if err := to.SetReadDeadline(time.Now().Add(wait)); err != nil {
			t.Fatal(err)
		}
		_, _, err := to.ReadFrom(make([]byte, 8))
		return err
	}
	pairs := [][2]net.PacketConn{{client, server}, {server, client}}
	rule, err := n.BlockUDP(server.LocalAddr().(*net.UDPAddr).AddrPort().Port())
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range pairs {
		if err := arrives(p[0], p[1], 50*time.Millisecond); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%v to %v while blocked: %v", p[0].LocalAddr(), p[1].LocalAddr(), err)
		}
	}
	if err := errors.Join(rule.Remove(), rule.Remove()); err != nil {
		t.Fatal(err)
	}
	for _, p := range pairs {
		if err := arrives(p[0], p[1], 10*time.Second); err != nil {
			t.Errorf("%v to %v after the block: %v", p[0].LocalAddr(), p[1].LocalAddr(), err)
		}
	}
}
