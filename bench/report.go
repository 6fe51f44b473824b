//go:build linux

package main

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// spread is the median and the range of some values.
type spread struct{ median, low, high float64 }

// spreadOf sorts values in place; there must be one at least.
func spreadOf(values []float64) spread {
	slices.Sort(values)
	n := len(values)
	s := spread{values[n/2], values[0], values[n-1]}
	if n%2 == 0 {
		s.median = (values[n/2-1] + values[n/2]) / 2
	}
	return s
}

func (s spread) String() string {
	return fmt.Sprintf("%s (%s–%s)", number(s.median), number(s.low), number(s.high))
}

// number prints three significant digits, and whole thousands in full.
func number(v float64) string {
	if v >= 1000 || v <= -1000 {
		return strconv.FormatFloat(v, 'f', 0, 64)
	}
	return strconv.FormatFloat(v, 'g', 3, 64)
}

// of returns the values of one peer and metric in the valid rounds.
func (r *result) of(peer, metric string) []float64 {
	var values []float64
	for _, round := range r.valid() {
		if v, ok := round.Samples[peer][metric]; ok {
			values = append(values, v)
		}
	}
	return values
}

// ratios returns culvert / wheel of each valid round: what was measured minutes
// apart is not compared.
func (r *result) ratios(metric string) []float64 {
	var values []float64
	for _, round := range r.valid() {
		ours, ok := round.Samples["culvert"][metric]
		theirs := round.Samples["wheel"][metric]
		if ok && theirs != 0 {
			values = append(values, ours/theirs)
		}
	}
	return values
}

// verdict compares the median ratio with the bar.
func (m metric) verdict(ratio float64) string {
	switch {
	case m.AtLeast > 0 && ratio >= m.AtLeast, m.AtMost > 0 && ratio <= m.AtMost:
		return "met"
	case m.AtLeast > 0 || m.AtMost > 0:
		return "**missed**"
	}
	return ""
}

func (m metric) bar() string {
	switch {
	case m.AtLeast > 0:
		return "≥ " + number(m.AtLeast)
	case m.AtMost > 0:
		return "≤ " + number(m.AtMost)
	}
	return ""
}

// barIdle is the number of idle connections that the bars on memory are for: what
// a process takes once, and not for each connection, is too much of a share with
// fewer.
const barIdle = 4000

// metrics returns the rows, without the bars that this run can't judge.
func (r *result) metrics() []metric {
	rows := slices.Clone(metrics)
	for i := range rows {
		if strings.HasPrefix(rows[i].Name, "idle") && r.Options.Idle < barIdle {
			rows[i].AtMost = 0
		}
	}
	return rows
}

// missed names the metrics whose bar is not met.
func (r *result) missed() []string {
	var names []string
	for _, m := range r.metrics() {
		if ratios := r.ratios(m.Name); len(ratios) > 0 && m.verdict(spreadOf(ratios).median) == "**missed**" {
			names = append(names, m.Name)
		}
	}
	return names
}

// markdown is the report for people.
func (r *result) markdown() string {
	var b strings.Builder
	fmt.Fprintf(&b, "Median (range) of %d rounds, all peers started afresh for each, measured in turn within a round.\n", len(r.valid()))
	fmt.Fprintf(&b, "Ratio: median (range) of culvert / wheel of the same round.\n\n")
	fmt.Fprintf(&b, "| | unit | %s | ratio | bar | |\n", strings.Join(r.Options.Peers, " | "))
	fmt.Fprintf(&b, "|---|---|%s---|---|---|\n", strings.Repeat("---|", len(r.Options.Peers)))
	for _, m := range r.metrics() {
		b.WriteString(r.row(m))
	}
	fmt.Fprintf(&b, "\n%s, %d cores, %s, Linux %s\n\n", r.Machine.CPU, r.Machine.Cores, r.Machine.Memory, r.Machine.Kernel)
	for _, name := range slices.Sorted(maps.Keys(r.Versions)) {
		fmt.Fprintf(&b, "- %s %s\n", name, r.Versions[name])
	}
	fmt.Fprintf(&b, "- window %v, %d idle connections, %d-byte requests\n", r.Options.Window, r.Options.Idle, requestSize)
	for _, name := range r.Options.Peers {
		var sum int64
		for _, round := range r.valid() {
			sum += round.Dropped[name]
		}
		if sum > 0 {
			fmt.Fprintf(&b, "- %s: %d datagrams dropped for full receive buffers\n", name, sum)
		}
	}
	if voids := r.voids(); voids != "" {
		fmt.Fprintf(&b, "\nVoid rounds, repeated:\n\n%s", voids)
	}
	return b.String()
}

func (r *result) row(m metric) string {
	cells := make([]string, 0, len(r.Options.Peers))
	found := false
	for _, peer := range r.Options.Peers {
		values := r.of(peer, m.Name)
		if len(values) == 0 {
			cells = append(cells, "")
			continue
		}
		found = true
		cells = append(cells, spreadOf(values).String())
	}
	if !found {
		return ""
	}
	ratio, verdict := "", ""
	if ratios := r.ratios(m.Name); len(ratios) > 0 {
		s := spreadOf(ratios)
		ratio, verdict = s.String(), m.verdict(s.median)
	}
	return fmt.Sprintf("| %s | %s | %s | %s | %s | %s |\n", m.Name, m.Unit, strings.Join(cells, " | "), ratio, m.bar(), verdict)
}
