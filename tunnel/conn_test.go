package tunnel_test

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/net/nettest"

	"github.com/culvertgate/culvert/framecodec"
	"github.com/culvertgate/culvert/tunnel"
)

// What package net promises of a net.Conn, through two sessions of either
// dialect.
func TestConnAsNetConn(t *testing.T) {
	for _, d := range []tunnel.Dialect{tunnel.Dialect1, tunnel.Dialect2} {
		t.Run(string('0'+rune(d)), func(t *testing.T) {
			t.Cleanup(func() { goleak.VerifyNone(t) })
			nettest.TestConn(t, func() (c1, c2 net.Conn, stop func(), err error) {
				a, b := newWires()
				accepted := make(chan net.Conn, 1)
				// In dialect 1 a session with a reader that is stuck ends no sooner.
				const stuck = 2 * time.Second
				gateway := tunnel.NewSession(b, tunnel.Config{Dialect: d, Role: tunnel.RoleGateway, WriteTimeout: stuck,
					Accept: func(in *tunnel.Incoming) {
						conn, ep := newConn()
						if in.Attach(ep, "") == nil {
							accepted <- conn
						}
					}})
				client := tunnel.NewSession(a, tunnel.Config{Dialect: d, Role: tunnel.RoleClient, WriteTimeout: stuck})
				stop = func() {
					client.Close(0, "")
					client.Wait()
					gateway.Wait()
				}
				conn, ep := newConn()
				if _, err = client.Open(context.Background(), duoTarget, ep); err != nil {
					stop()
					return nil, nil, nil, err
				}
				return conn, <-accepted, stop, nil
			})
		})
	}
}

// The end of a stream is an error with its code, which says what package net's
// users ask for.
func TestConnErrors(t *testing.T) {
	p := newPair(t, tunnel.Dialect2)
	entry, exit := p.open(t)
	for _, st := range p.client.Streams() {
		p.client.Stream(st.ID).Reset(framecodec.CodePolicyChanged, "gone")
	}
	for _, c := range []net.Conn{entry, exit} {
		var b [1]byte
		_, err := c.Read(b[:])
		var e *tunnel.Error
		if !errors.As(err, &e) || e.Code != framecodec.CodePolicyChanged {
			t.Errorf("Read: %v", err)
		}
		waitFor(t, func() bool {
			_, err := c.Write(b[:])
			return errors.As(err, &e) && e.Code == framecodec.CodePolicyChanged
		})
	}
	_ = entry.Close()
	if _, err := entry.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Read of a closed Conn: %v", err)
	}
	if _, err := entry.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Write to a closed Conn: %v", err)
	}

	entry, _ = p.open(t)
	_ = entry.SetReadDeadline(time.Now().Add(-time.Second))
	_, err := entry.Read(make([]byte, 1))
	var timeout net.Error
	if !errors.Is(err, os.ErrDeadlineExceeded) || !errors.As(err, &timeout) || !timeout.Timeout() {
		t.Errorf("Read behind its deadline: %v", err)
	}
	if entry.LocalAddr().Network() != "webrtc" || entry.RemoteAddr().String() != "test" {
		t.Errorf("addresses %v, %v", entry.LocalAddr(), entry.RemoteAddr())
	}
}

// Closed by the reader: the other side learns it and is not left writing.
func TestConnCloseWhilePeerWrites(t *testing.T) {
	for _, d := range []tunnel.Dialect{tunnel.Dialect1, tunnel.Dialect2} {
		t.Run(string('0'+rune(d)), func(t *testing.T) { testConnCloseWhilePeerWrites(t, d) })
	}
}

func testConnCloseWhilePeerWrites(t *testing.T, d tunnel.Dialect) {
	p := newPair(t, d)
	entry, exit := p.open(t)
	wrote := make(chan error, 1)
	go func() {
		b := make([]byte, 1<<20)
		for {
			if _, err := exit.Write(b); err != nil {
				wrote <- err
				return
			}
		}
	}()
	_, _ = io.ReadFull(entry, make([]byte, 100<<10))
	_ = entry.Close()
	if err := <-wrote; tunnel.CodeOf(err) != framecodec.CodeCancelled {
		t.Errorf("dialect %d: Write: %v", d, err)
	}
	waitFor(t, func() bool { return p.client.Stats().Streams+p.gateway.Stats().Streams == 0 })
}
