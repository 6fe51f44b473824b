package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"
)

const modulePath = "github.com/culvertgate/culvert"

// suite is one invocation of go test.
type suite struct {
	name     string
	dir      string // of the module
	packages []goPackage
	race     bool
	parallel bool          // packages at the same time
	shuffle  bool          // tests in random order
	timeout  time.Duration // of one package
	run      string        // expression for the tests, empty: all
}

// goPackage is what we need of go list.
type goPackage struct {
	ImportPath   string
	Dir          string
	TestGoFiles  []string
	XTestGoFiles []string

	unraced []string // names of tests that exist only without the race detector
}

func (p goPackage) tests() []string { return slices.Concat(p.TestGoFiles, p.XTestGoFiles) }

// shorten returns the import path below the module.
func shorten(importPath string) string {
	if importPath == modulePath {
		return "culvert"
	}
	return strings.TrimPrefix(importPath, modulePath+"/")
}

// suites in the order in which they run; the first whose folders hold a
// package's path takes it ("" is the module's root, "*" everything).
var order = []struct {
	suite
	folders []string
}{
	{suite{name: "leaf", race: true, parallel: true, shuffle: true, timeout: 8 * time.Minute}, []string{"*"}},
	{suite{name: "caddy", race: true, parallel: true, timeout: 8 * time.Minute}, []string{"", "cmd", "dist", "docs"}},
	{suite{name: "system", race: true, timeout: 18 * time.Minute}, []string{"internal/testkit", "integration", "bench"}},
}

// suiteOf returns the index in order of the suite that a package belongs to.
func suiteOf(importPath string) int {
	below := strings.TrimPrefix(strings.TrimPrefix(importPath, modulePath), "/")
	for i := len(order) - 1; i > 0; i-- {
		for _, folder := range order[i].folders {
			if below == folder || folder != "" && strings.HasPrefix(below, folder+"/") {
				return i
			}
		}
	}
	return 0
}

// plan lists the packages that match the patterns (all, if there are none) and
// sorts them into suites. Suites without packages are left out.
func plan(ctx context.Context, patterns []string) ([]suite, error) {
	whole := len(patterns) == 0
	if whole {
		patterns = []string{"./..."}
	}
	packages, err := list(ctx, ".", patterns)
	if err != nil {
		return nil, err
	}
	suites := make([]suite, len(order))
	for i := range order {
		suites[i] = order[i].suite
		suites[i].dir = "."
	}
	for _, p := range packages {
		if i := suiteOf(p.ImportPath); len(p.tests()) > 0 || len(p.unraced) > 0 {
			suites[i].packages = append(suites[i].packages, p)
		}
	}
	if whole {
		tools := suite{name: "tools", dir: "tools", parallel: true, shuffle: true, timeout: 5 * time.Minute}
		if tools.packages, err = list(ctx, "tools", []string{"./..."}); err != nil {
			return nil, err
		}
		suites = append(suites, tools)
	}
	suites = slices.DeleteFunc(suites, func(s suite) bool { return len(s.packages) == 0 })
	if len(suites) == 0 {
		return nil, fmt.Errorf("no package with tests matches %s", strings.Join(patterns, " "))
	}
	return suites, nil
}

// list asks go list twice, with and without the race detector: files that only
// the second answer has hold tests that must be run without it.
func list(ctx context.Context, dir string, patterns []string) ([]goPackage, error) {
	raced, err := goList(ctx, dir, append([]string{"-race"}, patterns...))
	if err != nil {
		return nil, err
	}
	plain, err := goList(ctx, dir, patterns)
	if err != nil {
		return nil, err
	}
	with := map[string][]string{}
	for _, p := range raced {
		with[p.ImportPath] = p.tests()
	}
	for i, p := range plain {
		var only []string
		for _, file := range p.tests() {
			if !slices.Contains(with[p.ImportPath], file) {
				only = append(only, filepath.Join(p.Dir, file))
			}
		}
		if plain[i].unraced, err = testNames(only); err != nil {
			return nil, err
		}
	}
	return plain, nil
}

func goList(ctx context.Context, dir string, args []string) ([]goPackage, error) {
	cmd := exec.CommandContext(ctx, "go", append([]string{"list", "-json=ImportPath,Dir,TestGoFiles,XTestGoFiles"}, args...)...)
	cmd.Dir = dir
	out, err := cmd.Output()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return nil, fmt.Errorf("go list in %s: %s", dir, exit.Stderr)
	}
	if err != nil {
		return nil, err
	}
	var packages []goPackage
	for d := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p goPackage
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			return packages, nil
		} else if err != nil {
			return nil, err
		}
		packages = append(packages, p)
	}
}

// testNames returns the test functions that are declared in the files.
func testNames(files []string) ([]string, error) {
	var names []string
	for _, file := range files {
		f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.SkipObjectResolution)
		if err != nil {
			return nil, err
		}
		for _, d := range f.Decls {
			fn, ok := d.(*ast.FuncDecl)
			if ok && fn.Recv == nil && strings.HasPrefix(fn.Name.Name, "Test") && fn.Name.Name != "TestMain" {
				names = append(names, fn.Name.Name)
			}
		}
	}
	return names, nil
}

// withoutRace returns the suite of the tests that need a build without the race
// detector: by their file, or because they have skipped themselves saying so.
func withoutRace(suites []suite, results []*suiteResult, only string) suite {
	s := suite{name: "no race", dir: ".", timeout: 18 * time.Minute}
	wanted, err := regexp.Compile(only)
	if err != nil {
		return s // go test has refused the expression already
	}
	var names []string
	for i, from := range suites {
		if !from.race {
			continue
		}
		for _, p := range from.packages {
			tests := slices.Concat(p.unraced, results[i].skippedForRace(p.ImportPath))
			tests = slices.DeleteFunc(tests, func(name string) bool { return !wanted.MatchString(name) })
			if len(tests) > 0 {
				s.packages = append(s.packages, p)
				names = append(names, tests...)
			}
		}
	}
	slices.Sort(names)
	s.run = "^(" + strings.Join(slices.Compact(names), "|") + ")$"
	return s
}
