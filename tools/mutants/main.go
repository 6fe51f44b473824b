// Command mutants proves that the tests find bugs: it plants one committed
// patch after the other and expects the tests to fail.
//
//	mutants [-limit 60s] [-run name] folder
//
// It is started at the top of the repository, whose files it does not touch:
// the patched ones go to the compiler as an overlay. Each *.patch of the folder
// is a diff with paths from the top (a/tunnel/stream.go), below a header of two
// lines:
//
//	Bug: the wake-up of a stalled sender is lost
//	Test: ./tunnel -run TestModel
//
// The tests of the Test line must pass without the patch, and must fail with it
// within the limit, compiling included only for the first. A patch that does not
// apply or does not compile is an error: it must follow the code. So is a bug that
// the model test finds without telling with which seed. Tests that hang until the
// limit find a bug weakly, since a slow machine looks alike: that is reported.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"time"
)

func main() {
	limit := flag.Duration("limit", time.Minute, "within which the tests must find a bug")
	only := flag.String("run", "", "only patches whose file name contains this")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, *limit, *only, flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, "mutants:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, limit time.Duration, only string, folders []string) error {
	if len(folders) != 1 {
		return errors.New("give the folder of the patches")
	}
	files, err := filepath.Glob(filepath.Join(folders[0], "*.patch"))
	if err != nil {
		return err
	}
	baseline := map[string]bool{}
	tried, missed, hung := 0, []string{}, []string{}
	for _, file := range files {
		if !strings.Contains(filepath.Base(file), only) {
			continue
		}
		m, err := readMutant(file)
		if err != nil {
			return err
		}
		if !baseline[m.key()] {
			fmt.Printf("     without a bug: go test %s\n", m.key())
			if out, err := m.test(ctx, "", 3*limit); err != nil {
				return fmt.Errorf("the tests must pass without a bug:\n%s", out)
			}
			baseline[m.key()] = true
		}
		tried++
		found, err := try(ctx, m, limit)
		switch {
		case err != nil:
			return err
		case found == notFound:
			missed = append(missed, m.name)
		case found == foundByHanging:
			hung = append(hung, m.name)
		}
	}
	fmt.Printf("mutants: %d passed, %d failed\n", tried-len(missed), len(missed))
	if len(hung) > 0 {
		fmt.Printf("mutants: %d of them found by a time-out only: %s\n", len(hung), strings.Join(hung, ", "))
	}
	if len(missed) > 0 {
		return fmt.Errorf("not found by the tests: %s", strings.Join(missed, ", "))
	}
	if tried == 0 {
		return fmt.Errorf("no patch in %s", folders[0])
	}
	return nil
}

// find is how the tests took a bug.
type find uint8

const (
	notFound       find = iota
	found               // a test failed
	foundByHanging      // the tests did not end within the limit
)

// try plants one bug and reports whether the tests have found it.
func try(ctx context.Context, m mutant, limit time.Duration) (find, error) {
	overlay, remove, err := m.overlay(ctx)
	if err != nil {
		return notFound, err
	}
	defer remove()
	if out, err := m.compile(ctx, overlay); err != nil {
		return notFound, fmt.Errorf("%s does not compile:\n%s", m.file, out)
	}
	start := time.Now()
	out, err := m.test(ctx, overlay, limit)
	took := time.Since(start).Round(100 * time.Millisecond)
	if ctx.Err() != nil {
		return notFound, ctx.Err()
	}
	if err == nil {
		fmt.Printf("MISS %-32s %8s  %s\n", m.name, took, m.bug)
		return notFound, nil
	}
	weak, err := judge(out)
	if err != nil {
		return notFound, fmt.Errorf("%s: %w", m.name, err)
	}
	how, result := "ok  ", found
	if weak {
		how, result = "weak", foundByHanging
	}
	fmt.Printf("%s %-32s %8s  %s\n", how, m.name, took, m.bug)
	for _, line := range telling(out) {
		fmt.Println("       ", line)
	}
	return result, nil
}

// judge reads the output of tests that failed: weak, if they only hung. It is an
// error when the model test was it, and nothing says with which seed.
func judge(out string) (weak bool, err error) {
	weak = strings.Contains(out, "panic: test timed out after")
	model := strings.Contains(out, "--- FAIL: TestModel") || // failed
		strings.Contains(out, "\t\tTestModel") || // ran when the time was over
		strings.Contains(out, ".TestModel.") // panicked
	if model && !strings.Contains(out, "CULVERT_SEED=") {
		return weak, fmt.Errorf("found by the model test without a seed:\n%s", out)
	}
	return weak, nil
}

// telling returns the lines that say which test has found it and with which
// seed, at most four. Of the worlds that the model test has begun it is the last.
func telling(out string) []string {
	var lines []string
	for line := range strings.Lines(out) {
		line = strings.TrimSpace(line)
		world := strings.HasPrefix(line, "TestModel: ")
		if last := len(lines) - 1; world && last >= 0 && strings.HasPrefix(lines[last], "TestModel: ") {
			lines = lines[:last]
		}
		if world || strings.HasPrefix(line, "--- FAIL") || strings.Contains(line, "seed") || strings.Contains(line, "SEED=") || strings.HasPrefix(line, "panic:") {
			lines = append(lines, line)
		}
	}
	return lines[:min(4, len(lines))]
}
