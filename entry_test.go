package culvert

import (
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"github.com/mholt/caddy-l4/layer4"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/goleak"
	"go.uber.org/zap"

	"github.com/culvertgate/culvert/framecodec"
	"github.com/culvertgate/culvert/socks5"
	"github.com/culvertgate/culvert/tunnel"
)

// accepted returns the two ends of a TCP connection.
func accepted(t *testing.T) (client, server net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if client, err = net.Dial("tcp", l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if server, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close(); server.Close() })
	return client, server
}

// handled runs Handle on a connection as a layer4 server does.
func handled(e *Entry, conn net.Conn) chan error {
	done := make(chan error, 1)
	go func() {
		err := e.Handle(layer4.WrapConnection(conn, nil, zap.NewNop()), nil)
		_ = conn.Close() // it may be the reactor's by now
		done <- err
	}()
	return done
}

// stillWaits reports that nothing has come for a moment.
func stillWaits(done chan error) bool {
	select {
	case err := <-done:
		done <- err
		return false
	case <-time.After(50 * time.Millisecond):
		return true
	}
}

// TestConnectionBeforeStart: apps start in any order, so layer4 may accept
// before we have started. The connection waits for that.
func TestConnectionBeforeStart(t *testing.T) {
	for _, starts := range []bool{true, false} {
		name := map[bool]string{true: "and we start", false: "and the load fails"}[starts]
		t.Run(name, func(t *testing.T) {
			defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
			h := newHub(listenAddress{"udp", "127.0.0.1:0"})
			env := testEnvironment(t)
			plain := &Entry{Remote: "office", hub: h, env: env, target: tunnel.Target{Kind: tunnel.KindNamed, Host: "ssh"}}
			socks := &Entry{Remote: "office", hub: h, env: env, SOCKS5: new(SOCKS5)}
			client, server := accepted(t)
			socksClient, socksServer := accepted(t)
			first, second := handled(plain, server), handled(socks, socksServer)
			if _, err := socksClient.Write([]byte("\x05\x01\x00\x05\x01\x00\x01\x7f\x00\x00\x01\x00\x50")); err != nil {
				t.Fatal(err)
			}
			if !stillWaits(first) || !stillWaits(second) {
				t.Fatal("a connection was given up before the start")
			}
			if starts {
				if err := h.attach(env); err != nil {
					t.Fatal(err)
				}
			} else {
				close(env.released)
			}
			// There is no such remote here: it is told or reset, but not left hanging.
			for _, done := range []chan error{first, second} {
				select {
				case err := <-done:
					if err != nil {
						t.Error(err)
					}
				case <-time.After(10 * time.Second):
					t.Fatal("the connection still waits")
				}
			}
			if _, err := client.Read(make([]byte, 1)); err == nil || errors.Is(err, io.EOF) {
				t.Errorf("the client read %v, want a reset: an end in order looks like an answer", err)
			}
			reply, err := io.ReadAll(socksClient)
			if len(reply) < 4 || reply[3] == byte(socks5.Succeeded) {
				t.Errorf("the SOCKS client got % x (%v), want a reply that refuses", reply, err)
			}
			client.Close()
			socksClient.Close()
			h.detach(env)
			if err := h.Destruct(); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestShortSOCKSCountsAsTCP: a SOCKS client that is refused before it could ask for
// anything counts as what it would have asked for; README lists no other kind.
func TestShortSOCKSCountsAsTCP(t *testing.T) {
	h := newHub(listenAddress{"udp", "127.0.0.1:0"})
	e := &Entry{Remote: "office", hub: h, SOCKS5: new(SOCKS5)}
	counter := processMetrics.streamsOpened.WithLabelValues(sideClient, "tcp", framecodec.CodeOverloaded.String())
	before := testutil.ToFloat64(counter)
	_, server := accepted(t)
	e.refuseShort(layer4.WrapConnection(server, nil, zap.NewNop()))
	if n := testutil.ToFloat64(counter) - before; n != 1 {
		t.Errorf("%v count as tcp, want 1", n)
	}
}
