package culvert

import (
	"net"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/culvertgate/culvert/framecodec"
	"github.com/culvertgate/culvert/tunnel"
	"github.com/culvertgate/culvert/tunnel/policy"
	"github.com/culvertgate/culvert/tunnel/signal"
)

// closingCode returns what a tunnel ends with, or fails when it does not.
func closingCode(t *testing.T, g *gatewayTunnel) tunnel.Code {
	t.Helper()
	select {
	case <-g.closing:
	case <-time.After(10 * time.Second):
		t.Fatal("the tunnel goes on")
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.closeCode
}

// TestPanicEndsItsTunnel: in a callback of the peer connection and in one of
// the exit's goroutines; it is logged once and nothing else happens.
func TestPanicEndsItsTunnel(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	env := testEnvironment(t, "gw")
	core, logs := observer.New(zapcore.ErrorLevel)
	env.logger = zap.New(core)
	env.endpoints["gw"].limits.applyDefaults()
	env.endpoints["gw"].policy, err = policy.New(policy.Config{Targets: []policy.NamedTarget{{Name: "x", Addresses: []string{"tcp/" + l.Addr().String()}}}})
	if err != nil {
		t.Fatal(err)
	}
	h := newHub(listenAddress{})
	if err := h.attach(env); err != nil {
		t.Fatal(err)
	}
	for name, cause := range map[string]func(*gatewayTunnel){
		"callback": func(g *gatewayTunnel) { g.onChannel(nil, nil) },
		"exit":     func(g *gatewayTunnel) { g.exit.Raw(brokenCarrier{}, "x") },
	} {
		t.Run(name, func(t *testing.T) {
			g := h.newTunnel(env.endpoints["gw"], signal.Caller{}, signal.Offer{})
			g.budget, g.exit = tunnel.NewBudget(nil, 0), h.newExit(g)
			before := logs.Len()
			cause(g)
			if code := closingCode(t, g); code != framecodec.CodeInternal {
				t.Errorf("the tunnel ends with %v, want internal", code)
			}
			if n := logs.Len() - before; n != 1 {
				t.Errorf("%d lines were logged, want one", n)
			}
			g.exit.Close()
			g.exit.Wait()
		})
	}
	if err := h.Destruct(); err != nil {
		t.Error(err)
	}
}

// brokenCarrier panics when it is waited for.
type brokenCarrier struct{ tunnel.Carrier }

func (brokenCarrier) Wait() error             { panic("a test") }
func (brokenCarrier) Close(tunnel.Code) error { return nil }

// TestShutDownSaysWhy: what ends with the gateway ends with a text, which its
// client and the log show.
func TestShutDownSaysWhy(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	for _, exiting := range []bool{true, false} {
		env := testEnvironment(t, "gw")
		h := newHub(listenAddress{})
		g := h.newTunnel(env.endpoints["gw"], signal.Caller{Identity: "alice"}, signal.Offer{})
		if err := h.tunnels.add(g, 1); err != nil {
			t.Fatal(err)
		}
		go func() { // as run does
			<-g.closing
			close(g.gone)
		}()
		h.shutDown(exiting)
		code, want := framecodec.CodeDraining, "the gateway is shutting down"
		if !exiting {
			code, want = framecodec.CodeTunnelClosed, "the gateway's configuration has no place for this tunnel any more"
		}
		if g.closeCode != code || g.closeText != want {
			t.Errorf("exiting %v: it ended with %v, %q", exiting, g.closeCode, g.closeText)
		}
	}
}

// TestLimitIsNamed: who is refused for a limit is told which one.
func TestLimitIsNamed(t *testing.T) {
	env := testEnvironment(t, "gw")
	state := env.endpoints["gw"]
	state.limits.TunnelsPerIdentity, env.limits.HandshakesPerClient = 0, 0
	h := newHub(listenAddress{})
	g := h.newTunnel(state, signal.Caller{Identity: "alice"}, signal.Offer{})
	for limit, err := range map[string]error{"tunnels_per_identity: 0": h.admit(g, env, state), "handshakes_per_client: 0": h.admitHandshake(g, env)} {
		if tunnel.CodeOf(err) != framecodec.CodeTooManyTunnels || !strings.Contains(err.Error(), limit) {
			t.Errorf("%v, want the limit %s", err, limit)
		}
	}
}
