package acceptance

import (
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/culvertgate/culvert/internal/testkit"
)

const (
	fewIdle     = 500
	manyIdle    = 2_500
	idlePayload = 64 << 10 // each way through each, before it idles
	idleBound   = 1_024    // bytes of heap and stacks of an idle stream, at each side
)

// TestMustShow8IdleStreams holds what an idle stream costs each side, as the
// slope between two numbers of them, so that what a process and a tunnel cost
// once is not in it. Both processes have nothing but these streams, and the
// sockets' own ends are in this process.
func TestMustShow8IdleStreams(t *testing.T) {
	p := startPair(t, setup{quiet: true})
	idle := &idleStreams{pair: p, target: startTarget(t, p.net)}
	defer idle.close()
	processes := map[string]*testkit.Caddy{"gateway": p.gateway, "client": p.client}
	check(t, idle.fill(fewIdle))
	few := map[string]cost{}
	for name, c := range processes {
		few[name] = costOf(t, c)
	}
	check(t, idle.fill(manyIdle))
	for name, c := range processes {
		before, now := few[name], costOf(t, c)
		each := func(a, b int64) int64 { return (b - a) / (manyIdle - fewIdle) }
		live := each(before.live(), now.live())
		t.Logf("%s: %d B of heap and stacks for each idle stream (RSS: %d B); goroutines: %d at %d streams, %d at %d",
			name, live, each(before.rss, now.rss), before.Goroutines, fewIdle, now.Goroutines, manyIdle)
		if live >= idleBound {
			t.Errorf("%s: an idle stream costs %d B, want less than %d", name, live, idleBound)
		}
		noMoreGoroutines(t, name, c, before.Goroutines)
	}
	check(t, idle.alive())
}

// noMoreGoroutines waits for what a request has started to end. One less than
// before is a connection of signalling that has ended meanwhile.
func noMoreGoroutines(t *testing.T, name string, c *testkit.Caddy, most int) {
	t.Helper()
	err := testkit.WaitFor(patience, func() error {
		now, err := lookAt(c)
		if err == nil && now.Goroutines > most {
			err = fmt.Errorf("%d goroutines with %d streams, %d with %d", now.Goroutines, manyIdle, most, fewIdle)
		}
		return err
	})
	if err != nil {
		stillHeld(t, name, c, err)
	}
}

// cost is what a process takes.
type cost struct {
	testkit.Profile
	rss int64
}

func (c cost) live() int64 { return c.HeapAlloc + c.StackInuse }

// costOf looks at a process whose goroutines have come to rest. Each look makes
// it collect its garbage: what pools hold is gone with the second.
func costOf(t *testing.T, c *testkit.Caddy) cost {
	t.Helper()
	atRest(t, c) // at least two looks
	ctx, cancel := adminContext()
	defer cancel()
	profile := must[testkit.Profile](t)(c.Profile(ctx))
	usage := must[testkit.Usage](t)(c.Usage())
	return cost{profile, usage.Memory.RSS}
}

// idleStreams are streams that were used once.
type idleStreams struct {
	pair    *pair
	target  *target
	streams []stream
}

// fill opens streams until there are n of them, and uses the new ones.
func (i *idleStreams) fill(n int) error {
	first := len(i.streams)
	i.streams = append(i.streams, make([]stream, n-first)...)
	there, back := testkit.PayloadBytes(1, idlePayload), testkit.PayloadBytes(2, idlePayload)
	err := i.each(first, func(at int) error {
		s, err := i.pair.open(i.target, entryPort)
		if err != nil {
			return err
		}
		i.streams[at] = s
		return errors.Join(pass(s.near, s.far, there), pass(s.far, s.near, back))
	})
	if err != nil {
		return err
	}
	for name, c := range map[string]*testkit.Caddy{"gateway": i.pair.gateway, "client": i.pair.client} {
		list, err := listTunnels(c)
		if err == nil && (len(list) != 1 || list[0].Streams != n) {
			err = fmt.Errorf("%s: %+v, want one tunnel with %d streams", name, list, n)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// alive passes a few bytes through each.
func (i *idleStreams) alive() error {
	return i.each(0, func(at int) error { return i.streams[at].echo() })
}

// each calls do for the streams from first on, a few at a time.
func (i *idleStreams) each(first int, do func(at int) error) error {
	results := make([]error, len(i.streams))
	turn := make(chan struct{}, 16)
	var wg sync.WaitGroup
	for at := first; at < len(i.streams); at++ {
		wg.Go(func() {
			turn <- struct{}{}
			defer func() { <-turn }()
			results[at] = do(at)
		})
	}
	wg.Wait()
	return errors.Join(results...)
}

func (i *idleStreams) close() {
	for _, s := range i.streams {
		if s.near != nil {
			s.close()
		}
	}
}
