package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// mutant is one patch.
type mutant struct {
	name string   // of the file, without its ending
	file string   // path of the patch
	bug  string   // what it plants
	args []string // of go test
	hits []string // files that it changes, from the top of the repository
}

// readMutant parses the header and the paths of a patch.
func readMutant(file string) (mutant, error) {
	m := mutant{name: strings.TrimSuffix(filepath.Base(file), ".patch"), file: file}
	text, err := os.ReadFile(file)
	if err != nil {
		return m, err
	}
	for line := range strings.Lines(string(text)) {
		line = strings.TrimRight(line, "\r\n")
		if bug, ok := strings.CutPrefix(line, "Bug: "); ok {
			m.bug = bug
		} else if test, ok := strings.CutPrefix(line, "Test: "); ok {
			m.args = strings.Fields(test)
		} else if path, ok := strings.CutPrefix(line, "--- a/"); ok {
			m.hits = append(m.hits, path)
		}
	}
	if m.bug == "" || len(m.args) == 0 || len(m.hits) == 0 {
		return m, fmt.Errorf("%s: needs a line 'Bug: TEXT', a line 'Test: PACKAGE [-run EXPRESSION]' and a diff with paths below a/ and b/", file)
	}
	return m, nil
}

func (m mutant) key() string { return strings.Join(m.args, " ") }

// overlay makes patched copies of the files and returns the file that tells the
// compiler of them (go help build, -overlay). remove deletes them.
func (m mutant) overlay(ctx context.Context) (file string, remove func(), err error) {
	dir, err := os.MkdirTemp("", "mutant")
	if err != nil {
		return "", nil, err
	}
	defer func() {
		if err != nil {
			_ = os.RemoveAll(dir)
		}
	}()
	replace := map[string]string{}
	for _, hit := range m.hits {
		text, err := os.ReadFile(hit)
		if err != nil {
			return "", nil, fmt.Errorf("%s: %w", m.file, err)
		}
		from, err := filepath.Abs(hit)
		if err != nil {
			return "", nil, err
		}
		to := filepath.Join(dir, hit)
		if err := errors.Join(os.MkdirAll(filepath.Dir(to), 0o755), os.WriteFile(to, text, 0o600)); err != nil {
			return "", nil, err
		}
		replace[from] = to
	}
	patch, err := filepath.Abs(m.file)
	if err != nil {
		return "", nil, err
	}
	apply := exec.CommandContext(ctx, "git", "apply", "--recount", patch)
	apply.Dir = dir // not inside the repository: plain files are patched
	apply.Env = append(os.Environ(), "GIT_CEILING_DIRECTORIES="+filepath.Dir(dir))
	if out, err := apply.CombinedOutput(); err != nil {
		return "", nil, fmt.Errorf("%s does not apply any more: %s", m.file, out)
	}
	list, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		return "", nil, err
	}
	file = filepath.Join(dir, "overlay.json")
	return file, func() { _ = os.RemoveAll(dir) }, os.WriteFile(file, list, 0o600)
}

// compile builds the tests without running one.
func (m mutant) compile(ctx context.Context, overlay string) (string, error) {
	out, err := exec.CommandContext(ctx, "go", append([]string{"test", "-overlay", overlay, "-exec", "true"}, m.args...)...).CombinedOutput()
	return string(out), err
}

// test runs the mutant's tests; overlay may be empty. Hanging counts as failing.
func (m mutant) test(ctx context.Context, overlay string, limit time.Duration) (string, error) {
	args := []string{"test", "-count=1", "-failfast", "-timeout", limit.String()}
	if overlay != "" {
		args = append(args, "-overlay", overlay)
	}
	out, err := exec.CommandContext(ctx, "go", append(args, m.args...)...).CombinedOutput()
	return string(out), err
}
