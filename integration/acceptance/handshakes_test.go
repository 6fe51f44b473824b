package acceptance

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/culvertgate/culvert/internal/testkit"
	"github.com/culvertgate/culvert/tunnel/client"
)

const (
	burstOffers   = 5_000
	burstWorkers  = 64
	burstMemory   = 64 << 20         // more resident bytes than before
	strangerBound = 2 * time.Second  // from a stranger's first request to its stream
	leftBound     = 30 * time.Second // from the last offer to no handshake left
	stoppedEach   = 6                // peers that stop at each of the stages
)

// crowdedGateway is a gateway on the machine's loopback, where every address of
// 127.0.0.0/8 is a client of its own.
type crowdedGateway struct {
	*testkit.Caddy
	url    string
	udp    netip.AddrPort
	before held
	memory int64
}

func startCrowdedGateway(t *testing.T) *crowdedGateway {
	site, udp, echo := testkit.FreeTCP(t), testkit.FreeUDP(t), echoTarget(t)
	g := &crowdedGateway{url: "http://" + site + "/tunnel", udp: netip.MustParseAddrPort(udp)}
	g.Caddy = testkit.StartCaddy(t, testkit.CaddyConfig{Caddyfile: fmt.Sprintf(`{
	auto_https off
	webrtc_tunnel {
		listen udp/%s
	}
}
http://%s {
	webrtc_tunnel /tunnel* {
		name gw
		allow_anonymous
		target echo tcp/%s
	}
}
`, udp, site, echo)})
	for range 3 { // what is made once is made now
		must[time.Duration](t)(g.stranger("127.0.9.9"))
	}
	testkit.Eventually(t, patience, g.empty)
	g.before = atRest(t, g.Caddy)
	g.memory = must[testkit.Usage](t)(g.Usage()).Memory.RSS
	check(t, testkit.ResetPeak(g.PID()))
	t.Logf("before: %+v, %d MiB resident", g.before, g.memory>>20)
	return g
}

// echoTarget listens on the machine's loopback until the test ends.
func echoTarget(t *testing.T) string {
	t.Helper()
	l := must[net.Listener](t)(net.Listen("tcp", "127.0.0.1:0"))
	var served sync.WaitGroup
	served.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			served.Go(func() {
				defer c.Close()
				_, _ = io.Copy(c, c) // the other end compares
			})
		}
	})
	t.Cleanup(func() {
		_ = l.Close() // its error would be the test's own
		served.Wait()
	})
	return l.Addr().String()
}

// stranger makes a tunnel from an address and uses it once. It returns how long
// it took from the first request until its stream worked.
func (g *crowdedGateway) stranger(address string) (took time.Duration, err error) {
	start := time.Now()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	dialer := &net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(address), 0))}
	transport := &http.Transport{DialContext: dialer.DialContext}
	defer transport.CloseIdleConnections()
	tunnel, err := client.Dial(ctx, client.Config{URLs: []string{g.url}, Transport: transport})
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, tunnel.Close()) }()
	conn, err := tunnel.Open(ctx, "echo")
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	if _, err := conn.Write([]byte("hello")); err != nil {
		return 0, err
	}
	got := make([]byte, 5)
	if _, err := io.ReadFull(conn, got); err != nil || string(got) != "hello" {
		return 0, fmt.Errorf("echo: %q, %w", got, err)
	}
	return time.Since(start), nil
}

// empty reports an error while there is any tunnel, made or being made.
func (g *crowdedGateway) empty() error {
	list, err := listTunnels(g.Caddy)
	if err == nil && len(list) > 0 {
		err = fmt.Errorf("%d tunnels are left, the first %+v", len(list), list[0])
	}
	return err
}

// grown returns by how much the resident size had grown at most.
func (g *crowdedGateway) grown(t *testing.T) int64 {
	t.Helper()
	return must[testkit.Usage](t)(g.Usage()).Memory.Peak - g.memory
}

// burst sends offers that nobody means, from several addresses, and returns how
// often each status was the answer.
func (g *crowdedGateway) burst(t *testing.T, addresses int) (map[int]int, error) {
	t.Helper()
	work := make(chan *http.Client, burstOffers)
	clients := make([]*http.Client, addresses)
	for i := range burstOffers {
		at := i % addresses
		if clients[at] == nil {
			clients[at] = from(t, fmt.Sprintf("127.1.0.%d", 1+at))
		}
		work <- clients[at]
	}
	close(work)
	var mu sync.Mutex
	statuses := map[int]int{}
	var failed error
	var workers sync.WaitGroup
	for range burstWorkers {
		workers.Go(func() {
			for c := range work {
				status, _, err := post(c, g.url, anyOffer())
				mu.Lock()
				statuses[status]++
				failed = errors.Join(failed, err)
				mu.Unlock()
			}
		})
	}
	workers.Wait()
	for _, c := range clients { // their connections would count as the gateway's
		c.CloseIdleConnections()
	}
	return statuses, failed
}

