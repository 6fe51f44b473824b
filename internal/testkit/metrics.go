package testkit

import (
	"context"
	"fmt"
	"strconv"
	"strings"
)

// metricsPrefix begins the names of all our metrics.
const metricsPrefix = "caddy_webrtc_tunnel_"

// Metrics are the values of a process's own metrics by name and labels as
// Prometheus writes them, without the prefix: `streams{side="client"}`.
type Metrics map[string]float64

// Metrics reads what a process counts.
func (c *Caddy) Metrics(ctx context.Context) (Metrics, error) {
	text, err := c.Get(ctx, "/metrics")
	if err != nil {
		return nil, err
	}
	m := Metrics{}
	for line := range strings.Lines(text) {
		rest, ours := strings.CutPrefix(strings.TrimSpace(line), metricsPrefix)
		at := strings.LastIndexByte(rest, ' ')
		if !ours || at < 0 {
			continue
		}
		if m[rest[:at]], err = strconv.ParseFloat(rest[at+1:], 64); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// Ends returns how many streams of a side ended with each code.
func (m Metrics) Ends(side string) map[string]int {
	return m.byLabel("stream_ends_total", "code", side)
}

// Opened returns how many streams of a side were asked for, by result.
func (m Metrics) Opened(side string) map[string]int {
	return m.byLabel("streams_opened_total", "result", side)
}

// Tunnels returns how many tunnels of a side were asked for, by result.
func (m Metrics) Tunnels(side string) map[string]int {
	return m.byLabel("tunnels_opened_total", "result", side)
}

// byLabel adds up a side's values of a counter by one label.
func (m Metrics) byLabel(name, label, side string) map[string]int {
	sums := map[string]int{}
	for key, v := range m {
		labels, ok := strings.CutPrefix(key, name+"{")
		if !ok || !strings.Contains(labels, fmt.Sprintf("side=%q", side)) {
			continue
		}
		_, value, ok := strings.Cut(labels, label+`="`)
		if !ok {
			continue
		}
		value, _, _ = strings.Cut(value, `"`)
		sums[value] += int(v)
	}
	return sums
}

// Rise returns what has been added since before, without zeros.
func Rise(before, now map[string]int) map[string]int {
	d := map[string]int{}
	for k, v := range now {
		if v != before[k] {
			d[k] = v - before[k]
		}
	}
	return d
}
