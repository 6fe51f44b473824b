//go:build linux

package main

import (
	"context"
	"fmt"
	"time"
)

// metric is one number of the table.
type metric struct {
	Name string
	Unit string
	// Rate: more is better, and less than half of a peer's best voids the round.
	Rate bool
	// AtLeast and AtMost bound the ratio culvert / wheel; 0: no bar.
	AtLeast, AtMost float64
}

// metrics lists the rows in the order of the table.
var metrics = []metric{
	{Name: "bulk up", Unit: "MB/s", Rate: true, AtLeast: 1.8},
	{Name: "bulk up CPU", Unit: "s/GB"},
	{Name: "bulk down", Unit: "MB/s", Rate: true, AtLeast: 1.8},
	{Name: "bulk down CPU", Unit: "s/GB"},
	{Name: "1 connection p50", Unit: "µs"},
	{Name: "1 connection p99", Unit: "µs"},
	{Name: "100 connections", Unit: "1/s", Rate: true, AtLeast: 0.8},
	{Name: "100 connections p50", Unit: "µs"},
	{Name: "100 connections p99", Unit: "µs"},
	{Name: "100 connections CPU", Unit: "µs each"},
	{Name: "behind bulk up p50", Unit: "ms", AtMost: 1.0 / 3},
	{Name: "behind bulk up p99", Unit: "ms"},
	{Name: "behind bulk down p50", Unit: "ms", AtMost: 1.0 / 3},
	{Name: "behind bulk down p99", Unit: "ms"},
	{Name: "set-up, 32 at once", Unit: "1/s", Rate: true},
	{Name: "fresh RSS, entry", Unit: "MB"},
	{Name: "fresh RSS, exit", Unit: "MB"},
	{Name: "idle RSS, entry, unused", Unit: "B", AtMost: 0.1},
	{Name: "idle RSS, exit, unused", Unit: "B", AtMost: 0.1},
	{Name: "idle RSS, entry, used", Unit: "B", AtMost: 0.1},
	{Name: "idle RSS, exit, used", Unit: "B", AtMost: 0.1},
	{Name: "idle RSS, entry, from fresh", Unit: "B", AtMost: 0.1},
	{Name: "idle RSS, exit, from fresh", Unit: "B", AtMost: 0.1},
	{Name: "idle heap+stack, entry", Unit: "B"},
	{Name: "idle heap+stack, exit", Unit: "B"},
}

// sample holds what one measurement of one peer gave, by metric name.
type sample map[string]float64

// measurement is one exercise; it may give several metrics.
type measurement struct {
	Name string
	run  func(ctx context.Context, l *load, p *peer, o options) (sample, error)
}

// measurements in the order in which they run: what makes the reference leak
// comes last.
var measurements = []measurement{
	{"bulk up", bulk("up")},
	{"bulk down", bulk("down")},
	{"1 connection", requests("1 connection", 1)},
	{"100 connections", requests("100 connections", 100)},
	{"behind bulk up", behind("up")},
	{"behind bulk down", behind("down")},
	{"set-up, 32 at once", setup},
}

// idleName is the measurement that has peers of its own.
const idleName = "idle RSS"

func checkNames(only []string) error {
	for _, name := range only {
		known := name == idleName
		for _, m := range measurements {
			known = known || m.Name == name
		}
		if !known {
			return fmt.Errorf("unknown measurement %q", name)
		}
	}
	return nil
}

func bulk(direction string) func(context.Context, *load, *peer, options) (sample, error) {
	return func(ctx context.Context, l *load, p *peer, o options) (sample, error) {
		a, err := l.call(ctx, request{Op: "bulk", Address: p.Entry, Direction: direction, Window: o.Window, PIDs: p.pids()})
		if err != nil {
			return nil, err
		}
		return sample{
			"bulk " + direction:          a.BytesPerSecond / 1e6,
			"bulk " + direction + " CPU": a.CPU.Seconds() / (a.Bytes / 1e9),
		}, nil
	}
}

func requests(name string, connections int) func(context.Context, *load, *peer, options) (sample, error) {
	return func(ctx context.Context, l *load, p *peer, o options) (sample, error) {
		a, err := l.call(ctx, request{Op: "requests", Address: p.Entry, Count: connections, Window: o.Window, PIDs: p.pids()})
		if err != nil {
			return nil, err
		}
		s := sample{name + " p50": micros(a.P50), name + " p99": micros(a.P99)}
		if connections > 1 {
			s[name] = a.PerSecond
			s[name+" CPU"] = a.CPU.Seconds() * 1e6 / a.Count
		}
		return s, nil
	}
}

func behind(direction string) func(context.Context, *load, *peer, options) (sample, error) {
	return func(ctx context.Context, l *load, p *peer, o options) (sample, error) {
		a, err := l.call(ctx, request{Op: "behind", Address: p.Entry, Direction: direction, Window: o.Window, PIDs: p.pids()})
		if err != nil {
			return nil, err
		}
		name := "behind bulk " + direction
		return sample{name + " p50": micros(a.P50) / 1e3, name + " p99": micros(a.P99) / 1e3}, nil
	}
}

func setup(ctx context.Context, l *load, p *peer, o options) (sample, error) {
	a, err := l.call(ctx, request{Op: "setup", Address: p.Entry, Count: 32, Window: o.Window / 2, PIDs: p.pids()})
	if err != nil {
		return nil, err
	}
	return sample{"set-up, 32 at once": a.PerSecond}, nil
}

func micros(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }
