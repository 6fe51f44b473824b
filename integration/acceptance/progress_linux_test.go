package acceptance

import (
	"fmt"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/culvertgate/culvert/internal/testkit"
)

const (
	slowPort  = 8078 // the gateway, behind a door that the test opens
	clearLine = "\r\x1b[K"
)

// TestMustShow2Progress: on a terminal a person sees the step that a slow
// gateway keeps the command at, and the line goes when that is over. What is no
// terminal gets nothing of it.
func TestMustShow2Progress(t *testing.T) {
	p := startLoneGateway(t, setup{})
	g := startTarget(t, p.net)
	for _, terminal := range []bool{true, false} {
		t.Run(fmt.Sprintf("terminal %v", terminal), func(t *testing.T) {
			door := startDoor(t, p.net)
			c, shown := p.startShown(t, terminal)
			select {
			case <-door.knocked: // the command waits for the answer to its offer
			case <-time.After(patience):
				t.Fatalf("no offer:\n%s", shown())
			}
			if terminal {
				stands(t, shown, fmt.Sprintf("http://127.0.0.1:%d/tunnel: exchanging offer and answer ...", slowPort))
			}
			door.open()
			testkit.Eventually(t, patience, func() error {
				if text := shown(); !strings.Contains(text, "connected to") {
					return fmt.Errorf("not connected:\n%q", text)
				}
				return nil
			})
			s := p.openAt(g, commandPort)
			check(t, s.echo())
			s.close()
			text := shown()
			if drawn := strings.Contains(text, "\x1b") || strings.Contains(text, "exchanging"); drawn != terminal {
				t.Errorf("progress drawn: %v, want %v:\n%q", drawn, terminal, text)
			}
			if before, _, _ := strings.Cut(text, "connected to"); terminal && !strings.HasSuffix(before, clearLine) {
				t.Errorf("a progress line still stands before the news:\n%q", text)
			}
			p.tap.search(t, "screen", text)
			check(t, c.Signal(os.Interrupt))
			if code, err := c.ExitCode(patience); err != nil || code != 0 {
				t.Errorf("exit code %d, %v", code, err)
			}
		})
	}
}

// startShown starts `connect` to the slow gateway, on a terminal or not, and
// returns what a person would see.
func (p *pair) startShown(t *testing.T, terminal bool) (*testkit.Process, func() string) {
	t.Helper()
	args := append([]string{"connect"}, p.toGateway(slowPort)...)
	cmd := p.tunnelCommand(append(args, "--target", "web", "--listen", fmt.Sprint(commandPort))...)
	if !terminal {
		c := testkit.StartCommand(t, "connect", cmd)
		return c, c.Log
	}
	// StartCommand has standard error in a file; a shell puts it back, and is
	// replaced by the command.
	args = append([]string{"-c", `exec "$@" 2>&1`, "sh", p.gateway.Binary, "webrtc-tunnel"}, args...)
	shell := p.net.Command("sh", append(args, "--target", "web", "--listen", fmt.Sprint(commandPort))...)
	screen := openTerminal(t)
	shell.Dir, shell.Env, shell.Stdout = cmd.Dir, cmd.Env, screen.line
	return testkit.StartCommand(t, "connect", shell), screen.shown
}

// stands waits until a line stands on the screen, with nothing behind it.
func stands(t *testing.T, shown func() string, line string) {
	t.Helper()
	testkit.Eventually(t, patience, func() error {
		if text := shown(); !strings.HasSuffix(text, line) {
			return fmt.Errorf("%q does not stand last in %q", line, text)
		}
		return nil
	})
}

// terminal is one without a person.
type terminal struct {
	line   *os.File // what a program gets
	screen *os.File // what a person has

	mu   sync.Mutex
	text strings.Builder // guarded by mu
}

func (s *terminal) shown() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.String()
}

// openTerminal makes a terminal until the test ends (pty(7)).
func openTerminal(t *testing.T) *terminal {
	t.Helper()
	screen, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	check(t, err)
	fd := int(screen.Fd())
	check(t, unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0))
	number, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	check(t, err)
	line, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0)
	check(t, err)
	s := &terminal{line: line, screen: screen}
	read := make(chan struct{})
	go func() {
		defer close(read)
		b := make([]byte, 4096)
		for {
			n, err := screen.Read(b)
			s.mu.Lock()
			s.text.Write(b[:n])
			s.mu.Unlock()
			if err != nil {
				return // EIO: nobody has the line any more
			}
		}
	}()
	t.Cleanup(func() {
		_ = line.Close()
		<-read
		_ = screen.Close()
	})
	return s
}

// door is a way to the gateway that is shut for offers until it is opened.
type door struct {
	knocked chan struct{}
	opened  chan struct{}
	once    [2]sync.Once
}

func startDoor(t *testing.T, n *testkit.Namespace) *door {
	t.Helper()
	d := &door{knocked: make(chan struct{}), opened: make(chan struct{})}
	transport := &http.Transport{DialContext: n.DialContext}
	proxy := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: loopback(tapPort).String()})
	proxy.Transport = transport
	server := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost {
			d.once[0].Do(func() { close(d.knocked) })
			<-d.opened
		}
		proxy.ServeHTTP(w, r)
	})}
	l, err := n.Listen("tcp", loopback(slowPort).String())
	check(t, err)
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = server.Serve(l) // until it is closed
	}()
	t.Cleanup(func() {
		d.open()
		_ = server.Close()
		<-served
		transport.CloseIdleConnections()
	})
	return d
}

func (d *door) open() { d.once[1].Do(func() { close(d.opened) }) }
