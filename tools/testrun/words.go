package main

import (
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// words is the output of a test, taken apart: what explains a failure comes
// early in it or in its middle, and child processes talk before and behind.
type words struct {
	reports   []report
	outbursts [][]string // panics, data races, leaks: each from its first line to its last
	rest      []string   // of everybody else
}

// report is what a test said by t.Error, t.Fatal or t.Log.
type report struct {
	file string // base name; empty: not of a test
	line int
	text []string // the first line begins with the place
}

var (
	reportLine = regexp.MustCompile(`^ {4,}([^\s:]+\.go):(\d+): `)
	frameLine  = regexp.MustCompile(`^\s*(=== (RUN|PAUSE|CONT|NAME)|--- (FAIL|PASS|SKIP): |FAIL$|FAIL\t|exit status )`)
)

// continuation begins the lines of a report behind its first.
const continuation = "        "

// racePause stands before and behind a report of the race detector.
const racePause = "=================="

// takeApart sorts the lines of output.
func takeApart(output string) words {
	var w words
	lines := strings.Split(strings.TrimRight(output, "\n"), "\n")
	for i := 0; i < len(lines); {
		line := lines[i]
		from := i
		i++
		switch m := reportLine.FindStringSubmatch(line); {
		case m != nil:
			for i < len(lines) && strings.HasPrefix(lines[i], continuation) && !reportLine.MatchString(lines[i]) {
				i++
			}
			n, _ := strconv.Atoi(m[2]) // digits
			w.reports = append(w.reports, report{m[1], n, outdent(lines[from:i])})
		case frameLine.MatchString(line), line == racePause, strings.TrimSpace(line) == "":
		case strings.HasPrefix(line, "WARNING: DATA RACE"):
			for i < len(lines) && lines[i] != racePause {
				i++
			}
			w.outbursts = append(w.outbursts, lines[from:i])
		case startsOutburst(line):
			// Nothing else is said behind it, except go test's own words.
			for i < len(lines) && !frameLine.MatchString(lines[i]) {
				i++
			}
			w.outbursts = append(w.outbursts, testsFirst(lines[from:i]))
		default:
			w.rest = append(w.rest, line)
		}
	}
	return w
}

// startsOutburst recognises what a process says at its end.
func startsOutburst(line string) bool {
	for _, prefix := range []string{"panic: ", "fatal error: ", "goleak: ", "SIGQUIT: ", "unexpected fault address"} {
		if strings.HasPrefix(line, prefix) {
			return true
		}
	}
	return false
}

// testsFirst moves the goroutines that are in a test's code before the others,
// which may be thousands, but behind the first, the one that panics.
func testsFirst(lines []string) []string {
	starts := []int{}
	for i, line := range lines {
		if strings.HasPrefix(line, "goroutine ") && strings.HasSuffix(line, ":") {
			starts = append(starts, i)
		}
	}
	if len(starts) < 3 {
		return lines
	}
	sorted := slices.Clone(lines[:starts[1]])
	var others []string
	for i := 1; i < len(starts); i++ {
		end := len(lines)
		if i+1 < len(starts) {
			end = starts[i+1]
		}
		if block := lines[starts[i]:end]; strings.Contains(strings.Join(block, "\n"), "_test.go:") {
			sorted = append(sorted, block...)
		} else {
			others = append(others, block...)
		}
	}
	return append(sorted, others...)
}

// outdent takes away the spaces that package testing puts before a report.
func outdent(lines []string) []string {
	out := make([]string, len(lines))
	for i, line := range lines {
		if i == 0 {
			out[i] = strings.TrimLeft(line, " ")
		} else {
			out[i] = "    " + strings.TrimPrefix(line, continuation)
		}
	}
	return out
}

// isLeak recognises goleak's report through a test, which is long and worth it.
func (r report) isLeak() bool {
	return strings.Contains(r.text[0], "found unexpected goroutines") ||
		len(r.text) > 1 && strings.Contains(r.text[1], "found unexpected goroutines")
}

// Bounds of what is shown of a failure. CI systems show the end of a run only.
const (
	longestLine   = 300 // bytes
	reportLines   = 12
	reportBytes   = 2_000
	outburstLines = 60
	outburstBytes = 8_000
	shownReports  = 24 // of a test that reports in a loop
	shownBursts   = 3
	shownRest     = 20 // lines
)

// cut returns at most n lines of together about size bytes, each cut at
// longestLine: the head and the tail of what is longer, and how much is between.
func cut(lines []string, n, size int) []string {
	short := make([]string, len(lines))
	total := 0
	for i, line := range lines {
		short[i] = cutLine(line)
		total += len(short[i]) + 1
	}
	if len(short) <= n && total <= size {
		return short
	}
	// Two of three parts for the head: a report says first what it is about.
	head := fitting(short, n*2/3, size*2/3)
	tail := len(short) - fittingBehind(short[head:], n-n*2/3-1, size/3)
	if tail <= head {
		return short
	}
	out := append([]string{}, short[:head]...)
	out = append(out, "    ("+strconv.Itoa(tail-head)+" lines between, see the log)")
	return append(out, short[tail:]...)
}

// fitting returns how many lines from the first fit.
func fitting(lines []string, n, size int) int {
	for i, line := range lines {
		if size -= len(line) + 1; i > 0 && size < 0 || i == n {
			return i
		}
	}
	return len(lines)
}

// fittingBehind returns how many lines from the last fit.
func fittingBehind(lines []string, n, size int) int {
	for i := range lines {
		if size -= len(lines[len(lines)-1-i]) + 1; i > 0 && size < 0 || i == n {
			return i
		}
	}
	return len(lines)
}

func cutLine(line string) string {
	if len(line) <= longestLine {
		return line
	}
	return strings.ToValidUTF8(line[:longestLine], "") + "... (" + strconv.Itoa(len(line)) + " bytes)"
}
