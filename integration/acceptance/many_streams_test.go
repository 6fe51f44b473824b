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
	serialStreams = 10_000
	livingStreams = 2_000
)

// TestMustShow7ManyStreams ends thousands of streams in every way that a stream
// can end by itself, and looks what is left of them.
func TestMustShow7ManyStreams(t *testing.T) {
	p := startPair(t, setup{quiet: true})
	g := startTarget(t, p.net)
	for _, c := range causes { // makes the tunnel, and whatever else is made once
		check(t, p.openAndEnd(g, c))
	}
	testkit.Eventually(t, patience, p.empty)
	before := map[string]held{"gateway": holding(t, p.gateway), "client": holding(t, p.client)}
	t.Logf("before: %+v", before)
	t.Run("one after another", func(t *testing.T) {
		p.expectEnds(t, serialStreams, func() error {
			for i := range serialStreams {
				if err := p.openAndEnd(g, causes[i%len(causes)]); err != nil {
					return fmt.Errorf("stream %d: %w", i, err)
				}
			}
			return nil
		})
	})
	t.Run("at once", func(t *testing.T) { p.expectEnds(t, livingStreams, func() error { return p.endTogether(t, g) }) })
	backTo(t, "gateway", p.gateway, before["gateway"], patience)
	backTo(t, "client", p.client, before["client"], patience)
}

// expectEnds holds the codes that both sides count for n streams against the
// table of causes, which are used in turns.
func (p *pair) expectEnds(t *testing.T, n int, run func() error) {
	gateway, client := metricsOf(t, p.gateway).Ends("gateway"), metricsOf(t, p.client).Ends("client")
	start := time.Now()
	check(t, run())
	t.Logf("%d streams in %v", n, time.Since(start).Round(time.Millisecond))
	wantGateway, wantClient := map[string]int{}, map[string]int{}
	for i := range n {
		c := causes[i%len(causes)]
		wantGateway[c.gateway]++
		wantClient[c.client]++
	}
	endsBecome(t, "gateway", p.gateway, gateway, wantGateway)
	endsBecome(t, "client", p.client, client, wantClient)
	testkit.Eventually(t, patience, p.empty)
}

// openAndEnd opens a stream, ends it by c, and looks at both sockets.
func (p *pair) openAndEnd(g *target, c cause) error {
	s, err := p.open(g, entryPort)
	if err != nil {
		return err
	}
	return p.endBy(s, c)
}

// endBy ends an open stream by c and looks at both sockets.
func (p *pair) endBy(s stream, c cause) error {
	if err := c.do(p, s); err != nil {
		return fmt.Errorf("%s: %w", c.name, err)
	}
	if c.near != "" {
		if got := seen(s.near, patience); got != c.near {
			return fmt.Errorf("%s: the opener saw %s, want %s", c.name, got, c.near)
		}
	}
	if c.far != "" {
		if got := seen(s.far, patience); got != c.far {
			return fmt.Errorf("%s: the target saw %s, want %s", c.name, got, c.far)
		}
	}
	return nil
}

// endTogether has livingStreams open at the same time, all of them alive, and
// then ends them all.
func (p *pair) endTogether(t *testing.T, g *target) error {
	streams, results := make([]stream, livingStreams), make([]error, livingStreams)
	each := func(do func(i int) error) error {
		var wg sync.WaitGroup
		turn := make(chan struct{}, 64)
		for i := range streams {
			wg.Go(func() {
				turn <- struct{}{}
				defer func() { <-turn }()
				results[i] = do(i)
			})
		}
		wg.Wait()
		return errors.Join(results...)
	}
	if err := each(func(i int) (err error) { streams[i], err = p.open(g, entryPort); return err }); err != nil {
		return err
	}
	if i := onlyTunnel(t, p.gateway); i.Streams != livingStreams {
		return fmt.Errorf("the gateway has %d streams, want %d", i.Streams, livingStreams)
	}
	return errors.Join(
		each(func(i int) error { return streams[i].echo() }),
		each(func(i int) error { return p.endBy(streams[i], causes[i%len(causes)]) }),
	)
}

// empty reports an error unless both sides have a tunnel without streams.
func (p *pair) empty() error {
	for name, c := range map[string]*testkit.Caddy{"gateway": p.gateway, "client": p.client} {
		list, err := listTunnels(c)
		if err != nil {
			return err
		}
		if len(list) != 1 || list[0].Streams != 0 {
			return fmt.Errorf("%s: %+v, want one tunnel without streams", name, list)
		}
	}
	return nil
}
