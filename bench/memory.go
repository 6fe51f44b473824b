//go:build linux

package main

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/culvertgate/culvert/internal/testkit"
)

// memory measures what an idle connection adds to the resident memory of each
// end: peers that did nothing else before are given one connection in eight of
// the wanted number as a start, used, and then the rest. These carry a byte each
// way (unused) and later 64 KiB each way (used), and are left alone. The method
// is the same for all; no peer is asked to collect or give back anything before
// the last number is taken.
func (b *bench) memory(ctx context.Context, r *round) error {
	l, err := startLoad(b.network, b.dir)
	if err != nil {
		return err
	}
	defer l.kill()
	for _, name := range r.Order {
		if name == "splice" {
			continue // it holds four descriptors of pipes for each connection: too many
		}
		if err := b.idle(ctx, l, r, name); err != nil {
			return err
		}
	}
	progress("  %s\n  %s", r.line("fresh"), r.line("idle"))
	return nil
}

func (b *bench) idle(ctx context.Context, l *load, r *round, name string) error {
	p, err := b.open(ctx, name, l, b.place(r, name+"-idle"))
	if err != nil {
		return err
	}
	defer p.stop()
	if err := b.fillPeer(ctx, l, p, r.Samples[name]); err != nil {
		return p.failed(idleName, err)
	}
	return nil
}

// fillPeer gives a fresh peer its idle connections.
func (b *bench) fillPeer(ctx context.Context, l *load, p *peer, s sample) error {
	fresh, err := b.after(ctx, l, p)
	if err != nil {
		return err
	}
	fill := request{Op: "fill"}
	start, err := b.after(ctx, l, p, request{Op: "hold", Address: p.Entry, Count: b.o.Idle / 8}, fill)
	if err != nil {
		return err
	}
	unused, err := b.after(ctx, l, p, request{Op: "hold", Address: p.Entry, Count: b.o.Idle})
	if err != nil {
		return err
	}
	used, err := b.after(ctx, l, p, fill)
	if err != nil {
		return err
	}
	if _, err := l.call(ctx, request{Op: "probe"}); err != nil {
		return err
	}
	s["fresh RSS, entry"] = float64(fresh.entry) / 1e6
	s["fresh RSS, exit"] = float64(fresh.exit) / 1e6
	all := float64(b.o.Idle + b.o.Idle/8)
	s["idle RSS, entry, from fresh"] = float64(used.entry-fresh.entry) / all
	s["idle RSS, exit, from fresh"] = float64(used.exit-fresh.exit) / all
	each := func(now, before int64) float64 { return float64(now-before) / float64(b.o.Idle) }
	s["idle RSS, entry, unused"] = each(unused.entry, start.entry)
	s["idle RSS, exit, unused"] = each(unused.exit, start.exit)
	s["idle RSS, entry, used"] = each(used.entry, start.entry)
	s["idle RSS, exit, used"] = each(used.exit, start.exit)
	return b.live(ctx, l, p, s)
}

// live ends the idle connections, and adds what our own ends say of themselves:
// heap and stacks after a collection, with the used idle connections and without.
func (b *bench) live(ctx context.Context, l *load, p *peer, s sample) error {
	if p.profile == nil {
		_, err := l.call(ctx, request{Op: "release"})
		return err
	}
	with, err := p.profile(ctx)
	if err != nil {
		return err
	}
	if _, err := b.after(ctx, l, p, request{Op: "release"}); err != nil {
		return err
	}
	without, err := p.profile(ctx)
	if err != nil {
		return err
	}
	count := float64(b.o.Idle + b.o.Idle/8)
	s["idle heap+stack, entry"] = float64(with.entry-without.entry) / count
	s["idle heap+stack, exit"] = float64(with.exit-without.exit) / count
	return nil
}

// resident is memory of both ends in bytes.
type resident struct{ entry, exit int64 }

// after returns the memory when the exercises are done and things have settled.
func (b *bench) after(ctx context.Context, l *load, p *peer, exercises ...request) (resident, error) {
	for _, r := range exercises {
		if _, err := l.call(ctx, r); err != nil {
			return resident{}, err
		}
	}
	return settled(ctx, p)
}

const (
	// calm is how long both must stay the same. Peers may give memory back some
	// time after traffic has ended (ours after 10 s): who does, shows it by then.
	calm     = 13 * time.Second
	calmTime = 40 * time.Second // so long is waited for it
)

// settled returns the resident memory of both ends when it has stopped moving.
func settled(ctx context.Context, p *peer) (resident, error) {
	var last resident
	since, end := time.Now(), time.Now().Add(calmTime)
	for {
		a, err := testkit.MemoryOf(p.entry.PID)
		if err != nil {
			return last, err
		}
		b, err := testkit.MemoryOf(p.exit.PID)
		if err != nil {
			return last, err
		}
		if moved(a.RSS, last.entry) || moved(b.RSS, last.exit) {
			since = time.Now()
		}
		last = resident{a.RSS, b.RSS}
		if time.Since(since) > calm || time.Now().After(end) {
			return last, nil
		}
		select {
		case <-ctx.Done():
			return last, ctx.Err()
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// moved: by more than 64 KiB since the last look.
func moved(now, before int64) bool {
	const step = 64 << 10
	return now > before+step || now < before-step
}

// dropped reads the datagrams lost for full receive buffers in the network of a
// process.
func dropped(pid int) (int64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/snmp", pid))
	if err != nil {
		return 0, err
	}
	var names []string
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(line)
		if len(fields) == 0 || fields[0] != "Udp:" {
			continue
		}
		if names == nil {
			names = fields
			continue
		}
		for i, name := range names {
			if name == "RcvbufErrors" && i < len(fields) {
				return strconv.ParseInt(fields[i], 10, 64)
			}
		}
	}
	return 0, fmt.Errorf("no RcvbufErrors in the network statistics of process %d", pid)
}
