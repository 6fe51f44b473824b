package rtc

import (
	"strings"
	"testing"
	"time"

	"github.com/pion/webrtc/v4"

	"github.com/culvertgate/culvert/framecodec"
	"github.com/culvertgate/culvert/tunnel"
)

func through(t *testing.T, p *pair, message string) {
	t.Helper()
	write(t, p.clientChannel, message)
	if got := read(t, p.serverChannel); got != message {
		t.Fatalf("read %q", got)
	}
	write(t, p.serverChannel, message)
	if got := read(t, p.clientChannel); got != message {
		t.Fatalf("read %q", got)
	}
}

// TestRestart: the path is replaced, twice, while the channel lives on; the
// fragments travel as text.
func TestRestart(t *testing.T) {
	checkLeaks(t)
	g := testGateway(t, Options{Timeouts: fast})
	first, second := newCable(t, g.socket.AddrPort()), newCable(t, g.socket.AddrPort())
	p := connectThrough(t, g, testDialer(DialerConfig{Timeouts: fast}), first)
	through(t, p, "on the first path")
	for i, path := range []*cable{second, first} {
		if i == 0 {
			first.cut.Store(true)
		}
		first.cut.Store(i == 0)
		second.cut.Store(i == 1)
		old := p.server.Stats().Remote
		f, err := p.client.OfferRestart(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if !p.server.IsRestart(f) {
			t.Error("this is not seen as a restart")
		}
		if f, err = ParseFragment(f.String()); err != nil {
			t.Fatal(err)
		}
		answer, err := p.server.Restart(t.Context(), f)
		if err != nil {
			t.Fatal(err)
		}
		if answer, err = ParseFragment(path.route(answer.String())); err != nil {
			t.Fatal(err)
		}
		if err := p.client.AcceptRestart(answer); err != nil {
			t.Fatal(err)
		}
		through(t, p, "on another path")
		if now := p.server.Stats().Remote; now == old {
			t.Errorf("the path is still that of %v", old)
		}
		if p.server.IsRestart(f) {
			t.Error("a fragment of the present generation is seen as a restart")
		}
	}
	// The restart's clock was stopped.
	p.server.mu.Lock()
	restarting := p.server.restarting
	p.server.mu.Unlock()
	if restarting {
		t.Error("the gateway still waits for the path")
	}
}

// TestRestartRefused: what is wrong with a restart is found before anything is
// touched: the tunnel goes on.
func TestRestartRefused(t *testing.T) {
	checkLeaks(t)
	g := testGateway(t, Options{})
	p := connect(t, g, testDialer(DialerConfig{}))
	p.server.mu.Lock()
	present := p.server.remote
	p.server.mu.Unlock()
	good := Fragment{Ufrag: "newufrag", Pwd: strings.Repeat("p", 24), Mid: "0"}
	many := good
	many.Candidates = make([]string, MaxCandidates+1)
	other := good
	other.Mid = "1"
	for name, f := range map[string]Fragment{
		"empty": {}, "stale": {Ufrag: present.ufrag, Pwd: present.pwd}, "same pwd": {Ufrag: "newufrag", Pwd: present.pwd},
		"short pwd": {Ufrag: "newufrag", Pwd: "short"}, "line in it": {Ufrag: "new\r\na=x", Pwd: good.Pwd},
		"other section": other, "too many candidates": many,
	} {
		if _, err := p.server.Restart(t.Context(), f); tunnel.CodeOf(err) != framecodec.CodeBadOffer {
			t.Errorf("%s: %v", name, err)
		}
	}
	p.server.restartMu.Lock()
	if _, err := p.server.Restart(t.Context(), good); tunnel.CodeOf(err) != framecodec.CodeConflict {
		t.Errorf("two at once: %v", err)
	}
	p.server.restartMu.Unlock()
	through(t, p, "unharmed")
}

// TestRestartTimeout: a restart that is answered and does not connect ends the
// tunnel at both sides.
func TestRestartTimeout(t *testing.T) {
	checkLeaks(t)
	const limit = 2 * time.Second // the first connect has to be faster
	g := testGateway(t, Options{ConnectTimeout: limit})
	p := connect(t, g, testDialer(DialerConfig{ConnectTimeout: limit}))
	f, err := p.client.OfferRestart(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.server.Restart(t.Context(), f); err != nil {
		t.Fatal(err)
	}
	if _, err := p.client.OfferRestart(t.Context()); tunnel.CodeOf(err) != framecodec.CodeConflict {
		t.Errorf("a second restart at once: %v", err)
	}
	p.serverEnd.waitEnd(t, 10*time.Second, framecodec.CodeTimeout)
	p.clientEnd.waitEnd(t, 10*time.Second, framecodec.CodeTimeout)
}

// TestRestartPutsNothingOff: a peer that restarts instead of opening a channel is
// ended when its time for that is over.
func TestRestartPutsNothingOff(t *testing.T) {
	checkLeaks(t)
	const limit = 2 * time.Second
	g := testGateway(t, Options{ConnectTimeout: limit})
	d := testDialer(DialerConfig{})
	e := newEnd()
	id, negotiated := uint16(7), true
	silent, err := d.newPeer(t.Context(), nil, Handler{})
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close(framecodec.CodeNormal)
	if _, err := silent.pc.CreateDataChannel("", &webrtc.DataChannelInit{ID: &id, Negotiated: &negotiated}); err != nil {
		t.Fatal(err)
	}
	offer, err := d.offer(t.Context(), silent, nil)
	if err != nil {
		t.Fatal(err)
	}
	p, answer, err := g.Answer(t.Context(), offer, e.handler())
	if err != nil {
		t.Fatal(err)
	}
	p.mu.Lock()
	clock := p.deadline
	p.mu.Unlock()
	if err := silent.Accept(answer); err != nil {
		t.Fatal(err)
	}
	eventually(t, limit, "it is connected", func() bool { p.mu.Lock(); defer p.mu.Unlock(); return p.connected })
	if _, err := p.Restart(t.Context(), Fragment{Ufrag: "newufrag", Pwd: strings.Repeat("p", 24)}); err != nil {
		t.Fatal(err)
	}
	p.mu.Lock()
	if p.deadline != clock {
		t.Error("the restart has wound up the clock of the first channel")
	}
	p.mu.Unlock()
	e.waitEnd(t, 3*limit, framecodec.CodeTimeout)
}

// TestCandidates: the gateway ignores what peers list, unless told otherwise,
// and never takes more than it may.
func TestCandidates(t *testing.T) {
	checkLeaks(t)
	lines := []string{
		"candidate:1 1 udp 1 192.0.2.7 1000 typ host", "a=candidate:2 1 UDP 1 2001:db8::7 1000 typ srflx raddr 10.0.0.1 rport 9 ufrag x",
		"candidate:3 2 udp 1 192.0.2.7 1000 typ host", "candidate:4 1 tcp 1 192.0.2.7 9 typ host tcptype active",
		"candidate:5 1 udp 1 abc.local 1000 typ host", "candidate:6 1 udp 1 example.com 1000 typ host",
		"candidate:7 1 udp 1 127.0.0.1 1000 typ host", "candidate:8 1 udp 1 224.0.0.1 1000 typ host", "candidate:9 1 udp 1 fe80::1 1000 typ host",
		"candidate:10 1 udp 1 0.0.0.0 1000 typ host", "candidate:11 1 udp 1 192.0.2.7 0 typ host", "nonsense", "",
		"candidate:12 1 udp 1 ::ffff:127.0.0.1 1000 typ host", "candidate:13 1 udp 1 255.255.255.255 1000 typ host",
	}
	want := []string{"candidate:1 1 udp 1 192.0.2.7 1000 typ host", "candidate:2 1 UDP 1 2001:db8::7 1000 typ srflx raddr 10.0.0.1 rport 9"}
	if got := (remoteFilter{}).use(lines); strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("used:\n%s", strings.Join(got, "\n"))
	}
	p := connect(t, testGateway(t, Options{}), testDialer(DialerConfig{}))
	if used, err := p.server.AddCandidates(lines); used != 0 || err != nil {
		t.Errorf("%d used, %v", used, err)
	}
	if _, err := p.server.AddCandidates(make([]string, MaxCandidates)); tunnel.CodeOf(err) != framecodec.CodeBadOffer {
		t.Errorf("more than %d in all: %v", MaxCandidates, err)
	}
	if used, err := p.client.AddCandidates(lines[:1]); used != 1 || err != nil {
		t.Errorf("at a client: %d used, %v", used, err)
	}
}
