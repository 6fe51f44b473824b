package acceptance

import (
	"context"
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/culvertgate/culvert/internal/testkit"
)

const (
	datagramPort  = 9053 // an echo for datagrams, which the gateway leads to
	localDatagram = 5353 // where the command takes them
	localDenied   = 5354 // likewise, for a target that no rule allows
)

// echoDatagrams answers each datagram at datagramPort with itself, until the test
// ends.
func echoDatagrams(t *testing.T, n *testkit.Namespace) {
	t.Helper()
	c := must[net.PacketConn](t)(n.ListenPacket("udp", loopback(datagramPort).String()))
	var wg sync.WaitGroup
	wg.Go(func() {
		for buf := make([]byte, 65536); ; {
			size, from, err := c.ReadFrom(buf)
			if err != nil {
				return
			}
			_, _ = c.WriteTo(buf[:size], from)
		}
	})
	t.Cleanup(func() { _ = c.Close(); wg.Wait() })
}

// sender is a local program's socket for datagrams to a port.
func (p *pair) sender(port int) net.Conn {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	c := must[net.Conn](p.t)(p.net.DialContext(ctx, "udp", loopback(port).String()))
	p.t.Cleanup(func() { _ = c.Close() })
	return c
}

// TestDatagramForwards: the command's forwards of datagrams through a real gateway
// to a real socket: each local client has its own answers and its own flow, which
// ends when it is idle; what the gateway refuses is said; Ctrl-C ends it at once.
func TestDatagramForwards(t *testing.T) {
	p := startLoneGateway(t, setup{endpoint: `
		target echo udp/127.0.0.1:9053
		dynamic {
			allow udp/127.0.0.1:9053
		}
`})
	echoDatagrams(t, p.net)
	c := p.startConnect("--udp-idle", "2s",
		"--forward", fmt.Sprintf("udp/%d=echo", localDatagram), "--forward", fmt.Sprintf("udp/%d=udp/127.0.0.1:9054", localDenied))
	says(t, c, "connected to")
	var wg sync.WaitGroup
	for i := range 8 {
		sender := p.sender(localDatagram)
		wg.Go(func() {
			for _, size := range []int{1, 500, 1400, 20_000} {
				if err := testkit.Echoes(sender, fmt.Sprintf("%d%s", i, strings.Repeat("x", size))); err != nil {
					t.Errorf("client %d: %v", i, err)
				}
			}
		})
	}
	wg.Wait()
	if i := onlyTunnel(t, p.gateway); i.Streams != 8 {
		t.Errorf("the gateway shows %+v, want 8 flows", i)
	}
	testkit.Eventually(t, patience, func() error {
		if i := onlyTunnel(t, p.gateway); i.Streams != 0 {
			return fmt.Errorf("%d idle flows are left", i.Streams)
		}
		return nil
	})
	denied := p.sender(localDenied)
	_, err := denied.Write([]byte("x"))
	check(t, err)
	says(t, c, fmt.Sprintf("udp/%s: no flow to udp/127.0.0.1:9054: not_allowed", denied.LocalAddr()))
	check(t, testkit.Echoes(p.sender(localDatagram), "after that"))
	began := time.Now()
	check(t, c.Signal(os.Interrupt))
	if code, err := c.ExitCode(patience); err != nil || code != 0 || time.Since(began) > 5*time.Second {
		t.Errorf("after Ctrl-C: exit code %d, %v, after %v", code, err, time.Since(began))
	}
	testkit.Eventually(t, patience, func() error {
		if list, err := listTunnels(p.gateway); err != nil || len(list) > 0 {
			return fmt.Errorf("the gateway has %+v, %w", list, err)
		}
		return nil
	})
	p.tap.search(t, "log of the command", c.Log())
}
