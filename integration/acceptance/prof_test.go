package acceptance

import (
	"net"
	"os"
	"testing"
	"time"

	"github.com/culvertgate/culvert/internal/testkit"
)

func TestFloorBulk(t *testing.T) {
	for round := range 3 {
		for _, s := range []string{"16", "32", "64"} {
			os.Setenv("CULVERT_CADDY", "/tmp/caddy-hf"+s)
			t.Run(s, func(t *testing.T) {
				p := startPair(t, setup{quiet: true})
				b := &bulk{pair: p, target: startTarget(t, p.net), turn: func(s stream) (from, to *net.TCPConn) { return s.far, s.near }}
				b.run(t, false)
				cpu := func() time.Duration {
					a, _ := p.gateway.Usage()
					b, _ := p.client.Usage()
					return a.CPU + b.CPU
				}
				c0 := cpu()
				d := b.run(t, false) + b.run(t, false)
				u, _ := p.gateway.Usage()
				v, _ := p.client.Usage()
				t.Logf("round %d floor %s: %v cpu %v peak %d %d", round, s, d, cpu()-c0, u.Memory.Peak>>20, v.Memory.Peak>>20)
			})
		}
	}
}

func TestFloorBurst(t *testing.T) {
	for _, s := range []string{"16", "32", "64"} {
		os.Setenv("CULVERT_CADDY", "/tmp/caddy-hf"+s)
		for _, a := range []int{1, 50} {
			t.Run(s, func(t *testing.T) {
				g := startCrowdedGateway(t)
				st, err := g.burst(t, a)
				t.Logf("floor %s, %d addresses: %v %v grown %d MiB", s, a, st, err, g.grown(t)>>20)
				_ = testkit.Missing
			})
		}
	}
}
