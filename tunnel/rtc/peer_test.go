package rtc

import (
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pion/webrtc/v4"

	"github.com/culvertgate/culvert/framecodec"
	"github.com/culvertgate/culvert/tunnel"
)

// fast are timeouts of ICE that end a silent peer after 1.5 s or a little more.
var fast = Timeouts{Disconnected: 500 * time.Millisecond, Failed: time.Second, Keepalive: 100 * time.Millisecond}

func TestEcho(t *testing.T) {
	checkLeaks(t)
	p := connect(t, testGateway(t, Options{}), testDialer(DialerConfig{}))
	for _, message := range []string{"hello", "", "x", "four", string(make([]byte, MaxMessage))} {
		write(t, p.clientChannel, message)
		if got := read(t, p.serverChannel); got != message {
			t.Fatalf("the gateway read %d bytes, %d were sent", len(got), len(message))
		}
		write(t, p.serverChannel, message)
		if got := read(t, p.clientChannel); got != message {
			t.Fatalf("the client read %d bytes, %d were sent", len(got), len(message))
		}
	}
	c := p.serverChannel
	if c.Label() != "tunnel" || c.Protocol() != "culvert.2" || !c.Ordered() || !c.Reliable() || c.MaxMessage() != MaxMessage {
		t.Errorf("channel %q %q ordered=%v reliable=%v max=%d", c.Label(), c.Protocol(), c.Ordered(), c.Reliable(), c.MaxMessage())
	}
	for side, peer := range map[string]*Peer{"client": p.client, "gateway": p.server} {
		if s := peer.Stats(); !s.Remote.IsValid() || !s.Local.IsValid() || s.BytesSent < MaxMessage || s.BytesReceived < MaxMessage || s.CandidatePair == "" {
			t.Errorf("%s: %+v", side, s)
		}
	}
	if s := p.server.Stats(); !strings.Contains(s.CandidatePair, "prflx") {
		t.Errorf("the gateway used a candidate of the client: %s", s.CandidatePair)
	}
}

// TestWildcard: a socket that is bound to no address works, with this machine's
// own addresses or with loopback alone.
func TestWildcard(t *testing.T) {
	checkLeaks(t)
	for _, address := range []string{":0", "0.0.0.0:0"} {
		p := connect(t, gatewayAt(t, address, Options{}, nil), testDialer(DialerConfig{ListenAddress: ":0"}))
		write(t, p.clientChannel, "over any address")
		if got := read(t, p.serverChannel); got != "over any address" {
			t.Errorf("%s: read %q", address, got)
		}
	}
}

// TestChannels: several channels, with their properties; one with a name that is
// too long never appears.
func TestChannels(t *testing.T) {
	checkLeaks(t)
	long := strings.Repeat("n", MaxName)
	p := begin(t, testGateway(t, Options{}), testDialer(DialerConfig{}),
		ChannelSpec{Label: "a", Protocol: "culvert.2"}, ChannelSpec{Label: "b", Protocol: "culvert.2.datagrams", Unordered: true},
		ChannelSpec{Label: long, Protocol: long})
	found := map[string]*Channel{}
	for range 3 {
		c := p.serverEnd.channel(t)
		found[c.Label()] = c
	}
	if a := found["a"]; a == nil || !a.Ordered() || !a.Reliable() {
		t.Errorf("a: %+v", a)
	}
	if b := found["b"]; b == nil || b.Ordered() || b.Reliable() || b.Protocol() != "culvert.2.datagrams" {
		t.Errorf("b: %+v", b)
	}
	if c := found[long]; c == nil || c.Protocol() != long {
		t.Errorf("the channel with long names: %+v", c)
	}
	// Past Dialer's own check, with pion: one byte more.
	tooLong, err := p.client.pc.CreateDataChannel(long+"n", nil)
	if err != nil {
		t.Fatal(err)
	}
	p.client.adopt(tooLong)
	good, err := p.client.pc.CreateDataChannel("good", nil)
	if err != nil {
		t.Fatal(err)
	}
	p.client.adopt(good)
	if c := p.serverEnd.channel(t); c.Label() != "good" {
		t.Errorf("channel with a label of %d bytes was accepted", len(c.Label()))
	}
	if _, _, err := testDialer(DialerConfig{}).Offer(t.Context(), []ChannelSpec{{Label: long + "n"}}, nil, Handler{}); err == nil {
		t.Error("Offer accepted a label that is too long")
	}
}

