package culvert

import (
	"context"
	"net"
	"slices"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/culvertgate/culvert/framecodec"
	"github.com/culvertgate/culvert/internal/testkit"
	"github.com/culvertgate/culvert/tunnel"
	"github.com/culvertgate/culvert/tunnel/gateway"
	"github.com/culvertgate/culvert/tunnel/policy"
	"github.com/culvertgate/culvert/tunnel/signal"
)

// listener is a target that accepts.
func listener(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

// TestGroupsOfARenewal: the groups of the renewing request count, for what is
// open too.
func TestGroupsOfARenewal(t *testing.T) {
	before := goleak.IgnoreCurrent()
	t.Cleanup(func() { goleak.VerifyNone(t, before) })
	address := "tcp/" + listener(t).Addr().String()
	env := testEnvironment(t, "gw")
	state := env.endpoints["gw"]
	state.limits.applyDefaults()
	var err error
	state.policy, err = policy.New(policy.Config{Targets: []policy.NamedTarget{
		{Name: "ops", Addresses: []string{address}, Groups: []string{"ops"}}, {Name: "dev", Addresses: []string{address}, Groups: []string{"dev", "ops"}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	h := newHub(listenAddress{})
	if err := h.attach(env); err != nil {
		t.Fatal(err)
	}
	caller := signal.Caller{Identity: "alice", Groups: []string{"ops"}}
	g := h.newTunnel(state, caller, signal.Offer{})
	g.budget = tunnel.NewBudget(nil, 0)
	g.exit = h.newExit(g)
	if err := h.tunnels.add(g, 1); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"ops", "dev"} {
		page := newStill()
		g.exit.Raw(page, name)
		waitRaws(t, g, name)
	}
	b := &backend{hub: h, name: "gw", env: env}
	renew := func(groups ...string) {
		caller.Groups = groups
		if _, err := b.Renew(context.Background(), caller, g.secret); err != nil {
			t.Fatal(err)
		}
	}
	renew("ops")
	if n := len(g.exit.Raws()); n != 2 {
		t.Errorf("%d streams are left with the same groups, want 2", n)
	}
	renew("dev")
	codes := map[string]string{}
	testkit.Eventually(t, 10*time.Second, func() error {
		for _, i := range g.exit.RawInfos() {
			codes[i.Target] = i.Code
		}
		if codes["ops"] == "" {
			return &tunnel.Error{Text: "the stream that only ops may have runs"}
		}
		return nil
	})
	if codes["ops"] != framecodec.CodePolicyChanged.String() || codes["dev"] != "" {
		t.Errorf("ends %q, want policy_changed for ops only", codes)
	}
	g.exit.Raw(newStill(), "ops")
	refused := func(i gateway.RawInfo) bool { return i.Code == framecodec.CodeNotAllowed.String() }
	if infos := g.exit.RawInfos(); !slices.ContainsFunc(infos, refused) {
		t.Errorf("a new one of the old group was admitted: %v", infos)
	}
	g.exit.Close()
	g.exit.Wait()
	h.tunnels.remove(g)
	if err := h.Destruct(); err != nil {
		t.Error(err)
	}
}

// waitRaws waits until a raw channel to that target is open.
func waitRaws(t *testing.T, g *gatewayTunnel, target string) {
	t.Helper()
	testkit.Eventually(t, 10*time.Second, func() error {
		for _, i := range g.exit.RawInfos() {
			if i.Target == target && i.Opened {
				return nil
			}
		}
		return &tunnel.Error{Text: "no channel to " + target}
	})
}

// still is a channel on which nothing comes but what the test says.
type still struct {
	tunnel.Carrier
	say    chan string
	said   string // the message that Wait has found
	closed chan struct{}
}

func newStill() *still { return &still{say: make(chan string), closed: make(chan struct{})} }

func (s *still) Wait() error {
	select {
	case s.said = <-s.say:
		return nil
	case <-s.closed:
		return &tunnel.Error{Code: framecodec.CodeTunnelClosed}
	}
}

func (s *still) ReadMessage(p []byte) (int, error) { return copy(p, s.said), nil }

func (s *still) MaxMessage() int { return 1024 }

func (s *still) Close(tunnel.Code) error {
	close(s.closed)
	return nil
}
