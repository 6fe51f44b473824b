package culvert

import (
	"errors"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"go.uber.org/goleak"

	"github.com/culvertgate/culvert/framecodec"
	"github.com/culvertgate/culvert/internal/testkit"
	"github.com/culvertgate/culvert/tunnel"
	"github.com/culvertgate/culvert/tunnel/policy"
	"github.com/culvertgate/culvert/tunnel/signal"
)

// TestEachReloadGivesItsTime: what one reload refuses, the next allows and a third
// refuses again has the time that the third gives, not what is left of the first's.
func TestEachReloadGivesItsTime(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	address := "tcp/" + listener(t).Addr().String()
	allows, err := policy.New(policy.Config{Targets: []policy.NamedTarget{{Name: "x", Addresses: []string{address}}}})
	if err != nil {
		t.Fatal(err)
	}
	h := newHub(listenAddress{})
	configured := func(p *policy.Policy) *environment {
		env := testEnvironment(t, "gw")
		env.endpoints["gw"].policy, env.endpoints["gw"].onReload = p, reloadDrain
		env.timeouts.Drain = caddy.Duration(time.Hour) // the test says when it is over
		return env
	}
	first := configured(allows)
	if err := h.attach(first); err != nil {
		t.Fatal(err)
	}
	g := h.newTunnel(first.endpoints["gw"], signal.Caller{Identity: "alice"}, signal.Offer{})
	g.budget = tunnel.NewBudget(nil, 0)
	g.exit = h.newExit(g)
	if err := h.tunnels.add(g, 1); err != nil {
		t.Fatal(err)
	}
	g.exit.Raw(newStill(), "x")
	waitRaws(t, g, "x")
	var judged []*judgement
	last := first
	for _, p := range []*policy.Policy{denyAll, allows, denyAll, denyAll} {
		next := configured(p)
		if err := h.attach(next); err != nil {
			t.Fatal(err)
		}
		h.detach(last)
		last = next
		judged = append(judged, h.judged[len(h.judged)-1])
	}
	for i, j := range judged[:2] {
		h.recheckLate(j)
		if code := g.exit.RawInfos()[0].Code; code != "" {
			t.Fatalf("at the end of reload %d the stream is cut: %s", i+1, code)
		}
	}
	h.recheckLate(judged[2])
	testkit.Eventually(t, 10*time.Second, func() error {
		if infos := g.exit.RawInfos(); infos[0].Code != framecodec.CodePolicyChanged.String() {
			return errors.New("the stream goes on: " + infos[0].Code)
		}
		return nil
	})
	h.recheckLate(judged[3])
	if len(h.judged) != 0 {
		t.Errorf("%d judgements are kept", len(h.judged))
	}
	g.exit.Close()
	g.exit.Wait()
	h.tunnels.remove(g)
	h.detach(last)
	if err := h.Destruct(); err != nil {
		t.Error(err)
	}
}
