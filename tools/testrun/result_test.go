package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// feed gives a suite the events of go test -json, one a line.
func feed(t *testing.T, name, events string) *suiteResult {
	t.Helper()
	s := newSuiteResult(name)
	for line := range strings.Lines(strings.TrimSpace(events)) {
		var e event
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatal(err)
		}
		s.add(e)
	}
	return s
}

const mixed = `
{"Action":"run","Package":"p","Test":"TestA"}
{"Action":"run","Package":"p","Test":"TestA/one"}
{"Action":"pass","Package":"p","Test":"TestA/one"}
{"Action":"output","Package":"p","Test":"TestA/two","Output":"    a_test.go:3: wrong\n"}
{"Action":"fail","Package":"p","Test":"TestA/two"}
{"Action":"fail","Package":"p","Test":"TestA"}
{"Action":"pass","Package":"p","Test":"TestB"}
{"Action":"output","Package":"p","Test":"TestC","Output":"=== RUN   TestC\n"}
{"Action":"output","Package":"p","Test":"TestC","Output":"    a_test.go:9: missing: sshd (make setup installs it)\n"}
{"Action":"output","Package":"p","Test":"TestC","Output":"--- SKIP: TestC (0.00s)\n"}
{"Action":"skip","Package":"p","Test":"TestC"}
{"Action":"output","Package":"p","Test":"TestD","Output":"    a_test.go:9: the race detector allocates\n"}
{"Action":"skip","Package":"p","Test":"TestD/sub"}
{"Action":"output","Package":"p","Output":"FAIL\n"}
{"Action":"fail","Package":"p","Elapsed":1.5}
`

func TestCountsAreOfTestsThatTestSomething(t *testing.T) {
	p := feed(t, "leaf", mixed).packages["p"]
	if !slices.Equal(p.failed, []string{"TestA/two"}) || !slices.Equal(slices.Sorted(slices.Values(p.passed)), []string{"TestA/one", "TestB"}) {
		t.Errorf("failed %q, passed %q", p.failed, p.passed)
	}
	if got := p.skipped["TestC"]; got != "a_test.go:9: missing: sshd (make setup installs it)" {
		t.Errorf("reason of the skip: %q", got)
	}
	if !strings.Contains(p.output["TestA/two"], "wrong") || p.elapsed != 1500*time.Millisecond {
		t.Errorf("output %q, time %v", p.output["TestA/two"], p.elapsed)
	}
}

func TestEndsThatNoTestReports(t *testing.T) {
	for _, test := range []struct{ name, events, failed, output string }{
		{"compiler",
			`{"Action":"build-output","ImportPath":"p [p.test]","Output":"./a.go:1: undefined: x\n"}
			 {"Action":"start","Package":"p"}
			 {"Action":"fail","Package":"p","FailedBuild":"p [p.test]"}`, "(package)", "undefined: x"},
		{"panic",
			`{"Action":"run","Package":"p","Test":"TestA"}
			 {"Action":"output","Package":"p","Output":"panic: test timed out after 1s\n"}
			 {"Action":"fail","Package":"p"}`, "TestA", "timed out"},
		{"leak after the tests",
			`{"Action":"pass","Package":"p","Test":"TestA"}
			 {"Action":"output","Package":"p","Output":"goleak: errors on successful test run\n"}
			 {"Action":"fail","Package":"p"}`, "(package)", "goleak"},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := feed(t, "leaf", strings.ReplaceAll(test.events, "\t", ""))
			p := s.packages["p"]
			var shown strings.Builder
			noSources.explain(&shown, p)
			noSources.headlines(p)
			if !slices.Equal(p.failed, []string{test.failed}) || !strings.Contains(shown.String(), test.output) || !strings.Contains(p.why[test.failed], test.output) {
				t.Errorf("failed %q because of %q, shown as\n%s", p.failed, p.why, shown.String())
			}
		})
	}
}

func TestSummaryInCIMakesSkipsOfRealPeersFail(t *testing.T) {
	for _, test := range []struct {
		suite           string
		ci              bool
		failed, skipped int
	}{
		{"leaf", false, 1, 2}, {"leaf", true, 2, 1}, {"system", false, 1, 2}, {"system", true, 3, 0},
	} {
		t.Run(fmt.Sprintf("%s ci=%v", test.suite, test.ci), func(t *testing.T) {
			sum := summarize([]*suiteResult{feed(t, test.suite, mixed)}, test.ci)
			if sum.passed != 2 || sum.failed != test.failed || sum.skipped != test.skipped {
				t.Errorf("%d passed, %d failed, %d skipped", sum.passed, sum.failed, sum.skipped)
			}
			var out strings.Builder
			sum.print(&out, time.Second, "logs")
			want := fmt.Sprintf("\nculvert: 2 passed, %d failed, %d skipped\n", test.failed, test.skipped)
			if !strings.HasSuffix(out.String(), want) {
				t.Errorf("last line of\n%s\nis not %q", out.String(), want)
			}
		})
	}
}

func TestPackageThatDoesNotEndFails(t *testing.T) {
	s := feed(t, "leaf", `{"Action":"start","Package":"p"}`)
	if sum := summarize([]*suiteResult{s}, false); sum.failed != 1 {
		t.Errorf("%d failed", sum.failed)
	}
}

func TestSuitesOfPackages(t *testing.T) {
	for path, want := range map[string]string{
		"":                        "caddy",
		"/cmd/caddy":              "caddy",
		"/docs":                   "caddy",
		"/tunnel":                 "leaf",
		"/tunnel/reactor":         "leaf",
		"/internal/other":         "leaf",
		"/internal/testkit":       "system",
		"/integration":            "system",
		"/integration/interop":    "system",
		"/integrationlike":        "leaf",
		"/something/not/yet/made": "leaf",
	} {
		if got := order[suiteOf(modulePath+path)].name; got != want {
			t.Errorf("%q is in suite %s, want %s", path, got, want)
		}
	}
}

func TestTestsOutsideRaceBuildsAreFoundAndRun(t *testing.T) {
	t.Chdir(t.TempDir())
	for name, text := range map[string]string{
		"go.mod":       "module " + modulePath + "\n\ngo 1.26.0\n",
		"a_test.go":    "package a\n\nimport \"testing\"\n\nfunc TestMain(m *testing.M) { m.Run() }\nfunc TestBoth(t *testing.T) {}\nfunc TestSkips(t *testing.T) { t.Skip(\"not with the race detector\") }\n",
		"gate_test.go": "//go:build !race\n\npackage a\n\nimport \"testing\"\n\nfunc TestGate(t *testing.T) {}\n",
	} {
		if err := os.WriteFile(filepath.Join(".", name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	packages, err := list(t.Context(), ".", []string{"./..."})
	if err != nil || len(packages) != 1 {
		t.Fatalf("%v, %v", packages, err)
	}
	result := newSuiteResult("leaf")
	result.packages[modulePath] = &packageResult{skipped: map[string]string{"TestSkips": "not with the race detector", "TestOther": "missing: root"}}
	s := withoutRace([]suite{{race: true, packages: packages}}, []*suiteResult{result}, "")
	if s.run != "^(TestGate|TestSkips)$" || len(s.packages) != 1 || len(result.packages[modulePath].skipped) != 1 {
		t.Errorf("runs %s in %v; skips left %v", s.run, s.packages, result.packages[modulePath].skipped)
	}
	if s := withoutRace([]suite{{race: true, packages: packages}}, []*suiteResult{newSuiteResult("")}, "Both"); len(s.packages) != 0 {
		t.Errorf("an expression that matches none: %+v", s)
	}
}
