package testkit

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// Process is a child process whose output goes to a file. It is killed when
// this process dies. All methods are safe for concurrent use.
type Process struct {
	name    string
	cmd     *exec.Cmd
	logFile string
	done    chan struct{}
	err     error // of Wait; read after done
}

// startProcess starts cmd with stderr, and stdout unless cmd has one already,
// appended to dir/name.log.
func startProcess(name, dir string, cmd *exec.Cmd) (*Process, error) {
	p := &Process{name: name, cmd: cmd, logFile: filepath.Join(dir, name+".log"), done: make(chan struct{})}
	log, err := os.OpenFile(p.logFile, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("starting %s: %w", name, err)
	}
	defer log.Close() // the child has its own descriptor
	cmd.Stderr = log
	if cmd.Stdout == nil {
		cmd.Stdout = log
	}
	cmd.SysProcAttr = dieWithParent()
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("starting %s: %w", name, err)
	}
	go func() {
		defer close(p.done)
		p.err = cmd.Wait()
	}()
	return p, nil
}

// PID returns the number of the process.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Done is closed when the process has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Log returns what the process has written so far.
func (p *Process) Log() string {
	text, err := os.ReadFile(p.logFile)
	if err != nil {
		return "(log unreadable: " + err.Error() + ")"
	}
	return string(text)
}

// ended returns an error when the process is over, for those who wait for it to
// become ready.
func (p *Process) ended() error {
	select {
	case <-p.done:
		return fmt.Errorf("%s has ended (%w):\n%s", p.name, p.outcome(), p.Log())
	default:
		return nil
	}
}

// outcome is how the process has ended.
func (p *Process) outcome() error {
	if p.err == nil {
		return errors.New("status 0")
	}
	return p.err
}

// Signal sends one; it is not an error if the process is over.
func (p *Process) Signal(s os.Signal) error {
	if err := p.cmd.Process.Signal(s); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	return nil
}

// Kill ends the process with SIGKILL and waits for that.
func (p *Process) Kill() {
	_ = p.Signal(syscall.SIGKILL)
	<-p.done
}

// Stop asks the process to end (SIGTERM), waits, and kills it after timeout,
// which is an error; so is a bad exit status that is not the signal's.
func (p *Process) Stop(timeout time.Duration) error {
	if err := p.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	select {
	case <-p.done:
	case <-time.After(timeout):
		p.Kill()
		return fmt.Errorf("%s did not end within %v of SIGTERM", p.name, timeout)
	}
	if exit, ok := errors.AsType[*exec.ExitError](p.err); ok {
		if ws, ok := exit.Sys().(syscall.WaitStatus); ok && ws.Signaled() && ws.Signal() == syscall.SIGTERM {
			return nil
		}
	}
	return p.err
}

// logOnFailure prints the process's log when the test has failed.
func (p *Process) logOnFailure(t testing.TB) {
	if t.Failed() {
		t.Logf("log of %s:\n%s", p.name, tail(p.Log(), 16<<10))
	}
}

// tail returns the last n bytes of text.
func tail(text string, n int) string {
	if len(text) <= n {
		return text
	}
	return "...\n" + text[len(text)-n:]
}

// commandIn prepares a program, inside n unless that is nil.
func commandIn(n *Namespace, name string, args ...string) *exec.Cmd {
	if n == nil {
		return exec.Command(name, args...)
	}
	return n.Command(name, args...)
}
