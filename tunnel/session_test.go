package tunnel_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"io"
	"math/rand/v2"
	"net"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/culvertgate/culvert/tunnel"
)

var someAddr = tunnel.Addr{Net: "webrtc", Text: "test"}

func newConn() (*tunnel.Conn, tunnel.Endpoint) { return tunnel.NewConn(someAddr, someAddr) }

// pair is two sessions on a wire. accepted gets the exit's side of each stream.
type pair struct {
	client, gateway *tunnel.Session
	accepted        chan net.Conn
}

func newPair(t *testing.T, d tunnel.Dialect) *pair {
	t.Helper()
	t.Cleanup(func() { goleak.VerifyNone(t) })
	a, b := newWires()
	p := &pair{accepted: make(chan net.Conn, 1024)}
	p.gateway = tunnel.NewSession(b, tunnel.Config{Dialect: d, Role: tunnel.RoleGateway,
		Accept: func(in *tunnel.Incoming) {
			conn, ep := newConn()
			if in.Attach(ep, "192.0.2.1:80") == nil {
				p.accepted <- conn
			}
		}})
	p.client = tunnel.NewSession(a, tunnel.Config{Dialect: d, Role: tunnel.RoleClient})
	t.Cleanup(func() {
		p.client.Close(0, "")
		p.client.Wait()
		p.gateway.Wait()
	})
	return p
}

func (p *pair) open(t *testing.T) (entry, exit net.Conn) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	conn, ep := newConn()
	if _, err := p.client.Open(ctx, tunnel.Target{Kind: tunnel.KindNamed, Host: "x"}, ep); err != nil {
		t.Fatal("opening:", err)
	}
	return conn, <-p.accepted
}

func randomBytes(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(b)
	return b
}

func TestHalfCloseBothWays(t *testing.T) {
	for _, d := range []tunnel.Dialect{tunnel.Dialect1, tunnel.Dialect2} {
		for _, first := range []string{"entry", "exit"} {
			t.Run(first+string('0'+rune(d)), func(t *testing.T) {
				p := newPair(t, d)
				a, b := p.open(t)
				if first == "exit" {
					a, b = b, a
				}
				data := randomBytes(3 << 20)
				for _, dir := range []struct{ from, to net.Conn }{{a, b}, {b, a}} {
					go func() {
						_, _ = dir.from.Write(data)
						_ = dir.from.(*tunnel.Conn).CloseWrite()
					}()
					got, err := io.ReadAll(dir.to)
					if err != nil || sha256.Sum256(got) != sha256.Sum256(data) {
						t.Fatalf("read %d of %d bytes, err %v", len(got), len(data), err)
					}
				}
				waitFor(t, func() bool { return p.client.Stats().Streams+p.gateway.Stats().Streams == 0 })
			})
		}
	}
}

func TestManyStreamsEcho(t *testing.T) {
	for _, d := range []tunnel.Dialect{tunnel.Dialect1, tunnel.Dialect2} {
		t.Run(string('0'+rune(d)), func(t *testing.T) { testManyStreamsEcho(t, d) })
	}
}

func testManyStreamsEcho(t *testing.T, d tunnel.Dialect) {
	p := newPair(t, d)
	const streams = 24
	data := randomBytes(600_000)
	done := make(chan error, streams)
	for range streams {
		a, b := p.open(t)
		go func() { _, _ = io.Copy(b, b); _ = b.(*tunnel.Conn).CloseWrite() }()
		go func() {
			go func() { _, _ = a.Write(data); _ = a.(*tunnel.Conn).CloseWrite() }()
			got, err := io.ReadAll(a)
			if err == nil && !bytes.Equal(got, data) {
				err = io.ErrUnexpectedEOF
			}
			done <- err
		}()
	}
	for range streams {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

// waitFor polls a condition that other goroutines bring about.
func waitFor(t *testing.T, cond func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !cond(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("condition not met within 10 s")
		}
	}
}

// readAll reads to the end of c and holds it against want.
func readAll(t *testing.T, c net.Conn, want string) {
	t.Helper()
	_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
	if got, err := io.ReadAll(c); err != nil || string(got) != want {
		t.Errorf("read %q, %v; want %q", got, err, want)
	}
}
