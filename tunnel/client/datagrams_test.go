package client

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/culvertgate/culvert/framecodec"
	"github.com/culvertgate/culvert/internal/testkit/gatewaykit"
	"github.com/culvertgate/culvert/tunnel"
)

// ask sends a datagram until it has come back: one that is sent before the
// channel is open may have been lost.
func ask(t *testing.T, conn net.Conn, data []byte) {
	t.Helper()
	buf := make([]byte, tunnel.MaxDatagram)
	for range 20 {
		if _, err := conn.Write(data); err != nil {
			t.Fatal(err)
		}
		_ = conn.SetReadDeadline(time.Now().Add(time.Second))
		n, err := conn.Read(buf)
		switch {
		case err == nil && bytes.Equal(buf[:n], data):
			return
		case err != nil && !errors.Is(err, os.ErrDeadlineExceeded):
			t.Fatal(err)
		}
	}
	t.Fatalf("%d bytes did not come back", len(data))
}

func withDialect(c Config, d tunnel.Dialect) Config {
	c.Dialect = d
	return c
}

func TestOpenDatagrams(t *testing.T) {
	t.Parallel()
	g := gatewaykit.New(t)
	tun := dialTest(t, configFor(g))
	if tun.Session().HasDatagrams() {
		t.Error("the channel for datagrams is open before anybody needs it")
	}
	named, err := tun.OpenDatagrams(withTimeout(t), "datagrams")
	if err != nil {
		t.Fatal(err)
	}
	dialled, err := tun.DialContext(withTimeout(t), "udp", "echo.example:7")
	if err != nil {
		t.Fatal(err)
	}
	for _, conn := range []net.Conn{named, dialled} {
		for _, size := range []int{0, 1, 1200, 9000, tunnel.MaxDatagram} {
			data := make([]byte, size)
			_, _ = rand.Read(data)
			ask(t, conn, data)
		}
	}
	_ = named.Close()
	_ = dialled.Close()
	for deadline := time.Now().Add(patience); tun.Session().Stats().Streams > 0; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the flows stay")
		}
	}
	// A stream goes on beside them, and the same channel serves the next flow.
	conn, err := tun.Open(withTimeout(t), "echo")
	if err != nil {
		t.Fatal(err)
	}
	exchange(t, conn, 1<<20)
}

// Many flows at once ask for one channel.
func TestOpenDatagramsAtOnce(t *testing.T) {
	t.Parallel()
	g := gatewaykit.New(t)
	tun := dialTest(t, configFor(g))
	var wg sync.WaitGroup
	for i := range 32 {
		wg.Go(func() {
			conn, err := tun.OpenDatagrams(withTimeout(t), "udp/echo.example:7")
			if err != nil {
				t.Error(err)
				return
			}
			defer func() { _ = conn.Close() }()
			ask(t, conn, fmt.Append(nil, i))
		})
	}
	wg.Wait()
	if n := tun.Session().Stats(); n.DatagramsIn < 32 {
		t.Errorf("%+v", n)
	}
}

func TestOpenDatagramsRefused(t *testing.T) {
	t.Parallel()
	g := gatewaykit.New(t)
	tun := dialTest(t, configFor(g))
	for target, code := range map[string]tunnel.Code{
		"tcp/echo.example:7": framecodec.CodeUnknownTarget,
		"no-such":            framecodec.CodeUnknownTarget,
		"UPPER":              framecodec.CodeUnknownTarget,
	} {
		if _, err := tun.OpenDatagrams(withTimeout(t), target); tunnel.CodeOf(err) != code {
			t.Errorf("%s: %v", target, err)
		}
	}
	old := dialTest(t, withDialect(configFor(g), tunnel.Dialect1))
	if _, err := old.OpenDatagrams(withTimeout(t), "datagrams"); tunnel.CodeOf(err) != framecodec.CodeNotAllowed {
		t.Errorf("dialect 1: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := tun.OpenDatagrams(ctx, "silent"); tunnel.CodeOf(err) != framecodec.CodeCancelled {
		t.Errorf("cancelled: %v", err)
	}
	if err := tun.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := tun.OpenDatagrams(withTimeout(t), "datagrams"); tunnel.CodeOf(err) != framecodec.CodeTunnelClosed {
		t.Errorf("closed: %v", err)
	}
}

// A Remote opens flows in the tunnel that is up, or the next one.
func TestRemoteOpenDatagrams(t *testing.T) {
	t.Parallel()
	g := gatewaykit.New(t)
	r := NewRemote(configFor(g))
	t.Cleanup(r.Close)
	for range 2 {
		conn, err := r.OpenDatagrams(withTimeout(t), "datagrams")
		if err != nil {
			t.Fatal(err)
		}
		ask(t, conn, []byte("hello"))
		g.Sessions()[0].Close(framecodec.CodeTunnelClosed, "")
		for buf := make([]byte, 8); err == nil; {
			_ = conn.SetReadDeadline(time.Now().Add(patience))
			_, err = conn.Read(buf)
		}
		if tunnel.CodeOf(err) != framecodec.CodeTunnelClosed {
			t.Errorf("the flow ended with %v", err)
		}
	}
	if _, err := r.OpenDatagrams(withTimeout(t), "tcp/echo.example:7"); tunnel.CodeOf(err) != framecodec.CodeUnknownTarget {
		t.Errorf("tcp: %v", err)
	}
}
