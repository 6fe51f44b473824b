package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// runner starts go test and shows what happens.
type runner struct {
	only    string
	logs    string
	out     io.Writer
	ci      bool
	sources *sources
}

// compile builds the tests of all suites, with all cores, before any of them is
// timed. Failures are not reported here: the suite itself reports them.
func (r *runner) compile(ctx context.Context, suites []suite) {
	for _, s := range suites {
		args := append(s.flags(), "-exec", "true")
		cmd := s.command(ctx, append(args, s.paths()...))
		_ = cmd.Run()
	}
}

// flags returns those that decide what is compiled.
func (s suite) flags() []string {
	if s.race {
		return []string{"-race"}
	}
	return nil
}

func (s suite) paths() []string {
	paths := make([]string, 0, len(s.packages))
	for _, p := range s.packages {
		paths = append(paths, p.ImportPath)
	}
	return paths
}

func (s suite) command(ctx context.Context, args []string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "go", append([]string{"test"}, args...)...)
	cmd.Dir = s.dir
	// go test ends its test binaries when it is interrupted.
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 20 * time.Second
	return cmd
}

// suite runs one and waits for its end.
func (r *runner) suite(ctx context.Context, s suite) *suiteResult {
	fmt.Fprintf(r.out, "== %s: %d packages\n", s.name, len(s.packages))
	args := append(s.flags(), "-json", "-count=1", "-timeout", s.timeout.String())
	if !s.parallel {
		args = append(args, "-p", "1")
	}
	if s.shuffle {
		args = append(args, "-shuffle", "on")
	}
	switch {
	case s.run != "":
		args = append(args, "-run", s.run)
	case r.only != "":
		args = append(args, "-run", r.only)
	}
	result := newSuiteResult(s.name)
	start := time.Now()
	cmd := s.command(ctx, append(args, s.paths()...))
	var problems bytes.Buffer
	cmd.Stderr = &problems
	output, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err == nil {
		r.follow(output, result)
		err = cmd.Wait()
	}
	result.took = time.Since(start)
	if err != nil && result.failures() == 0 {
		result.broken = fmt.Sprintf("go test: %v\n%s", err, problems.String())
		fmt.Fprintf(r.out, "FAIL %s\n", result.broken)
	}
	return result
}

// follow reads the events to the end. A line is printed for each package, and
// every half minute one that says what is running.
func (r *runner) follow(output io.Reader, result *suiteResult) {
	lines := make(chan string)
	go func() {
		defer close(lines)
		reader := bufio.NewReader(output) // lines have no limit
		for {
			line, err := reader.ReadString('\n')
			if line != "" {
				lines <- line
			}
			if err != nil {
				return
			}
		}
	}()
	alive := time.NewTicker(30 * time.Second)
	defer alive.Stop()
	for {
		select {
		case line, ok := <-lines:
			if !ok {
				return
			}
			var e event
			if err := json.Unmarshal([]byte(line), &e); err != nil {
				e = event{Action: "output", Output: line}
			}
			if p := result.add(e); p != nil {
				r.finished(p)
			}
		case <-alive.C:
			if now := result.running(); now != "" {
				fmt.Fprintf(r.out, "     ... %s\n", now)
			}
		}
	}
}

// finished prints a package's line and its failures, and writes its log.
func (r *runner) finished(p *packageResult) {
	word := "ok  "
	if len(p.failed) > 0 {
		word = "FAIL"
	}
	fmt.Fprintf(r.out, "%s %-32s %4d tests  %6.1fs", word, shorten(p.path), p.total(), p.elapsed.Seconds())
	if n := len(p.skipped); n > 0 {
		fmt.Fprintf(r.out, "  (%d skipped)", n)
	}
	fmt.Fprintln(r.out)
	if len(p.failed) > 0 {
		r.sources.headlines(p)
		r.sources.explain(r.out, p)
	}
	file := filepath.Join(r.logs, strings.ReplaceAll(shorten(p.path), "/", "_")+".log")
	if err := os.WriteFile(file, []byte(p.log.String()), 0o600); err != nil {
		fmt.Fprintf(r.out, "     (log not written: %v)\n", err)
	}
}
