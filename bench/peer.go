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
	stop func()
	log  func() string
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

func (p *peer) stop() {
	p.entry.stop()
	p.exit.stop()
}

// place is where a peer is started.
type place struct {
	network *testkit.Namespace
	dir     string // for its files
	target  string // what it leads to
}

// openers start each kind of peer.
var openers = map[string]func(context.Context, place) (*peer, error){
	"wheel":   openWheel,
	"culvert": openCulvert,
	"splice":  openSplice,
}

// openPeer starts one and waits until a connection through it works.
func openPeer(ctx context.Context, name string, l *load, n *testkit.Namespace, dir string) (*peer, error) {
	a, err := l.call(ctx, request{Op: "target"})
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	p, err := openers[name](ctx, place{network: n, dir: dir, target: a.Address})
	if err != nil {
		return nil, fmt.Errorf("starting %s: %w", name, err)
	}
	p.Name = name
	for {
		if _, err = l.call(ctx, request{Op: "ping", Address: p.Entry}); err == nil {
			return p, nil
		}
		select {
		case <-ctx.Done():
			err = fmt.Errorf("%s lets nothing through: %w\n%s\n%s", name, err, tail(p.entry.log()), tail(p.exit.log()))
			p.stop()
			return nil, err
		case <-time.After(100 * time.Millisecond):
		}
	}
}

func tail(log string) string {
	return log[max(0, len(log)-4<<10):]
}
