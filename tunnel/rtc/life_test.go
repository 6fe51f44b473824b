package rtc

import (
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/culvertgate/culvert/framecodec"
	"github.com/culvertgate/culvert/tunnel"
)

func descriptors(t *testing.T) int {
	t.Helper()
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Skipf("the descriptors of this process cannot be counted: %v", err)
	}
	return len(list)
}

// TestMany: 200 peers opened and closed, from either side and in every phase,
// leave nothing: no goroutine, no descriptor, no pair, no agent in the mux.
func TestMany(t *testing.T) {
	checkLeaks(t)
	g, d := testGateway(t, Options{}), testDialer(DialerConfig{})
	before, goroutines := descriptors(t), runtime.NumGoroutine()
	for round := range 20 {
		var pairs []*pair
		for range 10 {
			pairs = append(pairs, begin(t, g, d))
		}
		var closing sync.WaitGroup
		for i, p := range pairs {
			if i%3 > 0 { // the others are closed while they connect
				p.clientChannel, p.serverChannel = p.clientEnd.channel(t), p.serverEnd.channel(t)
				write(t, p.clientChannel, "x")
				read(t, p.serverChannel)
			}
			closing.Go(func() {
				if i%2 == 0 {
					p.client.Close(framecodec.CodeNormal)
				} else {
					p.server.Close(framecodec.CodeNormal)
				}
			})
		}
		closing.Wait()
		for _, p := range pairs {
			p.server.Close(framecodec.CodeNormal)
			p.client.Close(framecodec.CodeNormal)
			if n, _ := p.serverEnd.ended(); n != 1 {
				t.Fatalf("round %d: OnClosed was called %d times", round, n)
			}
		}
	}
	eventually(t, 5*time.Second, "all descriptors are closed", func() bool { return descriptors(t) <= before })
	eventually(t, 5*time.Second, "all goroutines have ended", func() bool { return runtime.NumGoroutine() <= goroutines+2 })
	g.mux.mu.RLock()
	defer g.mux.mu.RUnlock()
	if len(g.mux.conns)+len(g.mux.pairs)+len(g.mux.requests)+g.socket.Pairs() > 0 || Live() != 0 {
		t.Errorf("left: %d agents, %d pairs, %d checks, %d pairs of the socket, %d peers", len(g.mux.conns), len(g.mux.pairs), len(g.mux.requests), g.socket.Pairs(), Live())
	}
}

// TestGatewayClose ends peers in every phase, and no offer is answered after it.
func TestGatewayClose(t *testing.T) {
	checkLeaks(t)
	g, d := testGateway(t, Options{}), testDialer(DialerConfig{})
	p, q := connect(t, g, d), begin(t, g, d)
	client, offer, err := d.Offer(t.Context(), []ChannelSpec{{}}, nil, Handler{})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close(framecodec.CodeNormal)
	var twice sync.WaitGroup
	twice.Go(g.Close)
	g.Close()
	twice.Wait()
	p.serverEnd.waitEnd(t, 0, framecodec.CodeTunnelClosed)
	q.serverEnd.waitEnd(t, 0, framecodec.CodeTunnelClosed)
	p.clientEnd.waitEnd(t, 5*time.Second, framecodec.CodeTunnelClosed)
	if _, _, err := g.Answer(t.Context(), offer, Handler{}); tunnel.CodeOf(err) != framecodec.CodeTunnelClosed {
		t.Errorf("an offer after Close: %v", err)
	}
}

// TestOutage, with the defaults and in real time: a path that is away for 15 s
// loses nothing that was written before or meanwhile, and a peer that was
// killed is gone within 25 s at both sides.
func TestOutage(t *testing.T) {
	checkLeaks(t)
	g, d := testGateway(t, Options{}), testDialer(DialerConfig{})
	away, dead := newCable(t, g.socket.AddrPort()), newCable(t, g.socket.AddrPort())
	p, q := connectThrough(t, g, d, away), connectThrough(t, g, d, dead)
	through(t, p, "before")
	through(t, q, "before")
	away.cut.Store(true)
	dead.cut.Store(true)
	start := time.Now()
	messages := strings.Split(strings.Repeat("written into the outage,", 50), ",")
	for _, m := range messages {
		write(t, p.clientChannel, m)
		write(t, p.serverChannel, m)
	}
	time.Sleep(time.Until(start.Add(15 * time.Second))) // the outage itself
	away.cut.Store(false)
	for _, m := range messages {
		if here, there := read(t, p.clientChannel), read(t, p.serverChannel); here != m || there != m {
			t.Errorf("read %q and %q, want %q", here, there, m)
		}
	}
	t.Logf("everything was there %v after the outage", time.Since(start)-15*time.Second)
	if p.client.Err() != nil || p.server.Err() != nil {
		t.Errorf("the outage ended the peer: %v, %v", p.client.Err(), p.server.Err())
	}
	for name, e := range map[string]*end{"client": q.clientEnd, "gateway": q.serverEnd} {
		e.waitEnd(t, time.Until(start.Add(30*time.Second)), framecodec.CodeTunnelLost)
		t.Logf("the %s had noticed and released everything after %v", name, time.Since(start))
	}
}
