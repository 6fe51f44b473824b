// Command testrun runs every test of the repository and prints one summary.
//
//	testrun [-run regexp] [-logs folder] [package pattern ...]
//
// It is started at the top of the repository. The suites are: leaf (packages
// without a running Caddy, in parallel), caddy (the module's root), system
// (real peers and processes, one package after the other, since they measure),
// tools. All run with the race detector; tests that a build constraint keeps
// out of such builds (or that skip themselves there, saying so) are then run
// without it: allocation, memory and speed gates. The whole output of a package
// goes to a file of the logs folder. In CI (environment variable CI) a skip in
// the system suite is a failure, and so is one that says that something is
// missing.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"
)

func main() {
	run := flag.String("run", "", "run only tests that match this expression, as in go test")
	logs := flag.String("logs", ".cache/logs", "folder for the output of each package")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	ok, err := runAll(ctx, *run, *logs, flag.Args())
	if err != nil {
		fmt.Fprintln(os.Stderr, "testrun:", err)
	}
	if !ok || err != nil {
		os.Exit(1)
	}
}

// runAll reports whether everything passed. An error means that tests could not
// be run at all.
func runAll(ctx context.Context, only, logs string, patterns []string) (bool, error) {
	start := time.Now()
	if err := os.MkdirAll(logs, 0o755); err != nil {
		return false, err
	}
	fmt.Println("== listing packages")
	suites, err := plan(ctx, patterns)
	if err != nil {
		return false, err
	}
	r := &runner{only: only, logs: logs, out: os.Stdout, ci: os.Getenv("CI") != "", sources: newSources(suites)}
	fmt.Println("== compiling (the first time on a machine: several minutes)")
	r.compile(ctx, suites)
	var results []*suiteResult
	for _, s := range suites {
		results = append(results, r.suite(ctx, s))
	}
	if s := withoutRace(suites, results, only); len(s.packages) > 0 {
		results = append(results, r.suite(ctx, s))
	}
	summary := summarize(results, r.ci)
	summary.print(os.Stdout, time.Since(start), logs)
	return summary.failed == 0 && ctx.Err() == nil, ctx.Err()
}
