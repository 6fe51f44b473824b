package acceptance

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/culvertgate/culvert/internal/testkit"
)

// pump has bytes flow from the target to the opener until the test ends or the
// stream does.
func pump(t *testing.T, s stream) {
	t.Helper()
	var wg sync.WaitGroup
	wg.Go(func() { _, _ = io.Copy(io.Discard, s.near) })
	wg.Go(func() {
		for block := bytes.Repeat([]byte("x"), 16<<10); ; {
			if _, err := s.far.Write(block); err != nil {
				return
			}
		}
	})
	t.Cleanup(func() { s.close(); wg.Wait() })
}

// TestTopPlain: what is no terminal gets the table once, with the rates of what
// flows, and what is wrong is said.
func TestTopPlain(t *testing.T) {
	p := startPair(t, setup{quiet: true})
	s := p.mustOpen(startTarget(t, p.net), entryPort)
	pump(t, s)
	fast := regexp.MustCompile(`[1-9][0-9.]* [KMG]iB/s`)
	for side, caddy := range map[string]*testkit.Caddy{"gateway": p.gateway, "client": p.client} {
		address := strings.TrimPrefix(caddy.AdminURL, "http://")
		out, problems, code := p.run("top", "--address", address, "--interval", "300ms")
		lines := strings.Split(strings.TrimSpace(out), "\n")
		if code != 0 || problems != "" || len(lines) != 2 || !strings.HasPrefix(lines[0], "ID ") {
			t.Fatalf("%s: exit code %d, %s%s", side, code, out, problems)
		}
		id := onlyTunnel(t, caddy).ID
		if !strings.HasPrefix(lines[1], id+" ") || !strings.Contains(lines[1], " "+side+" ") || !fast.MatchString(lines[1]) || strings.Contains(out, "\x1b") {
			t.Errorf("%s: %q, want %s with a rate", side, lines[1], id)
		}
	}
	for _, test := range []struct{ args, want string }{
		{"--interval 100ms", "at least 200ms"},
		{"--sort colour", "rate, bytes, age, name"},
		{"--address " + loopback(1).String(), "does Caddy run here"},
	} {
		out, problems, code := p.run(append([]string{"top", "--once"}, strings.Fields(test.args)...)...)
		if code != 1 || out != "" || !strings.Contains(problems, test.want) {
			t.Errorf("%s: exit code %d, %q, %q", test.args, code, out, problems)
		}
	}
}

// TestTopTerminal: on a terminal a person sees what flows, looks into a tunnel,
// ends a stream and the tunnel, and has the terminal back as it was. A gateway that
// hangs is waited for, and one that goes is told.
func TestTopTerminal(t *testing.T) {
	p := startPair(t, setup{quiet: true})
	g := startTarget(t, p.net)
	s, other := p.mustOpen(g, entryPort), p.mustOpen(g, entryPort)
	pump(t, s)
	id := onlyTunnel(t, p.gateway).ID
	screen := p.startTop(t)
	before, err := unix.IoctlGetTermios(int(screen.line.Fd()), unix.TCGETS)
	check(t, err)
	screen.shows(t, "sorted by rate")
	screen.shows(t, id, "alice", "iB/s")

	screen.types(t, "\r") // looks into it
	screen.shows(t, "WAITS FOR", "web")
	screen.types(t, "\x1b[B\x1b[B", "k") // the second stream: the one that does nothing
	screen.shows(t, "End stream")
	screen.types(t, "n")
	check(t, other.echo())
	screen.types(t, "k", "y")
	screen.shows(t, "ended stream")
	if got := seen(other.near, patience); got != sawRST {
		t.Errorf("the opener saw %s, want %s", got, sawRST)
	}

	check(t, p.gateway.Signal(unix.SIGSTOP))
	screen.shows(t, "no answer from")
	check(t, p.gateway.Signal(unix.SIGCONT))
	screen.types(t, "\x1b[D", "k") // back to the tunnel
	screen.shows(t, "End tunnel "+id)
	screen.types(t, "y")
	screen.shows(t, "ended tunnel")
	testkit.Eventually(t, patience, func() error {
		if list, err := listTunnels(p.gateway); err != nil || len(list) > 0 {
			return fmt.Errorf("the gateway has %+v, %w", list, err)
		}
		return nil
	})
	screen.shows(t, "there is no tunnel")
	check(t, p.gateway.Stop(patience))
	screen.shows(t, "cannot reach", "trying again")
	screen.types(t, "q")
	screen.isBack(t, before)
	p.tap.search(t, "screen", screen.shown())
}