// TestCloseHere: Close ends both sides once, with the code here and
// tunnel_closed at the other side, quickly, and what was written before arrives.
func TestCloseHere(t *testing.T) {
	checkLeaks(t)
	g, d := testGateway(t, Options{}), testDialer(DialerConfig{})
	for _, side := range []string{"client", "gateway"} {
		p := connect(t, g, d)
		closer, closerEnd, other, from, to := p.client, p.clientEnd, p.serverEnd, p.clientChannel, p.serverChannel
		if side == "gateway" {
			closer, closerEnd, other, from, to = p.server, p.serverEnd, p.clientEnd, p.serverChannel, p.clientChannel
		}
		write(t, from, "last words")
		var wg sync.WaitGroup
		for range 3 {
			wg.Go(func() { closer.Close(framecodec.CodeClosedByAdmin) })
		}
		if got := read(t, to); got != "last words" {
			t.Errorf("%s: read %q", side, got)
		}
		if err := to.Wait(); tunnel.CodeOf(err) != framecodec.CodeTunnelClosed {
			t.Errorf("%s: Wait at the other side: %v", side, err)
		}
		wg.Wait()
		closerEnd.waitEnd(t, time.Second, framecodec.CodeClosedByAdmin)
		other.waitEnd(t, 3*time.Second, framecodec.CodeTunnelClosed)
		if err := closer.Err(); tunnel.CodeOf(err) != framecodec.CodeClosedByAdmin || !isDone(closer) {
			t.Errorf("%s: %v", side, err)
		}
		if err := from.WriteMessage([]byte("x")); err == nil {
			t.Errorf("%s: a message was written after the end", side)
		}
	}
}

func isDone(p *Peer) bool {
	select {
	case <-p.Done():
		return true
	default:
		return false
	}
}

// TestConnectTimeout: an offer that is answered and never followed up ends with
// timeout, in each phase.
func TestConnectTimeout(t *testing.T) {
	checkLeaks(t)
	const limit = 2 * time.Second // connecting itself has to be faster
	g := testGateway(t, Options{ConnectTimeout: limit})
	d := testDialer(DialerConfig{ConnectTimeout: limit})

	e := newEnd()
	client, offer, err := d.Offer(t.Context(), []ChannelSpec{{}}, nil, Handler{})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close(framecodec.CodeNormal)
	p, _, err := g.Answer(t.Context(), offer, e.handler())
	if err != nil {
		t.Fatal(err)
	}
	e.waitEnd(t, 10*time.Second, framecodec.CodeTimeout)
	if text := p.Err().Error(); !strings.Contains(text, "network path") {
		t.Errorf("before ICE: %s", text)
	}

	// Connected, but no channel: this one is not announced in band.
	e = newEnd()
	id, negotiated := uint16(7), true
	silent, err := testDialer(DialerConfig{}).newPeer(t.Context(), nil, Handler{})
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close(framecodec.CodeNormal)
	if _, err := silent.pc.CreateDataChannel("", &webrtc.DataChannelInit{ID: &id, Negotiated: &negotiated}); err != nil {
		t.Fatal(err)
	}
	if offer, err = d.offer(t.Context(), silent, nil); err != nil {
		t.Fatal(err)
	}
	p, answer, err := g.Answer(t.Context(), offer, e.handler())
	if err != nil {
		t.Fatal(err)
	}
	if err := silent.Accept(answer); err != nil {
		t.Fatal(err)
	}
	e.waitEnd(t, 10*time.Second, framecodec.CodeTimeout)
	if text := p.Err().Error(); !strings.Contains(text, "no data channel") || e.connected != 1 {
		t.Errorf("connected: %s", text)
	}

	// The client's own deadline: its gateway is not there.
	c := newCable(t, g.socket.AddrPort())
	c.cut.Store(true)
	r := beginThrough(t, g, d, c.route)
	r.clientEnd.waitEnd(t, 10*time.Second, framecodec.CodeTimeout)
}

