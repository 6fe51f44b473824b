package testkit

import (
	"errors"
	"fmt"
	"os/exec"
	"testing"
	"time"
)

// StartCommand starts a prepared program, such as Caddy.Command. What it writes
// to standard error, and to standard output unless that is set, is its Log. At
// the end of the test it is killed if it still runs.
func StartCommand(t testing.TB, name string, cmd *exec.Cmd) *Process {
	t.Helper()
	p, err := startProcess(name, t.TempDir(), cmd)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		p.Kill()
		p.logOnFailure(t)
	})
	return p
}

// ExitCode waits until the process has ended by itself and returns its exit
// status. The end by a signal is an error, and so is none within timeout.
func (p *Process) ExitCode(timeout time.Duration) (int, error) {
	select {
	case <-p.done:
	case <-time.After(timeout):
		return 0, fmt.Errorf("%s has not ended within %v:\n%s", p.name, timeout, tail(p.Log(), 4<<10))
	}
	exit, failed := errors.AsType[*exec.ExitError](p.err)
	switch {
	case p.err == nil:
		return 0, nil
	case failed && exit.Exited():
		return exit.ExitCode(), nil
	default:
		return 0, fmt.Errorf("%s: %w", p.name, p.err)
	}
}
