package rtc

import (
	"context"
	"net"
	"os"
	"runtime"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"go.uber.org/zap"

	"github.com/culvertgate/culvert/framecodec"
	"github.com/culvertgate/culvert/tunnel"
	"github.com/culvertgate/culvert/tunnel/udp"
)

// home is where this process's sockets are: on Linux a loopback address of its
// own, so that nothing arrives there that another test's process still sends to
// a port which was its peer's a moment ago and now is ours.
var home = func() net.IP {
	if runtime.GOOS != "linux" {
		return net.IPv4(127, 0, 0, 1)
	}
	pid := os.Getpid()
	return net.IPv4(127, 0x80|byte(pid>>16), byte(pid>>8), byte(pid)).To4()
}()

// anyPort is a port of home that the kernel chooses.
var anyPort = net.JoinHostPort(home.String(), "0")

// checkLeaks fails the test if a goroutine or a peer outlives it. It is to be
// called first, so that it runs after all other clean-up.
func checkLeaks(t *testing.T) {
	t.Helper()
	before := Live()
	existing := goleak.IgnoreCurrent()
	t.Cleanup(func() {
		eventually(t, 5*time.Second, "all peers are released", func() bool { return Live() == before })
		if err := goleak.Find(existing); err != nil {
			t.Error(err)
		}
	})
}

// eventually polls until ok holds.
func eventually(t *testing.T, within time.Duration, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(within); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", within, what)
		}
	}
}

// logger logs to stderr when RTC_LOG is set.
func logger() *zap.Logger {
	if os.Getenv("RTC_LOG") == "" {
		return zap.NewNop()
	}
	l, err := zap.NewDevelopment()
	if err != nil {
		panic(err)
	}
	return l
}

// end is one side of a peer connection under test: what its Handler was told.
type end struct {
	mu        sync.Mutex
	connected int
	closed    int
	err       error
	channels  chan *Channel
	paths     chan bool
	late      chan string // candidates
}

func newEnd() *end {
	return &end{channels: make(chan *Channel, 64), paths: make(chan bool, 64), late: make(chan string, 64)}
}

func (e *end) handler() Handler {
	return Handler{
		OnConnected: func(*Peer) { e.mu.Lock(); e.connected++; e.mu.Unlock() },
		OnChannel:   func(_ *Peer, c *Channel) { e.channels <- c },
		OnPath:      func(_ *Peer, up bool) { e.paths <- up },
		OnCandidate: func(_ *Peer, line string) { e.late <- line },
		OnClosed: func(_ *Peer, err error) {
			e.mu.Lock()
			defer e.mu.Unlock()
			e.closed++
			e.err = err
		},
	}
}

func (e *end) channel(t *testing.T) *Channel {
	t.Helper()
	select {
	case c := <-e.channels:
		return c
	case <-time.After(10 * time.Second):
		t.Fatal("no channel was opened")
		return nil
	}
}

func testGateway(t testing.TB, o Options) *Gateway {
	t.Helper()
	return gatewayAt(t, anyPort, o, nil)
}

func gatewayAt(t testing.TB, address string, o Options, now func() time.Time) *Gateway {
	t.Helper()
	socket, err := udp.Listen(context.Background(), "udp", address, udp.Config{})
	if err != nil {
		t.Fatal(err)
	}
	o.Loopback = true
	g, err := NewGateway(GatewayConfig{Socket: socket, Logger: logger, Now: now, Options: o})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(g.Close)
	return g
}

func testDialer(cfg DialerConfig) *Dialer {
	cfg.Logger, cfg.Loopback = logger, true
	if cfg.ListenAddress == "" {
		cfg.ListenAddress = anyPort
	}
	return NewDialer(cfg)
}

// pair is a connected client and gateway with one channel.
type pair struct {
	client, server               *Peer
	clientEnd, serverEnd         *end
	clientChannel, serverChannel *Channel
}

func connect(t *testing.T, g *Gateway, d *Dialer) *pair {
	t.Helper()
	p := begin(t, g, d)
	p.clientChannel, p.serverChannel = p.clientEnd.channel(t), p.serverEnd.channel(t)
	return p
}

func connectThrough(t *testing.T, g *Gateway, d *Dialer, c *cable) *pair {
	t.Helper()
	p := beginThrough(t, g, d, c.route)
	p.clientChannel, p.serverChannel = p.clientEnd.channel(t), p.serverEnd.channel(t)
	return p
}

// begin exchanges the descriptions and does not wait.
func begin(t *testing.T, g *Gateway, d *Dialer, specs ...ChannelSpec) *pair {
	t.Helper()
	return beginThrough(t, g, d, func(answer string) string { return answer }, specs...)
}

func beginThrough(t *testing.T, g *Gateway, d *Dialer, route func(string) string, specs ...ChannelSpec) *pair {
	t.Helper()
	if specs == nil {
		specs = []ChannelSpec{{Label: "tunnel", Protocol: "culvert.2"}}
	}
	p := &pair{clientEnd: newEnd(), serverEnd: newEnd()}
	var offer, answer string
	var err error
	if p.client, offer, err = d.Offer(context.Background(), specs, nil, p.clientEnd.handler()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.client.Close(framecodec.CodeNormal) })
	if p.server, answer, err = g.Answer(context.Background(), offer, p.serverEnd.handler()); err != nil {
		t.Fatal(err)
	}
	if err = p.client.Accept(route(answer)); err != nil {
		t.Fatal(err)
	}
	return p
}

func (e *end) ended() (times int, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.closed, e.err
}

// waitEnd waits until OnClosed was told, and checks the code and that it was
// told once.
func (e *end) waitEnd(t *testing.T, within time.Duration, want framecodec.Code) {
	t.Helper()
	eventually(t, within, "the peer ends with "+want.String(), func() bool { n, _ := e.ended(); return n > 0 })
	if n, err := e.ended(); n != 1 || tunnel.CodeOf(err) != want {
		t.Errorf("OnClosed was called %d times, with %v, want %v", n, err, want)
	}
}

// read returns the next message.
func read(t *testing.T, c *Channel) string {
	t.Helper()
	if err := c.Wait(); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, MaxMessage)
	n, err := c.ReadMessage(buf)
	if err != nil {
		t.Fatal(err)
	}
	return string(buf[:n])
}

func write(t *testing.T, c *Channel, s string) {
	t.Helper()
	if err := c.WriteMessage([]byte(s)); err != nil {
		t.Fatal(err)
	}
}
