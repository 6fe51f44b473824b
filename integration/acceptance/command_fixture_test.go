package acceptance

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/culvertgate/culvert/internal/testkit"
)

// startLoneGateway starts a pair's gateway; what it serves are commands.
func startLoneGateway(t *testing.T, s setup) *pair {
	t.Helper()
	p := &pair{t: t, setup: s, net: testkit.NewNamespace(t)}
	p.tap = startTap(t, p.net)
	p.tap.plant("bearer", bearer)
	t.Cleanup(p.searchLogs)
	p.startGateway()
	t.Cleanup(p.searchLive)
	return p
}

// tunnelCommand prepares `caddy webrtc-tunnel ARGS` inside the pair's network.
func (p *pair) tunnelCommand(args ...string) *exec.Cmd {
	return p.gateway.Command(p.net, append([]string{"webrtc-tunnel"}, args...)...)
}

// toGateway are the flags of a command that lead to the gateway at a port, as
// alice.
func (p *pair) toGateway(port int) []string {
	p.t.Helper()
	token := filepath.Join(p.t.TempDir(), "token")
	check(p.t, os.WriteFile(token, []byte(bearer+"\n"), 0o600))
	return []string{"--url", fmt.Sprintf("http://127.0.0.1:%d/tunnel", port), "--token-file", token}
}

// startConnect starts `connect` with more flags.
func (p *pair) startConnect(more ...string) *testkit.Process {
	p.t.Helper()
	args := append([]string{"connect"}, p.toGateway(tapPort)...)
	return testkit.StartCommand(p.t, "connect", p.tunnelCommand(append(args, more...)...))
}

// run runs a command to its end and returns what it wrote, and its exit code.
func (p *pair) run(args ...string) (stdout, stderr string, code int) {
	p.t.Helper()
	cmd := p.tunnelCommand(args...)
	var out, problems strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &problems
	err := cmd.Run()
	if _, exited := errors.AsType[*exec.ExitError](err); err != nil && !exited {
		p.t.Fatal(err)
	}
	p.tap.search(p.t, "output of "+args[0], out.String()+problems.String())
	return out.String(), problems.String(), cmd.ProcessState.ExitCode()
}

// says waits for a text in what a process has written.
func says(t *testing.T, c *testkit.Process, text string) {
	t.Helper()
	testkit.Eventually(t, patience, func() error {
		select {
		case <-c.Done():
			return fmt.Errorf("it has ended without %q:\n%s", text, c.Log())
		default:
		}
		if log := c.Log(); !strings.Contains(log, text) {
			return fmt.Errorf("it has not said %q:\n%s", text, log)
		}
		return nil
	})
}

// openAt is pair.open for a local port of a command.
func (p *pair) openAt(g *target, port int) stream {
	p.t.Helper()
	near := must[*net.TCPConn](p.t)(p.dial(port))
	s := must[stream](p.t)(g.join(near))
	p.t.Cleanup(s.close)
	return s
}

// listed returns the lines that `list` shows of the gateway's tunnels.
func (p *pair) listed() ([]string, error) {
	out, problems, code := p.run("list", "--address", strings.TrimPrefix(p.gateway.AdminURL, "http://"))
	if code != 0 {
		return nil, fmt.Errorf("list: exit code %d: %s", code, problems)
	}
	lines := strings.Split(strings.TrimSpace(out), "\n")
	if !strings.HasPrefix(lines[0], "ID ") {
		return nil, fmt.Errorf("list shows no headings:\n%s", out)
	}
	return lines[1:], nil
}

// noneListed reports an error while `list` shows a tunnel.
func (p *pair) noneListed() error {
	lines, err := p.listed()
	if err == nil && len(lines) > 0 {
		err = fmt.Errorf("list shows tunnels:\n%s", strings.Join(lines, "\n"))
	}
	return err
}