// TestTopInterrupted: Ctrl-C, and signals from elsewhere, leave the terminal as it
// was.
func TestTopInterrupted(t *testing.T) {
	p := startLoneGateway(t, setup{})
	for name, end := range map[string]func(*topScreen) error{
		"Ctrl-C":  func(s *topScreen) error { _, err := s.screen.WriteString("\x03"); return err },
		"SIGINT":  func(s *topScreen) error { return s.command.Signal(os.Interrupt) },
		"SIGTERM": func(s *topScreen) error { return s.command.Signal(unix.SIGTERM) },
	} {
		t.Run(name, func(t *testing.T) {
			screen := p.startTop(t)
			before, err := unix.IoctlGetTermios(int(screen.line.Fd()), unix.TCGETS)
			check(t, err)
			screen.shows(t, "there is no tunnel")
			check(t, end(screen))
			screen.isBack(t, before)
		})
	}
}

// topScreen is `top` on a terminal.
type topScreen struct {
	*terminal
	command *testkit.Process
}

// startTop starts `top` of the gateway on a terminal.
func (p *pair) startTop(t *testing.T) *topScreen {
	t.Helper()
	screen := openTerminal(t)
	check(t, unix.IoctlSetWinsize(int(screen.line.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: 30, Col: 160}))
	cmd := p.tunnelCommand("top", "--interval", "300ms", "--address", strings.TrimPrefix(p.gateway.AdminURL, "http://"))
	cmd.Stdin, cmd.Stdout = screen.line, screen.line
	cmd.Env = append(cmd.Environ(), "TERM=xterm-256color")
	return &topScreen{screen, testkit.StartCommand(t, "top", cmd)}
}

// shows waits until texts stand on the screen. Only what changes is drawn, but
// after a change of the terminal's size: so it is told of one for each look.
func (s *topScreen) shows(t *testing.T, texts ...string) {
	t.Helper()
	testkit.Eventually(t, patience, func() error {
		before := len(s.shown())
		check(t, s.command.Signal(unix.SIGWINCH))
		return testkit.WaitFor(time.Second, func() error {
			drawn := s.shown()[before:]
			for _, text := range texts {
				if !strings.Contains(drawn, text) {
					return fmt.Errorf("%q has not been drawn:\n%q", text, drawn)
				}
			}
			return nil
		})
	})
}

// types sends keys, one after the other, as if they were pressed.
func (s *topScreen) types(t *testing.T, keys ...string) {
	t.Helper()
	for _, k := range keys {
		_, err := s.screen.WriteString(k)
		check(t, err)
	}
}

// isBack holds that a program has ended in order and left the terminal as it was:
// its modes, the ordinary screen, a cursor.
func (s *topScreen) isBack(t *testing.T, before *unix.Termios) {
	t.Helper()
	if code, err := s.command.ExitCode(patience); err != nil || code != 0 || s.command.Log() != "" {
		t.Errorf("exit code %d, %v, it said %q", code, err, s.command.Log())
	}
	after, err := unix.IoctlGetTermios(int(s.line.Fd()), unix.TCGETS)
	check(t, err)
	if *after != *before {
		t.Errorf("the terminal's modes were %+v, are %+v", before, after)
	}
	testkit.Eventually(t, patience, func() error { // its last words may be on their way
		text := s.shown()
		for _, pair := range [][2]string{{"\x1b[?1049h", "\x1b[?1049l"}, {"\x1b[?25l", "\x1b[?25h"}} {
			if strings.LastIndex(text, pair[1]) < strings.LastIndex(text, pair[0]) || !strings.Contains(text, pair[0]) {
				return fmt.Errorf("%q is not taken back by %q", pair[0], pair[1])
			}
		}
		return nil
	})
}
