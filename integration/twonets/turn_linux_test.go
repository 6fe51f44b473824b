package twonets

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/culvertgate/culvert/internal/testkit"
)

const (
	turnPort   = 3479
	turnSecret = "canary-turn-secret-71d0"
)

// startTURN starts coturn in a network of its own, which the client reaches by
// one cable and the gateway by another. What it relays to is the gateway alone.
func startTURN(w *world) (client, gateway *testkit.Cable, log string) {
	w.t.Helper()
	testkit.NeedCommands(w.t, "turnserver")
	relay := testkit.NewNamespace(w.t)
	client = testkit.NewCable(w.t, w.near, relay, testkit.CableConfig{})
	gateway = testkit.NewCable(w.t, w.far, relay, testkit.CableConfig{})
	// It gives an allocation up when a peer has no route at all.
	if err := gateway.RouteFar(netip.MustParsePrefix("0.0.0.0/0")); err != nil {
		w.t.Fatal(err)
	}
	dir := w.t.TempDir()
	config := filepath.Join(dir, "turnserver.conf")
	text := fmt.Sprintf(`listening-ip=%[1]s
relay-ip=%[2]s
listening-port=%[3]d
realm=culvert.example
use-auth-secret
static-auth-secret=%[4]s
denied-peer-ip=0.0.0.0-255.255.255.255
denied-peer-ip=::-ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff
allowed-peer-ip=%[5]s
no-tls
no-dtls
no-cli
no-multicast-peers
simple-log
log-file=%[6]s/turn.log
userdb=%[6]s/turndb
pidfile=%[6]s/turnserver.pid
verbose
`, client.Far(), gateway.Far(), turnPort, turnSecret, gateway.Near(), dir)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		w.t.Fatal(err)
	}
	coturn := testkit.StartCommand(w.t, "coturn", relay.Command("turnserver", "-c", config))
	testkit.Eventually(w.t, patience, func() error {
		select {
		case <-coturn.Done():
			return fmt.Errorf("coturn has ended:\n%s", coturn.Log())
		default:
		}
		c, err := w.near.DialContext(w.t.Context(), "tcp", fmt.Sprintf("%s:%d", client.Far(), turnPort))
		if err != nil {
			return err
		}
		return c.Close()
	})
	return client, gateway, filepath.Join(dir, "turn.log")
}

// TestRelayOnly: where no datagram passes between client and gateway, the tunnel
// goes over coturn, by UDP and by TCP to it, with credentials that the gateway
// has made from the secret.
func TestRelayOnly(t *testing.T) {
	for _, transport := range []string{"udp", "tcp"} {
		t.Run(transport, func(t *testing.T) {
			var client, gateway *testkit.Cable
			var logFile string
			o := options{}
			o.beforeRun = func(w *world) {
				client, gateway, logFile = startTURN(w)
				w.cable.Cut(testkit.CutUDP)
				w.options.gatewayApp = fmt.Sprintf(`listen udp/:%d
		ice_server turn:%s:%d?transport=%s {
			secret %s
			ttl 10m
		}`, gatewayUDP, client.Far(), turnPort, transport, turnSecret)
			}
			w := newWorld(t, o)
			w.echoTCP()
			c := w.dial("tcp", tcpEntry).(*net.TCPConn)
			if err := echoOf(c, "over a relay"); err != nil {
				log, _ := os.ReadFile(logFile)
				t.Fatalf("%v; coturn says\n%s", err, log)
			}
			pair := w.tunnel(w.client).CandidatePair
			if !strings.HasPrefix(pair, "relay "+gateway.Far().String()+":") || !strings.Contains(pair, gateway.Near().String()) {
				t.Errorf("the pair is %q, want one from the relay %s to the gateway's %s", pair, gateway.Far(), gateway.Near())
			}
			const size = 50_000_000
			echoHash(t, c, size)
			there, back := w.cable.Packets()
			relayed, _ := client.Packets()
			if there.Cut == 0 && back.Cut == 0 {
				t.Error("nobody tried the direct path: it proves nothing that it is cut")
			}
			if relayed.BytesIn < size {
				t.Errorf("%d bytes went to the relay, want more than %d", relayed.BytesIn, size)
			}
			// Nobody sees the secret, the relay only what it makes of it.
			for name, log := range map[string]string{"gateway": w.gateway.Log(), "client": w.client.Log()} {
				if strings.Contains(log, turnSecret) {
					t.Errorf("the log of the %s shows the secret", name)
				}
			}
			log, err := os.ReadFile(logFile)
			if err != nil || !strings.Contains(string(log), "realm <culvert.example>") {
				t.Errorf("%v, coturn says\n%s", err, log)
			}
		})
	}
}

// TestRelayWithWrongSecret: credentials that coturn does not take are no tunnel,
// and the client is told within its time-out.
func TestRelayWithWrongSecret(t *testing.T) {
	o := options{timeouts: "connect 3s"}
	o.beforeRun = func(w *world) {
		client, _, _ := startTURN(w)
		w.cable.Cut(testkit.CutUDP)
		w.options.gatewayApp = fmt.Sprintf("listen udp/:%d\n\t\tice_server turn:%s:%d?transport=udp {\n\t\t\tsecret wrong\n\t\t}", gatewayUDP, client.Far(), turnPort)
	}
	w := newWorld(t, o)
	w.echoTCP()
	c := w.dial("tcp", tcpEntry)
	begin := time.Now()
	if err := echoOf(c, "x"); err == nil {
		t.Error("it came back")
	}
	if took := time.Since(begin); took > 20*time.Second {
		t.Errorf("told after %v", took)
	}
}

// echoHash sends bytes through an echo and compares what comes back by hash.
func echoHash(t *testing.T, c *net.TCPConn, size int64) {
	t.Helper()
	if err := c.SetDeadline(time.Now().Add(3 * time.Minute)); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	var sent error
	wg.Go(func() {
		if _, sent = io.Copy(c, testkit.Payload(5, size)); sent == nil {
			sent = c.CloseWrite()
		}
	})
	begin := time.Now()
	sum, n, err := testkit.Hash(c)
	wg.Wait()
	if err != nil || sent != nil || n != size || sum != testkit.PayloadHash(5, size) {
		t.Errorf("%d of %d bytes came back, right %v; sending %v, reading %v", n, size, sum == testkit.PayloadHash(5, size), sent, err)
	}
	t.Logf("%d bytes there and back in %v", size, time.Since(begin).Round(time.Millisecond))
}
