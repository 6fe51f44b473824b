//go:build linux

package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/culvertgate/culvert/internal/testkit"
)

// end is one process of a tunnel.
type end struct {
	PID  int
	done <-chan struct{} // closed when it is over
	stop func()
	log  func() string
}

// state is what there is to say of an end that fails.
func (e end) state(role string) string {
	word := "runs"
	select {
	case <-e.done:
		word = "HAS ENDED"
	default:
	}
	log := e.log()
	return fmt.Sprintf("\n%s (process %d) %s; the end of its log:\n%s", role, e.PID, word, log[max(0, len(log)-2<<10):])
}

// peer is a running tunnel: two processes, from where connections enter to
// where they leave for the target.
type peer struct {
	Name        string
	Entry       string // address to connect to
	entry, exit end
	// profile returns the live heap and stacks of both ends; nil where the peer
	// can't say.
	profile func(context.Context) (resident, error)
}

func (p *peer) pids() []int { return []int{p.entry.PID, p.exit.PID} }

// failed adds to an error what the two ends say.
func (p *peer) failed(what string, err error) error {
	return fmt.Errorf("%s, %s: %w%s%s", p.Name, what, err, p.entry.state("entry"), p.exit.state("exit"))
}

func (p *peer) stop() {
	p.entry.stop()
	p.exit.stop()
}

// place is where a peer is started.
type place struct {
	network *testkit.Namespace
	ports   func() int // gives a free one at each call
	dir     string     // for its files
	target  string     // what it leads to
}

// openers start each kind of peer.
var openers = map[string]func(context.Context, place) (*peer, error){
	"wheel":   openWheel,
	"culvert": openCulvert,
	"splice":  openSplice,
}

// open starts a peer and waits until a connection through it works.
func (b *bench) open(ctx context.Context, name string, l *load, dir string) (*peer, error) {
	a, err := l.call(ctx, request{Op: "target"})
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	p, err := openers[name](ctx, place{network: b.network, ports: b.port, dir: dir, target: a.Address})
	if err != nil {
		return nil, fmt.Errorf("starting %s: %w", name, err)
	}
	p.Name = name
	for {
		_, err := l.call(ctx, request{Op: "ping", Address: p.Entry})
		if err == nil {
			return p, nil
		}
		select {
		case <-ctx.Done():
			err = p.failed("start", err)
			p.stop()
			return nil, err
		case <-time.After(100 * time.Millisecond):
		}
	}
}
