package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// sources tells assertions from logs by the line of source that a report names:
// in the output both look the same.
type sources struct {
	folders map[string]string // of packages, by import path
	files   map[string][]string
}

func newSources(suites []suite) *sources {
	s := &sources{folders: map[string]string{}, files: map[string][]string{}}
	for _, suite := range suites {
		for _, p := range suite.packages {
			s.folders[p.ImportPath] = p.Dir
		}
	}
	return s
}

// isLog reports whether r was made by t.Log or t.Logf. The package is where the
// test is; what it calls may be elsewhere.
func (s *sources) isLog(pkg string, r report) bool {
	lines := s.file(filepath.Join(s.folders[pkg], r.file))
	for _, folder := range s.folders {
		if lines != nil {
			break
		}
		lines = s.file(filepath.Join(folder, r.file))
	}
	if r.line < 1 || r.line > len(lines) {
		return false
	}
	line := lines[r.line-1]
	return strings.Contains(line, ".Log(") || strings.Contains(line, ".Logf(")
}

func (s *sources) file(name string) []string {
	lines, known := s.files[name]
	if !known {
		if text, err := os.ReadFile(name); err == nil {
			lines = strings.Split(string(text), "\n")
		}
		s.files[name] = lines
	}
	return lines
}

// split returns a test's reports in two: what it complains of, and what it only
// tells.
func (s *sources) split(pkg string, w words) (assertions, logs []report) {
	for _, r := range w.reports {
		if s.isLog(pkg, r) {
			logs = append(logs, r)
		} else {
			assertions = append(assertions, r)
		}
	}
	return assertions, logs
}

// explain prints the failures of a package: of each test first what it reported
// itself, then panics, data races and leaks, then the end of everything else;
// behind them what their parents said, and the process.
func (s *sources) explain(out io.Writer, p *packageResult) {
	var parents []string
	for _, test := range p.failed {
		for above, sub := parentOf(test); sub; above, sub = parentOf(above) {
			parents = append(parents, above)
		}
		if test != wholePackage {
			s.explainOne(out, p.path, test, p.output[test])
		}
	}
	slices.Sort(parents)
	for _, test := range slices.Compact(parents) {
		if w := takeApart(p.output[test]); len(w.reports)+len(w.outbursts) > 0 {
			s.explainOne(out, p.path, test+" (beside its subtests)", p.output[test])
		}
	}
	own := takeApart(p.output[""])
	if len(own.outbursts) > 0 || slices.Contains(p.failed, wholePackage) {
		s.explainOne(out, p.path, wholePackage, p.output[""])
	}
}

func (s *sources) explainOne(out io.Writer, pkg, title, output string) {
	fmt.Fprintf(out, "---- %s %s\n", shorten(pkg), title)
	w := takeApart(output)
	assertions, logs := s.split(pkg, w)
	printReports(out, "", assertions)
	for i, burst := range w.outbursts {
		if i == shownBursts {
			fmt.Fprintf(out, "     (%d more of these, see the log)\n", len(w.outbursts)-i)
			break
		}
		printLines(out, cut(burst, outburstLines, outburstBytes))
	}
	printReports(out, "logged:", logs)
	if n := len(w.rest); n > 0 {
		fmt.Fprintf(out, "     the last lines of everybody else:\n")
		if n > shownRest {
			fmt.Fprintf(out, "     (%d lines before, see the log)\n", n-shownRest)
			w.rest = w.rest[n-shownRest:]
		}
		for _, line := range w.rest {
			printLines(out, []string{cutLine(line)})
		}
	}
}

// printReports prints the first ones and the last ones.
func printReports(out io.Writer, title string, reports []report) {
	if title != "" && len(reports) > 0 {
		fmt.Fprintf(out, "     %s\n", title)
	}
	for i, r := range reports {
		if left := len(reports) - shownReports; left > 0 && i >= shownReports/2 && i < shownReports/2+left {
			if i == shownReports/2 {
				fmt.Fprintf(out, "     (%d reports between, see the log)\n", left)
			}
			continue
		}
		if r.isLeak() {
			printLines(out, cut(r.text, outburstLines, outburstBytes))
		} else {
			printLines(out, cut(r.text, reportLines, reportBytes))
		}
	}
}

func printLines(out io.Writer, lines []string) {
	for _, line := range lines {
		fmt.Fprintf(out, "     %s\n", line)
	}
}

// headlines sets for each failed test the one line that says best why.
func (s *sources) headlines(p *packageResult) {
	own := takeApart(p.output[""])
	p.why = map[string]string{}
	for _, test := range p.failed {
		if test == wholePackage {
			p.why[test] = s.headline(p.path, own)
			continue
		}
		w := takeApart(p.output[test])
		if len(w.reports)+len(w.outbursts) == 0 {
			// It was running when the process ended, or its parent knows.
			above, _, _ := strings.Cut(test, "/")
			if w = takeApart(p.output[above]); len(w.reports)+len(w.outbursts) == 0 || above == test {
				w = own
			}
		}
		p.why[test] = s.headline(p.path, w)
	}
}

// headline is one line, of a bounded length, also where the text has several.
func (s *sources) headline(pkg string, w words) string {
	assertions, logs := s.split(pkg, w)
	var lines []string
	switch {
	case len(assertions) > 0 && assertions[0].file != "testing.go": // which says that there was a race
		lines = assertions[0].text
	case len(w.outbursts) > 0:
		lines = w.outbursts[0][:min(4, len(w.outbursts[0]))]
	case len(assertions) > 0:
		lines = assertions[0].text
	case len(w.rest) > 0:
		lines = slices.DeleteFunc(slices.Clone(w.rest), func(line string) bool { return strings.HasPrefix(line, "#") })
		lines = lines[:min(2, len(lines))]
	case len(logs) > 0:
		lines = logs[len(logs)-1].text
	}
	var parts []string
	for _, line := range lines {
		if line = strings.TrimSpace(line); line != "" {
			parts = append(parts, line)
		}
	}
	if len(parts) == 0 {
		return "(no words)"
	}
	return cutLine(strings.Join(parts, " | "))
}
