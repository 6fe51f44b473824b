package main

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// event is a line of go test -json (go doc test2json).
type event struct {
	Action      string
	Package     string
	ImportPath  string // of build-output
	Test        string
	Output      string
	Elapsed     float64 // seconds
	FailedBuild string
}

// suiteResult collects the events of one invocation of go test.
type suiteResult struct {
	name     string
	packages map[string]*packageResult
	builds   map[string]string // output of the compiler
	took     time.Duration
	broken   string // go test itself failed, and no package says why
}

// wholePackage stands where a test's name stands when no test is to blame.
const wholePackage = "(package)"

// packageResult is what is known of one package's tests.
type packageResult struct {
	path    string
	ended   bool
	elapsed time.Duration
	started map[string]time.Time // tests that run
	output  map[string]string    // by test; "" is the package's own
	parents map[string]bool      // tests that have subtests
	passed  []string
	failed  []string          // wholePackage when no test is to blame
	why     map[string]string // one line for each of failed
	skipped map[string]string
	log     strings.Builder
}

func newSuiteResult(name string) *suiteResult {
	return &suiteResult{name: name, packages: map[string]*packageResult{}, builds: map[string]string{}}
}

// add takes an event, and returns the package if it has ended by it.
func (s *suiteResult) add(e event) *packageResult {
	if e.Action == "build-output" {
		s.builds[e.ImportPath] += e.Output
		return nil
	}
	if e.Package == "" {
		return nil
	}
	p := s.packages[e.Package]
	if p == nil {
		p = &packageResult{path: e.Package, started: map[string]time.Time{}, output: map[string]string{},
			parents: map[string]bool{}, skipped: map[string]string{}}
		s.packages[e.Package] = p
	}
	if e.FailedBuild != "" {
		p.output[""] += s.builds[e.FailedBuild]
	}
	if e.Test != "" {
		p.addTest(e)
		return nil
	}
	return p.addOwn(e)
}

func (p *packageResult) addTest(e event) {
	if parent, sub := parentOf(e.Test); sub {
		p.parents[parent] = true
	}
	switch e.Action {
	case "run":
		p.started[e.Test] = time.Now()
	case "output":
		p.output[e.Test] += e.Output
		p.log.WriteString(e.Output)
	case "pass":
		p.passed = append(p.passed, e.Test)
		delete(p.output, e.Test)
		delete(p.started, e.Test)
	case "fail":
		p.failed = append(p.failed, e.Test)
		delete(p.started, e.Test)
	case "skip":
		p.skipped[e.Test] = reason(p.output[e.Test])
		delete(p.started, e.Test)
	}
}

// addOwn takes an event of the package itself.
func (p *packageResult) addOwn(e event) *packageResult {
	switch e.Action {
	case "output":
		p.output[""] += e.Output
		p.log.WriteString(e.Output)
		return nil
	case "pass", "fail", "skip":
	default:
		return nil
	}
	p.ended, p.elapsed = true, time.Duration(e.Elapsed*float64(time.Second))
	if e.Action == "fail" {
		// A test that was running when the process ended is the one to look at.
		for test := range p.started {
			p.failed = append(p.failed, test)
		}
		if len(p.failed) == 0 {
			p.failed = []string{wholePackage}
		}
	}
	p.settle()
	return p
}

// settle takes out of the counts the tests that only hold others: a parent
// counts when it failed though none of its children did.
func (p *packageResult) settle() {
	p.passed = slices.DeleteFunc(p.passed, func(test string) bool { return p.parents[test] })
	failed := slices.Clone(p.failed)
	p.failed = slices.DeleteFunc(p.failed, func(test string) bool {
		return slices.ContainsFunc(failed, func(other string) bool { return strings.HasPrefix(other, test+"/") })
	})
	slices.Sort(p.failed)
}

func (p *packageResult) total() int { return len(p.passed) + len(p.failed) + len(p.skipped) }

// failures returns the number of failed tests.
func (s *suiteResult) failures() int {
	n := 0
	for _, p := range s.packages {
		n += len(p.failed)
	}
	return n
}

// running says which tests have been running for a while.
func (s *suiteResult) running() string {
	var now []string
	for _, p := range s.packages {
		for test, since := range p.started {
			if age := time.Since(since); !p.parents[test] && age > 10*time.Second {
				now = append(now, fmt.Sprintf("%s %s (%ds)", shorten(p.path), test, int(age.Seconds())))
			}
		}
	}
	slices.Sort(now)
	if len(now) > 3 {
		now = append(now[:3], fmt.Sprintf("and %d more", len(now)-3))
	}
	return strings.Join(now, ", ")
}

// skippedForRace returns the top-level tests of a package that have skipped,
// wholly or in a subtest, because of the race detector, and forgets the skips.
func (s *suiteResult) skippedForRace(path string) []string {
	p := s.packages[path]
	if p == nil {
		return nil
	}
	var names []string
	for test, why := range p.skipped {
		if strings.Contains(why, "race detector") {
			top, _, _ := strings.Cut(test, "/")
			names = append(names, top)
			delete(p.skipped, test)
		}
	}
	return names
}

// reason finds in a skipped test's output what it said.
func reason(output string) string {
	var words []string
	for line := range strings.Lines(output) {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "===") || strings.HasPrefix(line, "---") {
			continue
		}
		words = append(words, line)
	}
	if len(words) == 0 {
		return "no reason given"
	}
	return strings.Join(words, " ")
}

// parentOf returns the name of the test that a subtest belongs to.
func parentOf(test string) (parent string, sub bool) {
	i := strings.LastIndexByte(test, '/')
	return test[:max(i, 0)], i >= 0
}