// TestMustShow10Burst sends 5,000 offers as fast as it can: from one address,
// and from more than the limits have room for, where each is answered and makes
// an older one go. A stranger that waits too long on a machine that others keep
// busy proves nothing, and the burst is sent again to a new gateway.
func TestMustShow10Burst(t *testing.T) {
	const tries = 3
	for _, addresses := range []int{1, 50} {
		t.Run(fmt.Sprintf("%d addresses", addresses), func(t *testing.T) {
			for try := 1; ; try++ {
				slowest, others := burstOnce(t, addresses)
				if slowest <= strangerBound {
					return
				}
				if others < foreignLoad || try == tries {
					t.Errorf("a stranger waited %v for its stream, at most %v", slowest, strangerBound)
					return
				}
				t.Logf("a stranger waited %v, but others used %.0f %% of the machine: again", slowest, 100*others)
			}
		})
	}
}

// burstOnce returns the longest that a stranger waited, and which part of the
// machine others had meanwhile.
func burstOnce(t *testing.T, addresses int) (slowest time.Duration, others float64) {
	g := startCrowdedGateway(t)
	stop := make(chan struct{})
	strangers := make(chan []time.Duration, 1)
	elsewhere := foreign(t, g.Caddy)
	go func() { strangers <- g.strangers(t, stop) }()
	start := time.Now()
	statuses, err := g.burst(t, addresses)
	t.Logf("%d offers in %v: %v", burstOffers, time.Since(start).Round(time.Millisecond), statuses)
	close(stop)
	took := <-strangers
	check(t, err)
	slowest, others = slices.Max(took), elsewhere()
	t.Logf("%d strangers beside them, a stream after %v at most; others used %.0f %% of the machine",
		len(took), slowest.Round(time.Millisecond), 100*others)
	if n := statuses[201] + statuses[429] + statuses[503]; n != burstOffers || addresses == 1 && statuses[201] > 100 {
		t.Errorf("answers: %v", statuses)
	}
	testkit.Eventually(t, leftBound, g.empty)
	t.Logf("nothing left after %v; %d MiB more than before at most", time.Since(start).Round(time.Millisecond), g.grown(t)>>20)
	if grown := g.grown(t); grown > burstMemory {
		t.Errorf("the resident size grew by %d bytes, at most %d", grown, burstMemory)
	}
	backTo(t, "gateway", g.Caddy, g.before, patience)
	return slowest, others
}

// strangers makes tunnels from another address, one after another, and returns
// how long each took until its stream worked.
func (g *crowdedGateway) strangers(t *testing.T, stop <-chan struct{}) []time.Duration {
	var took []time.Duration
	for {
		one, err := g.stranger("127.0.9.9")
		if err != nil {
			t.Errorf("a stranger: %v", err)
		}
		took = append(took, one)
		select {
		case <-stop:
			return took
		default:
		}
	}
}

// TestMustShow10StoppedHandshakes has peers that stop after ICE, after DTLS and
// before Hello, and hold on to what they have. It waits most of its time, but is
// not parallel: what others compute is not what a stranger should wait for.
func TestMustShow10StoppedHandshakes(t *testing.T) {
	g := startCrowdedGateway(t)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for stage, start := range []func(*http.Client) (io.Closer, error){
		func(c *http.Client) (io.Closer, error) { return rawCloser(startRawPeer(ctx, c, g.url, g.udp, false)) },
		func(c *http.Client) (io.Closer, error) { return rawCloser(startRawPeer(ctx, c, g.url, g.udp, true)) },
		func(c *http.Client) (io.Closer, error) { return pcCloser(startSilentPeer(ctx, c, g.url)) },
	} {
		c := from(t, fmt.Sprintf("127.2.0.%d", 1+stage))
		for i := range stoppedEach {
			peer, err := start(c)
			if err != nil {
				t.Fatalf("stage %d, peer %d: %v", stage, i, err)
			}
			t.Cleanup(func() { _ = peer.Close() }) // the gateway has ended it
		}
		c.CloseIdleConnections() // they would count as the gateway's
	}
	start := time.Now()
	if list := tunnelsOf(t, g.Caddy); len(list) != 3*stoppedEach {
		t.Errorf("%d tunnels, want %d", len(list), 3*stoppedEach)
	}
	took := must[time.Duration](t)(g.stranger("127.0.9.9"))
	t.Logf("a stranger had a stream after %v", took.Round(time.Millisecond))
	if took > strangerBound {
		t.Errorf("a stranger waited %v for its stream, at most %v", took, strangerBound)
	}
	testkit.Eventually(t, leftBound, g.empty)
	t.Logf("nothing left after %v; %d MiB more than before at most", time.Since(start).Round(time.Millisecond), g.grown(t)>>20)
	if grown := g.grown(t); grown > burstMemory {
		t.Errorf("the resident size grew by %d bytes, at most %d", grown, burstMemory)
	}
	backTo(t, "gateway", g.Caddy, g.before, patience)
}

type closer func() error

func (c closer) Close() error { return c() }

func rawCloser(p *rawPeer, err error) (io.Closer, error) {
	if err != nil {
		return nil, err
	}
	return closer(p.close), nil
}

func pcCloser(pc interface{ GracefulClose() error }, err error) (io.Closer, error) {
	if err != nil {
		return nil, err
	}
	return closer(pc.GracefulClose), nil
}
