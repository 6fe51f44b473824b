package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

var noSources = newSources(nil)

// The folder testdata/recorded holds failing tests and what go test -json said
// of them, without times and places of the machine.
const recorded = "testdata/recorded"

// replay returns what is printed of a recorded run, while it goes on and in the
// summary.
func replay(t *testing.T, file string) (during, end string) {
	t.Helper()
	events, err := os.ReadFile(filepath.Join(recorded, file))
	if err != nil {
		t.Fatal(err)
	}
	result := feed(t, "leaf", string(events))
	var out strings.Builder
	r := runner{logs: t.TempDir(), out: &out, sources: newSources([]suite{{packages: []goPackage{{ImportPath: "example", Dir: recorded}}}})}
	r.finished(result.packages["example"])
	during = out.String()
	out.Reset()
	summarize([]*suiteResult{result}, false).print(&out, time.Second, "logs")
	return during, out.String()
}

// inOrder fails the test unless text holds all of parts, one behind the other.
func inOrder(t *testing.T, text string, parts ...string) {
	t.Helper()
	rest := text
	for _, part := range parts {
		_, behind, found := strings.Cut(rest, part)
		if !found {
			t.Fatalf("%q is missing, or not in its place, in\n%s", part, text)
		}
		rest = behind
	}
}

// sectionOf returns what is printed below the line that begins with a title.
func sectionOf(t *testing.T, text, title string) string {
	t.Helper()
	_, rest, found := strings.Cut(text, "---- "+title+"\n")
	if !found {
		t.Fatalf("no section %q in\n%s", title, text)
	}
	section, _, _ := strings.Cut(rest, "\n---- ")
	return section
}

func TestWhatATestReportsComesFirst(t *testing.T) {
	during, _ := replay(t, "ends.json")
	child := sectionOf(t, during, "example TestChildTalksBehind")
	inOrder(t, child,
		"rec_test.go:19: the stream ended with normal,", "want timeout", "behind a blank line",
		"rec_test.go:20: not within 30s",
		"logged:", "rec_test.go:18: before: 1", "rec_test.go:13: log of caddy:",
		"everybody else:", "(10 lines before, see the log)", `"n":10}`, `"n":29}`)
	if strings.Contains(child, `"n":9}`) || strings.Contains(child, "=== ") || strings.Contains(child, "--- FAIL") {
		t.Errorf("more than the end of what children say, or frames:\n%s", child)
	}
}

func TestPanicsRacesAndLeaksAreShownWhole(t *testing.T) {
	during, _ := replay(t, "ends.json")
	inOrder(t, sectionOf(t, during, "example TestRace"),
		"testing.go:1712: race detected", "WARNING: DATA RACE", "Read at", "rec_test.go:34", "Previous write", "Goroutine 17 (running) created at:", "_testmain.go")
	inOrder(t, sectionOf(t, during, "example TestPanics"), "panic: assignment to entry in nil map", "rec_test.go:41", "created by testing")
	inOrder(t, sectionOf(t, during, "example TestLeaks"), "leak_test.go:14: found unexpected goroutines:", "TestLeaks.func1", "leak_test.go:11")
	late, end := replay(t, "timeout.json")
	// The goroutine of the test before those that only wait for it.
	inOrder(t, sectionOf(t, late, "example TestHangs"), "panic: test timed out after 300ms", "hang_test.go:10", "testing.runTests", "logged:", "waiting")
	inOrder(t, end, "failed:", "example TestHangs\n", "panic: test timed out after 300ms | running tests: | TestHangs")
}

func TestSubtestsAndTheirParentsAreBothShown(t *testing.T) {
	during, _ := replay(t, "ends.json")
	inOrder(t, during,
		"---- example TestParent/bad/deep\n", "deep down",
		"---- example TestParent/parallel\n", "beside",
		"---- example TestParent (beside its subtests)\n", "rec_test.go:29: the parent's own")
}

func TestSummaryEndsWithTheReasons(t *testing.T) {
	_, end := replay(t, "ends.json")
	inOrder(t, end, "time 1s", "\nfailed:\n",
		"  example TestChildTalksBehind\n      rec_test.go:19: the stream ended with normal, | want timeout | behind a blank line\n",
		"  example TestLeaks\n      leak_test.go:14: found unexpected goroutines:",
		"  example TestPanics\n      panic: assignment to entry in nil map",
		"  example TestParent/bad/deep\n      rec_test.go:26: deep down\n",
		"  example TestParent/parallel\n      rec_test.go:28: beside\n",
		"  example TestRace\n      WARNING: DATA RACE | Read at",
		"\nculvert: 1 passed, 6 failed, 0 skipped\n")
	_, end = replay(t, "broken.json")
	inOrder(t, end, "  example (package)\n      ./broken_test.go:3:17: undefined: undefined\n")
}

// loud returns the output of a test that says a line n times.
func loud(n int, line string) string { return strings.Repeat(line+"\n", n) }

func TestShownOutputIsBounded(t *testing.T) {
	for _, tc := range []struct {
		name, output string
		lines, bytes int
		want         []string
	}{
		{"lines of others", loud(500, "line") + strings.Repeat("x", 100_000) + "\n", 24, 1_000, []string{"(481 lines before", "(100000 bytes)"}},
		{"one long report", "    a_test.go:1: first\n" + loud(400, "        more") + "        last\n", 16, 1_000, []string{"first", "lines between", "last"}},
		{"a report of long lines", "    a_test.go:1: first\n" + loud(10, "        "+strings.Repeat("y", 1000)), 12, 3_000, []string{"first", "lines between", "(1004 bytes)"}},
		{"many reports", "    a_test.go:1: first\n" + loud(400, "    a_test.go:2: more") + "    a_test.go:3: last\n", 28, 1_000, []string{"first", "(378 reports between", "last"}},
		{"a dump", "panic: oh\n\n" + loud(4000, "goroutine 9 [select]:\nmain.f()\n\t/src/a.go:1"), 64, 8_000, []string{"panic: oh", "lines between"}},
		{"many races", loud(20, "==================\nWARNING: DATA RACE\nRead at 0x1 by goroutine 1:\n=================="), 10, 1_000, []string{"DATA RACE", "17 more of these"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := &packageResult{path: "p", failed: []string{"TestA"}, output: map[string]string{"TestA": tc.output}}
			var out strings.Builder
			noSources.explain(&out, p)
			if n := strings.Count(out.String(), "\n"); n > tc.lines || out.Len() > tc.bytes {
				t.Errorf("%d lines, %d bytes", n, out.Len())
			}
			inOrder(t, out.String(), tc.want...)
			noSources.headlines(p)
			if n := len(p.why["TestA"]); n == 0 || n > longestLine+20 {
				t.Errorf("a headline of %d bytes", n)
			}
		})
	}
}

func TestListOfFailuresIsBounded(t *testing.T) {
	p := &packageResult{path: "p", ended: true}
	for i := range 80 {
		p.failed = append(p.failed, fmt.Sprintf("Test%d", i))
	}
	s := newSuiteResult("leaf")
	s.packages["p"] = p
	var out strings.Builder
	summarize([]*suiteResult{s}, false).print(&out, time.Second, "logs")
	inOrder(t, out.String(), "p Test0\n", "p Test49\n", "and 30 more", "80 failed")
}
