package acceptance

import (
	"testing"
	"time"

	"github.com/culvertgate/culvert/internal/testkit"
)

// vanishBound is how long after a target has vanished its streams may live, by
// the default of timeouts.keepalive: about twice 15 s, both for keep-alives of
// an idle connection and for retransmissions (docs/decisions/006).
const vanishBound = 40 * time.Second

// TestMustShow7VanishedTarget has a target answer nothing more, not even with a
// reset: once with data on the way to it, once without.
func TestMustShow7VanishedTarget(t *testing.T) {
	t.Parallel()
	needBoundedRetransmission(t)
	for name, say := range map[string]int{"with data on the way": 1 << 20, "idle": 0} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := startPair(t, setup{})
			g := startTarget(t, p.net)
			s := p.mustOpen(g, entryPort)
			check(t, s.echo())
			tunnel := onlyTunnel(t, p.gateway).ID
			gateway, client := metricsOf(t, p.gateway).Ends("gateway"), metricsOf(t, p.client).Ends("client")

			gone, err := p.net.Drop("tcp dport 9000", "tcp sport 9000")
			check(t, err)
			start := time.Now()
			if say > 0 {
				must[int](t)(s.near.Write(testkit.PayloadBytes(7, say)))
			}
			if got := seen(s.near, vanishBound+patience); got != sawRST {
				t.Errorf("the opener saw %s, want %s", got, sawRST)
			}
			took := time.Since(start)
			t.Logf("the stream ended %v after its target had vanished", took.Round(10*time.Millisecond))
			if took > vanishBound {
				t.Errorf("the stream lived for %v, at most %v", took, vanishBound)
			}
			want := map[string]int{"timeout": 1}
			endsBecome(t, "gateway", p.gateway, gateway, want)
			endsBecome(t, "client", p.client, client, want)

			check(t, gone.Remove())
			check(t, p.mustOpen(g, entryPort).echo())
			if now := onlyTunnel(t, p.gateway).ID; now != tunnel {
				t.Error("the tunnel has not lived through it")
			}
		})
	}
}
