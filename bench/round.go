//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/culvertgate/culvert/internal/testkit"
)

// round is what one round gave.
type round struct {
	Number  int               `json:"number"`
	Started time.Time         `json:"started"`
	Order   []string          `json:"order"` // in which the peers were measured
	Samples map[string]sample `json:"samples"`
	// Dropped counts the datagrams lost for lack of room in a receive buffer while
	// a peer was measured.
	Dropped map[string]int64 `json:"dropped"`
	// Void says why the round does not count; empty: it does.
	Void string `json:"void,omitempty"`
}

// bench is one run.
type bench struct {
	o       options
	network *testkit.Namespace
	dir     string
	result  *result
	ports   int // given out so far
}

// port gives out the ports of the namespace, which is ours alone, one by one and
// below those that the kernel chooses: a port found free by trying may be given
// to Caddy's admin API a moment later.
func (b *bench) port() int {
	const first = 10_000
	b.ports++
	return first + b.ports
}

// attempts bounds the repetition of void rounds: so many for each one wanted.
const attempts = 3

// measure runs rounds until enough of them are valid. With an error it returns
// what there is, or nil.
func measure(ctx context.Context, o options) (_ *result, err error) {
	b := &bench{o: o}
	if slices.Contains(o.Peers, "culvert") {
		progress("building Caddy with this module")
		if _, err := testkit.CaddyBinary(); err != nil {
			return nil, err
		}
	}
	if b.network, err = testkit.OpenNamespace(); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, b.network.Close()) }()
	if b.dir, err = os.MkdirTemp("", "culvert-bench-"); err != nil {
		return nil, err
	}
	defer b.cleanUp()
	if b.result, err = newResult(o); err != nil {
		return nil, err
	}
	for number := 1; ; number++ {
		for _, r := range b.result.judge() {
			progress("  round %d is void: %s", r.Number, r.Void)
		}
		valid := b.result.valid()
		if len(valid) >= o.Rounds {
			return b.result, nil
		}
		if number > attempts*o.Rounds {
			return b.result, fmt.Errorf("only %d of %d rounds are valid", len(valid), number-1)
		}
		progress("round %d (%d of %d valid so far)", number, len(valid), o.Rounds)
		r := b.round(ctx, number)
		if ctx.Err() != nil {
			return b.result, ctx.Err()
		}
		b.result.Rounds = append(b.result.Rounds, r)
		if r.Void != "" {
			progress("  void: %s", r.Void)
		}
	}
}

func (b *bench) cleanUp() {
	if b.o.Keep {
		progress("logs are in %s", b.dir)
		return
	}
	_ = os.RemoveAll(b.dir)
}

// round measures everything once. Who is first changes from round to round.
func (b *bench) round(ctx context.Context, number int) *round {
	r := &round{Number: number, Started: time.Now(), Samples: map[string]sample{}, Dropped: map[string]int64{}}
	shift := (number - 1) % len(b.o.Peers)
	r.Order = append(slices.Clone(b.o.Peers[shift:]), b.o.Peers[:shift]...)
	for _, name := range r.Order {
		r.Samples[name] = sample{}
	}
	err := b.speed(ctx, r)
	if err == nil && b.wanted(idleName) {
		err = b.memory(ctx, r)
	}
	if err != nil {
		r.Void = err.Error()
	}
	return r
}

func (b *bench) wanted(name string) bool {
	return len(b.o.Only) == 0 || slices.Contains(b.o.Only, name)
}

// speed starts all peers and takes the measurements in turn.
func (b *bench) speed(ctx context.Context, r *round) error {
	wanted := slices.DeleteFunc(slices.Clone(measurements), func(m measurement) bool { return !b.wanted(m.Name) })
	if len(wanted) == 0 {
		return nil
	}
	l, err := startLoad(b.network, b.dir)
	if err != nil {
		return err
	}
	defer l.kill()
	var peers []*peer
	defer func() {
		for _, p := range peers {
			p.stop()
		}
	}()
	for _, name := range r.Order {
		p, err := b.open(ctx, name, l, b.place(r, name))
		if err != nil {
			return err
		}
		peers = append(peers, p)
	}
	for _, m := range wanted {
		for _, p := range peers {
			if err := b.take(ctx, l, p, r, m); err != nil {
				return err
			}
		}
		progress("  %s", r.line(m.Name))
	}
	return nil
}

func (b *bench) take(ctx context.Context, l *load, p *peer, r *round, m measurement) error {
	before, err := dropped(l.pid())
	if err != nil {
		return err
	}
	s, err := m.run(ctx, l, p, b.o)
	if err != nil {
		return p.failed(m.Name, err)
	}
	after, err := dropped(l.pid())
	if err != nil {
		return err
	}
	r.Dropped[p.Name] += after - before
	maps.Copy(r.Samples[p.Name], s)
	return nil
}

func (b *bench) place(r *round, name string) string {
	return filepath.Join(b.dir, fmt.Sprintf("round-%d", r.Number), name)
}

// line is the progress line of what was just measured.
func (r *round) line(measurement string) string {
	var parts []string
	for _, m := range metrics {
		if !strings.HasPrefix(m.Name, measurement) {
			continue
		}
		text := []string{m.Name}
		for _, name := range r.Order {
			if v, ok := r.Samples[name][m.Name]; ok {
				text = append(text, name+" "+number(v))
			}
		}
		parts = append(parts, strings.Join(text, "  ")+" "+m.Unit)
	}
	return strings.Join(parts, "\n  ")
}

func firstLine(text string) string {
	line, _, _ := strings.Cut(text, "\n")
	return line
}

func progress(format string, args ...any) {
	fmt.Fprintf(os.Stderr, format+"\n", args...)
}
