package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"
)

// summary is what is printed at the end.
type summary struct {
	rows                    []row
	passed, failed, skipped int
	failures, skips         []string
}

type row struct {
	name                              string
	packages, passed, failed, skipped int
	took                              time.Duration
}

// summarize adds the results up. In CI it turns skips that must not happen
// there into failures.
func summarize(results []*suiteResult, ci bool) summary {
	var sum summary
	for _, s := range results {
		r := row{name: s.name, packages: len(s.packages), took: s.took}
		if s.broken != "" {
			r.failed++
			sum.failures = append(sum.failures, s.name+": "+strings.Join(cut(strings.Split(s.broken, "\n"), reportLines, reportBytes), "\n      "))
		}
		for _, path := range slices.Sorted(maps.Keys(s.packages)) {
			sum.addPackage(&r, s.packages[path], ci)
		}
		sum.rows = append(sum.rows, r)
		sum.passed += r.passed
		sum.failed += r.failed
		sum.skipped += r.skipped
	}
	return sum
}

func (sum *summary) addPackage(r *row, p *packageResult, ci bool) {
	name := shorten(p.path)
	if !p.ended {
		p.failed = append(p.failed, "(did not end)")
	}
	r.passed += len(p.passed)
	r.failed += len(p.failed)
	for _, test := range p.failed {
		line := name + " " + test
		if why := p.why[test]; why != "" {
			line += "\n      " + why
		}
		sum.failures = append(sum.failures, line)
	}
	for _, test := range slices.Sorted(maps.Keys(p.skipped)) {
		line := fmt.Sprintf("%s %s: %s", name, test, p.skipped[test])
		if ci && (r.name == "system" || strings.Contains(p.skipped[test], "missing:")) {
			r.failed++
			sum.failures = append(sum.failures, line+" (a skip that must not happen in CI)")
			continue
		}
		r.skipped++
		sum.skips = append(sum.skips, line)
	}
}

func (sum summary) print(w io.Writer, took time.Duration, logs string) {
	fmt.Fprintf(w, "\n%-10s %9s %7s %7s %8s %9s\n", "suite", "packages", "passed", "failed", "skipped", "time")
	for _, r := range sum.rows {
		fmt.Fprintf(w, "%-10s %9d %7d %7d %8d %9s\n", r.name, r.packages, r.passed, r.failed, r.skipped, r.took.Round(time.Second))
	}
	fmt.Fprintf(w, "\ntime %s, output of each package in %s\n", took.Round(time.Second), logs)
	section(w, "skipped", sum.skips, len(sum.skips))
	// Behind everything else, because CI systems show the end.
	section(w, "failed", sum.failures, shownFailures)
	// A form that CI systems know, alone on its line.
	fmt.Fprintf(w, "culvert: %d passed, %d failed, %d skipped\n", sum.passed, sum.failed, sum.skipped)
}

// shownFailures bounds the list at the end: what broke everything is among the
// first of it.
const shownFailures = 50

func section(w io.Writer, title string, lines []string, most int) {
	if len(lines) == 0 {
		return
	}
	fmt.Fprintf(w, "\n%s:\n", title)
	for _, line := range lines[:min(most, len(lines))] {
		fmt.Fprintf(w, "  %s\n", strings.TrimSpace(line))
	}
	if n := len(lines) - most; n > 0 {
		fmt.Fprintf(w, "  and %d more\n", n)
	}
	fmt.Fprintln(w)
}
