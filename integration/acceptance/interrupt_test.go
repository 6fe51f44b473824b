package acceptance

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/culvertgate/culvert/internal/testkit"
)

const (
	commandPort  = 2200            // where a command of the test listens
	atOnce       = 3 * time.Second // well below the 10 s that a drain may take
	afterSignal  = 4 << 20         // bytes each way behind the first Ctrl-C
	ctrlCMessage = "press Ctrl-C again to end at once"
)

// interrupts are the two ways of having a stream.
var interrupts = []struct {
	name string
	open func(*testing.T, *pair, *target) (*testkit.Process, pipe)
}{
	{"listen", openListen},
	{"stdio", openStdio},
}

// TestMustShow2CtrlCDrains: with a stream open the first Ctrl-C lets it finish,
// and then the command ends well and leaves nothing at the gateway.
func TestMustShow2CtrlCDrains(t *testing.T) {
	for _, mode := range interrupts {
		t.Run(mode.name, func(t *testing.T) {
			p := startLoneGateway(t, setup{})
			c, s := mode.open(t, p, startTarget(t, p.net))
			check(t, c.Signal(os.Interrupt))
			says(t, c, ctrlCMessage)
			if mode.name == "listen" {
				testkit.Eventually(t, patience, func() error {
					late, err := p.dial(commandPort)
					if err == nil {
						return errors.Join(errors.New("it still lets new connections in"), late.Close())
					}
					return nil
				})
			}
			start := time.Now()
			check(t, s.finish())
			if code, err := c.ExitCode(atOnce); err != nil || code != 0 {
				t.Errorf("after its stream: exit code %d, %v", code, err)
			}
			t.Logf("it ended %v after the first byte behind Ctrl-C", time.Since(start).Round(time.Millisecond))
			testkit.Eventually(t, atOnce, p.noneListed)
			p.tap.search(t, "output of connect", c.Log())
		})
	}
}

// TestMustShow2CtrlCTwice: the second Ctrl-C ends the command at once, with
// Caddy's exit code for that. The gateway is not told and finds out.
func TestMustShow2CtrlCTwice(t *testing.T) {
	t.Parallel()
	for _, mode := range interrupts {
		t.Run(mode.name, func(t *testing.T) {
			t.Parallel()
			p := startLoneGateway(t, setup{})
			c, s := mode.open(t, p, startTarget(t, p.net))
			check(t, c.Signal(os.Interrupt))
			says(t, c, ctrlCMessage)
			select {
			case <-c.Done():
				t.Fatal("it has ended at the first Ctrl-C, with a stream open")
			default:
			}
			check(t, c.Signal(os.Interrupt))
			dead := time.Now()
			if code, err := c.ExitCode(atOnce); err != nil || code != caddy.ExitCodeForceQuit {
				t.Errorf("exit code %d, %v, want %d", code, err, caddy.ExitCodeForceQuit)
			}
			if got := seen(s.far, lossBound+patience); got != sawRST {
				t.Errorf("the target saw %s, want %s", got, sawRST)
			}
			var took time.Duration // to the beginning of the look that saw nothing: a look is a process
			testkit.Eventually(t, patience, func() error {
				took = time.Since(dead)
				return p.noneListed()
			})
			t.Logf("nothing was left at the gateway after %v", took.Round(10*time.Millisecond))
			if took > lossBound {
				t.Errorf("the gateway kept the tunnel for %v, at most %v", took, lossBound)
			}
		})
	}
}

// pipe is a stream whose opener is a person at a command: a connection to its
// port, or its standard input and output.
type pipe struct {
	stream
	in  io.WriteCloser // nil: near is the opener's end
	out io.Reader
}

// finish passes bytes each way and then ends both directions.
func (s pipe) finish() error {
	in, out := s.in, s.out
	if in == nil {
		in, out = writeEnd{s.near}, s.near
	}
	_ = s.far.SetDeadline(time.Now().Add(patience))
	sent := make(chan error, 1)
	there, back := testkit.PayloadBytes(3, afterSignal), testkit.PayloadBytes(4, afterSignal)
	go func() {
		_, err := in.Write(there)
		sent <- errors.Join(err, in.Close())
	}()
	got, err := io.ReadAll(s.far)
	if err = errors.Join(err, <-sent); err != nil || !bytes.Equal(got, there) {
		return fmt.Errorf("%d of %d bytes reached the target: %w", len(got), len(there), err)
	}
	go func() {
		_, err := s.far.Write(back)
		sent <- errors.Join(err, s.far.CloseWrite())
	}()
	got, err = io.ReadAll(out)
	if err = errors.Join(err, <-sent); err != nil || !bytes.Equal(got, back) {
		return fmt.Errorf("%d of %d bytes came back: %w", len(got), len(back), err)
	}
	return nil
}

// writeEnd is a connection whose Close ends one direction.
type writeEnd struct{ halfCloser }

type halfCloser interface {
	io.Writer
	CloseWrite() error
}

func (e writeEnd) Close() error { return e.CloseWrite() }

func openListen(t *testing.T, p *pair, g *target) (*testkit.Process, pipe) {
	c := p.startConnect("--target", "web", "--listen", fmt.Sprint(commandPort))
	says(t, c, "connected to")
	return c, pipe{stream: p.openAt(g, commandPort)}
}

// openStdio says the stream's number on standard input, as target.join does by
// a connection.
func openStdio(t *testing.T, p *pair, g *target) (*testkit.Process, pipe) {
	args := append([]string{"connect"}, p.toGateway(tapPort)...)
	cmd := p.tunnelCommand(append(args, "--target", "web", "--stdio")...)
	in, err := cmd.StdinPipe()
	check(t, err)
	out, toUs, err := os.Pipe()
	check(t, err)
	t.Cleanup(func() { _ = out.Close() })
	cmd.Stdout = toUs
	c := testkit.StartCommand(t, "connect", cmd)
	check(t, toUs.Close()) // the command has its own
	number, arrives := g.expect()
	must[int](t)(in.Write(number))
	select {
	case far := <-arrives:
		t.Cleanup(func() { _ = far.Close() })
		hello := []byte("welcome")
		must[int](t)(far.Write(hello))
		got := make([]byte, len(hello))
		if _, err := io.ReadFull(out, got); err != nil || !bytes.Equal(got, hello) {
			t.Fatalf("standard output has %q, %v", got, err)
		}
		return c, pipe{stream: stream{far: far}, in: in, out: out}
	case <-time.After(patience):
		t.Fatalf("the stream does not reach its target:\n%s", c.Log())
		return nil, pipe{}
	}
}
