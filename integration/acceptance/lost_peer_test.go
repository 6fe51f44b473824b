package acceptance

import (
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/culvertgate/culvert/internal/testkit"
)

const (
	lossBound   = 25 * time.Second // from a peer's death to everything released
	outage      = 15 * time.Second // that no stream may notice
	lossStreams = 16
)

// TestMustShow7KilledGateway kills the gateway: the client's connections end,
// everything of them is released, and the next works after a restart.
func TestMustShow7KilledGateway(t *testing.T) {
	t.Parallel()
	p := startPair(t, setup{})
	g := startTarget(t, p.net)
	before := p.withoutTunnel(t, g, p.client)
	ends := metricsOf(t, p.client).Ends("client")
	streams := p.openSome(t, g)
	p.gateway.Kill()
	dead := time.Now()
	for i, s := range streams {
		if got := seen(s.near, lossBound+patience); got != sawRST {
			t.Errorf("connection %d of the client saw %s, want %s", i, got, sawRST)
		}
	}
	t.Logf("the client's connections ended %v after the gateway was killed", time.Since(dead).Round(10*time.Millisecond))
	releasedIn(t, "client", p.client, before, dead)
	endsBecome(t, "client", p.client, ends, map[string]int{"tunnel_lost": lossStreams})
	p.restart()
	p.worksAgain(t, g)
}

// TestMustShow7KilledClient kills the client: the gateway ends the connections
// to targets and releases everything, and a new client works.
func TestMustShow7KilledClient(t *testing.T) {
	t.Parallel()
	p := startPair(t, setup{})
	g := startTarget(t, p.net)
	before := p.withoutTunnel(t, g, p.gateway)
	ends := metricsOf(t, p.gateway).Ends("gateway")
	streams := p.openSome(t, g)
	p.client.Kill()
	dead := time.Now()
	for i, s := range streams {
		if got := seen(s.far, lossBound+patience); got != sawRST {
			t.Errorf("connection %d to the target saw %s, want %s", i, got, sawRST)
		}
	}
	t.Logf("the connections to targets ended %v after the client was killed", time.Since(dead).Round(10*time.Millisecond))
	releasedIn(t, "gateway", p.gateway, before, dead)
	endsBecome(t, "gateway", p.gateway, ends, map[string]int{"tunnel_lost": lossStreams})
	if list := tunnelsOf(t, p.gateway); len(list) != 0 {
		t.Errorf("tunnels are left: %+v", list)
	}
	p.restart()
	p.worksAgain(t, g)
}

// releasedIn holds that a process has no more than before, lossBound after the
// death of its peer. ICE gives up 22 to 24 s after the peer's last packet
// (rtc.Timeouts), so there is little time for the look itself, in which the
// process collects its garbage: what counts is when the first look that finds
// everything released was begun.
func releasedIn(t *testing.T, name string, c *testkit.Caddy, before held, dead time.Time) {
	var looked time.Time
	err := backBy(c, before, patience, func() { looked = time.Now() })
	took := looked.Sub(dead)
	t.Logf("everything of the %s was released %v after the death of its peer", name, took.Round(10*time.Millisecond))
	if err != nil {
		stillHeld(t, name, c, err)
	} else if took > lossBound {
		t.Errorf("the %s has released everything after %v, at most %v", name, took, lossBound)
	}
}

// withoutTunnel has had a tunnel, so that everything that is made once is there,
// and returns what a process holds when it is gone.
func (p *pair) withoutTunnel(t *testing.T, g *target, c *testkit.Caddy) held {
	t.Helper()
	s, err := p.open(g, entryPort)
	check(t, err)
	s.close()
	check(t, killTunnel(p.client))
	testkit.Eventually(t, patience, func() error {
		list, err := listTunnels(c)
		if err == nil && len(list) > 0 {
			err = fmt.Errorf("tunnels: %+v", list)
		}
		return err
	})
	return atRest(t, c)
}

// atRest waits until what a process holds stays the same.
func atRest(t *testing.T, c *testkit.Caddy) held {
	t.Helper()
	last := holding(t, c)
	testkit.Eventually(t, patience, func() error {
		now, err := lookAt(c)
		if err == nil && now != last {
			last, err = now, errors.New("still changing")
		}
		return err
	})
	return last
}

// openSome opens lossStreams streams that work.
func (p *pair) openSome(t *testing.T, g *target) []stream {
	t.Helper()
	streams := make([]stream, lossStreams)
	for i := range streams {
		streams[i] = p.mustOpen(g, entryPort)
		check(t, streams[i].echo())
	}
	return streams
}

// worksAgain opens a stream, however often that must be tried.
func (p *pair) worksAgain(t *testing.T, g *target) {
	start := time.Now()
	testkit.Eventually(t, patience, func() error {
		s, err := p.open(g, entryPort)
		if err != nil {
			return err
		}
		defer s.close()
		return s.echo()
	})
	t.Logf("the next stream worked after %v", time.Since(start).Round(time.Millisecond))
}

// TestMustShow7Outage cuts UDP for a while under running streams.
func TestMustShow7Outage(t *testing.T) {
	t.Parallel()
	p := startPair(t, setup{})
	g := startTarget(t, p.net)
	streams := p.openSome(t, g)
	stop := make(chan struct{})
	results := make([]error, len(streams))
	rounds := make([]int, len(streams))
	var wg sync.WaitGroup
	for i, s := range streams {
		wg.Go(func() {
			for results[i] == nil {
				select {
				case <-stop:
					return
				default:
					results[i] = s.echo()
					rounds[i]++
				}
			}
		})
	}
	rule := must[*testkit.Rule](t)(p.net.BlockUDP(gatewayUDP))
	<-time.After(outage) // the length of the outage is what is tested
	check(t, rule.Remove())
	start := time.Now()
	for _, s := range p.openSome(t, g) { // new ones, and the path is back
		s.close()
	}
	t.Logf("streams opened again %v after the outage", time.Since(start).Round(10*time.Millisecond))
	close(stop)
	wg.Wait()
	if err := errors.Join(results...); err != nil {
		t.Errorf("streams were lost: %v", err)
	}
	for i, s := range streams {
		if rounds[i] == 0 {
			t.Errorf("stream %d did nothing", i)
		}
		check(t, s.echo())
	}
	onlyTunnel(t, p.gateway)
	onlyTunnel(t, p.client)
}
