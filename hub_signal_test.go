package culvert

import (
	"context"
	"net/http"
	"net/http/httptest"
	"testing"

	"go.uber.org/goleak"

	"github.com/culvertgate/culvert/framecodec"
	"github.com/culvertgate/culvert/tunnel"
	"github.com/culvertgate/culvert/tunnel/policy"
	"github.com/culvertgate/culvert/tunnel/signal"
)

// TestTargetsUsableNow: not while the gateway drains, has no memory or no socket.
func TestTargetsUsableNow(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	env := testEnvironment(t, "gw")
	var err error
	env.endpoints["gw"].policy, err = policy.New(policy.Config{Targets: []policy.NamedTarget{{Name: "x", Addresses: []string{"tcp/10.0.0.5:22"}}}})
	if err != nil {
		t.Fatal(err)
	}
	h := newHub(listenAddress{"udp", "127.0.0.1:0"})
	if err := h.attach(env); err != nil {
		t.Fatal(err)
	}
	b := &backend{hub: h, name: "gw", env: env}
	check := func(when string, want bool) {
		t.Helper()
		list, err := b.Targets(context.Background(), signal.Caller{Identity: "alice"})
		if err != nil {
			t.Fatal(err)
		}
		targets := list.(targetList).Targets
		if len(targets) != 1 || targets[0].Usable != want {
			t.Errorf("%s: %+v, want usable %v", when, targets, want)
		}
	}
	check("without a socket", false)
	if err := h.open(env); err != nil {
		t.Fatal(err)
	}
	check("with one", true)
	h.draining.Store(true)
	check("draining", false)
	h.draining.Store(false)
	taken := h.memory.Limit()
	if !h.memory.Reserve(taken) {
		t.Fatal("an empty budget gives nothing")
	}
	check("without memory", false)
	h.memory.Release(taken)
	check("with memory again", true)
	h.detach(env)
	if err := h.Destruct(); err != nil {
		t.Error(err)
	}
}

// TestRequestToAConfigurationThatFailed: the caller is told to come again soon,
// when the configuration that runs answers.
func TestRequestToAConfigurationThatFailed(t *testing.T) {
	env := testEnvironment(t, "gw")
	close(env.released)
	b := &backend{hub: new(hub), name: "gw", env: env}
	_, err := b.Targets(context.Background(), signal.Caller{Identity: "alice"})
	res := httptest.NewRecorder()
	signal.WriteProblem(res, err)
	if tunnel.CodeOf(err) != framecodec.CodeDraining || res.Code != http.StatusServiceUnavailable || res.Header().Get("Retry-After") != "1" {
		t.Errorf("%v: status %d, Retry-After %q; want draining, 503, 1", err, res.Code, res.Header().Get("Retry-After"))
	}
}