// TestSilence: when the path dies both sides notice by themselves, and everybody
// who waits for a message or for room goes on.
func TestSilence(t *testing.T) {
	checkLeaks(t)
	g := testGateway(t, Options{Timeouts: fast})
	c := newCable(t, g.socket.AddrPort())
	p := connectThrough(t, g, testDialer(DialerConfig{Timeouts: fast}), c)
	c.cut.Store(true)
	write(t, p.serverChannel, "never arrives")
	room := make(chan struct{})
	p.serverChannel.NotifyLow(0, func() { close(room) })
	waited := make(chan error, 2)
	go func() { waited <- p.serverChannel.Wait() }()
	go func() { waited <- p.clientChannel.Wait() }()
	start := time.Now()
	for range 2 {
		if err := <-waited; tunnel.CodeOf(err) != framecodec.CodeTunnelLost {
			t.Errorf("Wait returned %v", err)
		}
	}
	if d := time.Since(start); d > 10*time.Second {
		t.Errorf("noticed after %v", d)
	}
	select {
	case <-room:
	case <-time.After(10 * time.Second):
		t.Error("who waits for room waits for ever")
	}
	p.serverEnd.waitEnd(t, 10*time.Second, framecodec.CodeTunnelLost)
	p.clientEnd.waitEnd(t, 10*time.Second, framecodec.CodeTunnelLost)
}

// TestPath: the owner is told when the path comes, is disturbed, and is back.
func TestPath(t *testing.T) {
	checkLeaks(t)
	patient := Timeouts{Disconnected: time.Second, Failed: 30 * time.Second, Keepalive: 50 * time.Millisecond}
	g := testGateway(t, Options{Timeouts: patient})
	c := newCable(t, g.socket.AddrPort())
	p := connectThrough(t, g, testDialer(DialerConfig{Timeouts: patient}), c)
	told := func(e *end, want bool) {
		t.Helper()
		select {
		case up := <-e.paths:
			if up != want {
				t.Errorf("told %v, want %v", up, want)
			}
		case <-time.After(5 * time.Second):
			t.Fatalf("never told that the path is up: %v", want)
		}
	}
	told(p.clientEnd, true)
	told(p.serverEnd, true)
	c.cut.Store(true)
	told(p.clientEnd, false)
	told(p.serverEnd, false)
	c.cut.Store(false)
	told(p.clientEnd, true)
	told(p.serverEnd, true)
	through(t, p, "after the disturbance")
}

// watchful returns a pair on a cable that misses the other's keep-alives soon.
func watchful(t *testing.T) (*cable, *pair) {
	t.Helper()
	checkLeaks(t)
	quick := Timeouts{Disconnected: 2 * time.Second, Failed: 20 * time.Second, Keepalive: 100 * time.Millisecond}
	g := testGateway(t, Options{Timeouts: quick})
	c := newCable(t, g.socket.AddrPort())
	p := connectThrough(t, g, testDialer(DialerConfig{Timeouts: quick}), c)
	through(t, p, "before")
	return c, p
}

// TestHandlerPanic: a panic in a handler ends that peer and nothing else.
func TestHandlerPanic(t *testing.T) {
	checkLeaks(t)
	g, d := testGateway(t, Options{}), testDialer(DialerConfig{})
	good := connect(t, g, d)
	e := newEnd()
	h := e.handler()
	h.OnConnected = func(*Peer) { panic("planted") }
	client, offer, err := d.Offer(t.Context(), []ChannelSpec{{}}, nil, Handler{})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close(framecodec.CodeNormal)
	_, answer, err := g.Answer(t.Context(), offer, h)
	if err != nil {
		t.Fatal(err)
	}
	if err := client.Accept(answer); err != nil {
		t.Fatal(err)
	}
	e.waitEnd(t, 5*time.Second, framecodec.CodeInternal)
	write(t, good.clientChannel, "still here")
	if got := read(t, good.serverChannel); got != "still here" {
		t.Error(got)
	}
}
