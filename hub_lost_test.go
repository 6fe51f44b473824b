package culvert

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/culvertgate/culvert/framecodec"
	"github.com/culvertgate/culvert/internal/testkit"
	"github.com/culvertgate/culvert/tunnel"
	"github.com/culvertgate/culvert/tunnel/policy"
	"github.com/culvertgate/culvert/tunnel/rtc"
	"github.com/culvertgate/culvert/tunnel/signal"
)

// deaf is a target that accepts and never reads.
func deaf(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	accepted := make(chan net.Conn, 16)
	go func() {
		defer close(accepted)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			accepted <- c
		}
	}()
	t.Cleanup(func() {
		_ = l.Close()
		for c := range accepted {
			_ = c.Close()
		}
	})
	return l
}

// TestLostPeerEndsAStalledSession: in dialect 1 the gateway stops reading the
// channel while a target takes nothing, for up to timeouts.write. A session
// that reads nothing does not see the end of its peer connection: the hub tells
// it, at once.
func TestLostPeerEndsAStalledSession(t *testing.T) {
	before := goleak.IgnoreCurrent()
	t.Cleanup(func() { goleak.VerifyNone(t, before) }) // behind the target's end
	target := deaf(t)
	env := testEnvironment(t, "gw")
	core, logs := observer.New(zapcore.InfoLevel)
	env.logger = zap.New(core)
	state := env.endpoints["gw"]
	state.limits.applyDefaults()
	state.dialects, state.allowAnonymous = []int{1}, true
	var err error
	state.policy, err = policy.New(policy.Config{Targets: []policy.NamedTarget{{Name: "deaf", Addresses: []string{"tcp/" + target.Addr().String()}}}})
	if err != nil {
		t.Fatal(err)
	}
	h := newHub(listenAddress{"udp", "127.0.0.1:0"})
	if err := errors.Join(h.open(env), h.attach(env)); err != nil {
		t.Fatal(err)
	}
	client, session := dial1(t, h, state, "deaf")
	conn, ep := tunnel.NewConn(tunnel.Addr{Net: "test", Text: "near"}, tunnel.Addr{Net: "test", Text: "far"})
	if _, err := session.Open(context.Background(), tunnel.Target{Kind: tunnel.KindNamed}, ep); err != nil {
		t.Fatal(err)
	}
	written := make(chan error, 1)
	go func() {
		_, err := io.Copy(conn, zeros{})
		written <- err
	}()
	g := h.tunnels.all()[0]
	waitStalled(t, g)

	began := time.Now()
	go g.currentPeer().Close(framecodec.CodeTunnelLost)
	select {
	case <-g.gone:
	case <-time.After(15 * time.Second): // timeouts.write is 30 s
		t.Fatal("the tunnel of a lost peer goes on")
	}
	t.Logf("released %v behind the loss", time.Since(began))
	if got := tunnel.CodeOf(g.currentSession().Err()); got != framecodec.CodeTunnelLost {
		t.Errorf("the session ended with %v", g.currentSession().Err())
	}
	closed := logs.FilterMessage("tunnel closed").All()
	if len(closed) != 1 || closed[0].ContextMap()["code"] != "tunnel_lost" {
		t.Errorf("the log says %v", closed)
	}
	client.Close(framecodec.CodeNormal)
	session.Close(framecodec.CodeNormal, "")
	session.Wait()
	if err := <-written; err == nil {
		t.Error("a source without end has ended in order")
	}
	h.detach(env)
	if err := h.Destruct(); err != nil {
		t.Error(err)
	}
}

// TestClientHearsWhy: the gateway's last message is read although the peer
// connection ends right behind it.
func TestClientHearsWhy(t *testing.T) {
	s := serve(t, nil)
	if code := s.open(tunnel.Target{Kind: tunnel.KindNamed}); code != framecodec.CodeNormal {
		t.Fatal(code)
	}
	s.tunnel.close(framecodec.CodeClosedByAdmin, closedByAdmin)
	select {
	case <-s.session.Done():
	case <-time.After(10 * time.Second):
		t.Fatal("the client's session goes on")
	}
	if code := tunnel.CodeOf(s.session.Err()); code != framecodec.CodeClosedByAdmin {
		t.Errorf("the client hears %v", s.session.Err())
	}
}

// dial1 makes a tunnel of dialect 1 to a hub, without HTTP.
func dial1(t *testing.T, h *hub, state *endpointState, target string) (*rtc.Peer, *tunnel.Session) {
	t.Helper()
	sessions := make(chan *tunnel.Session, 1)
	handler := rtc.Handler{OnChannel: func(_ *rtc.Peer, ch *rtc.Channel) {
		sessions <- tunnel.NewSession(ch, tunnel.Config{Dialect: tunnel.Dialect1, Role: tunnel.RoleClient})
	}}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	dialer := rtc.NewDialer(rtc.DialerConfig{Loopback: true})
	peer, offer, err := dialer.Offer(ctx, []rtc.ChannelSpec{{Label: "control"}}, nil, handler)
	if err != nil {
		t.Fatal(err)
	}
	answer, err := h.create(ctx, state, signal.Caller{Anonymous: true, ClientIP: netip.MustParseAddr("127.0.0.1")}, signal.Offer{SDP: offer, Target: target})
	if err == nil {
		err = peer.Accept(answer.Answer)
	}
	if err != nil {
		t.Fatal(err)
	}
	select {
	case s := <-sessions:
		return peer, s
	case <-ctx.Done():
		t.Fatal("no channel")
		return nil, nil
	}
}

// waitStalled returns when the gateway takes no more.
func waitStalled(t *testing.T, g *gatewayTunnel) {
	t.Helper()
	last, since := uint64(0), time.Now()
	err := testkit.WaitFor(20*time.Second, func() error {
		s := g.currentSession()
		if s == nil {
			return errors.New("no session")
		}
		if n := s.Stats().BytesIn; n != last {
			last, since = n, time.Now()
		}
		if last == 0 || time.Since(since) < time.Second {
			return errors.New("it still takes data")
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// zeros is a source without end.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}
