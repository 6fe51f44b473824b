package integration

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/culvertgate/culvert/framecodec"
	"github.com/culvertgate/culvert/socks5"
	"github.com/culvertgate/culvert/tunnel"
	"github.com/culvertgate/culvert/tunnel/rtc"
)

// explained is what explain tells of a target.
type explained struct {
	Allowed   bool
	Code      string
	Reason    string
	Rule      struct{ List, Position string }
	Addresses []struct{ Address string }
}

func explain(t *testing.T, identity, target string) explained {
	t.Helper()
	request, err := json.Marshal(map[string]any{"endpoint": "gw", "identity": identity, "target": target})
	if err != nil {
		t.Fatal(err)
	}
	var got explained
	if status := admin(t, http.MethodPost, "/webrtc_tunnel/explain", string(request), &got); status != http.StatusOK {
		t.Fatalf("explain %s: status %d", request, status)
	}
	return got
}

// TestExplainIsWhatOpensDo: over generated policies, each target that explain
// allows is reached by every path that can name it, and each that it refuses is
// refused by all of them with the same code.
func TestExplainIsWhatOpensDo(t *testing.T) {
	echo := netAddr(t)
	seed := uint64(time.Now().UnixNano())
	rng := rand.New(rand.NewPCG(seed, 1))
	t.Logf("seed %d", seed)
	start(t, global(remoteHere, entries("named")))
	for round := range 12 {
		rules, targets := generate(rng, echo)
		config := global(remoteHere+" {\nheader X-User alice\n}", entries("named")) + users(rules)
		if err := load(config); err != nil {
			t.Fatalf("round %d: %v\n%s", round, err, config)
		}
		p := connect(t, siteURL, user("alice"))
		for _, target := range targets {
			want := explain(t, "alice", target)
			if len(want.Reason) == 0 {
				t.Errorf("no reason for %s", target)
			}
			for path, got := range openAll(t, p, target) {
				if got != want.Code {
					t.Errorf("round %d, %s by %s: %s, explain says %s (%s)\n%s", round, target, path, got, want.Code, want.Reason, rules)
				}
			}
		}
		p.close()
	}
}

// netAddr is an echo server on a port of its own at all loopback addresses.
func netAddr(t *testing.T) (port string) {
	t.Helper()
	_, port, err := net.SplitHostPort(serveOn(t, "0.0.0.0:0"))
	if err != nil {
		t.Fatal(err)
	}
	return port
}

// generate makes rules and targets, all about a few loopback addresses.
func generate(rng *rand.Rand, port string) (rules string, targets []string) {
	host := func() string { return fmt.Sprintf("127.0.0.%d", 1+rng.IntN(4)) }
	who := func() string {
		return []string{"", " {\nusers alice\n}", " {\nusers bob\n}"}[rng.IntN(3)]
	}
	var b strings.Builder
	fmt.Fprintf(&b, "target named tcp/%s:%s%s\n", host(), port, who())
	b.WriteString("dynamic {\n")
	for range 1 + rng.IntN(4) {
		switch rng.IntN(4) {
		case 0:
			fmt.Fprintf(&b, "deny %s%s\n", host(), who())
		case 1:
			fmt.Fprintf(&b, "allow tcp/127.0.0.0/30:%s%s\n", port, who())
		default:
			fmt.Fprintf(&b, "allow tcp/%s:%s%s\n", host(), port, who())
		}
	}
	b.WriteString("}\n")
	targets = []string{"named", "tcp/127.0.0.1:2999", "tcp/[::ffff:127.0.0.2]:" + port, "tcp/0x7f000001:" + port, "tcp/127.1:" + port}
	for i := 1; i <= 4; i++ {
		targets = append(targets, fmt.Sprintf("tcp/127.0.0.%d:%s", i, port))
	}
	return b.String(), targets
}

// openAll opens a target in every way there is and returns the code of each.
func openAll(t *testing.T, p *peer, target string) map[string]string {
	t.Helper()
	codes := map[string]string{}
	c, err := p.open(target)
	if err == nil {
		err = pingPong(c)
		c.Close()
	}
	codes["a stream"] = tunnel.CodeOf(err).String()
	parsed, err := tunnel.ParseTarget(target)
	if err != nil {
		t.Fatal(err)
	}
	if parsed.Named() {
		codes["a raw channel"] = rawCode(t, target)
		return codes
	}
	conn, reply := socksRequest(t, parsed.Host, parsed.Port)
	conn.Close()
	switch reply {
	case socks5.Succeeded:
		codes["SOCKS5"] = "normal"
	case socks5.NotAllowed:
		codes["SOCKS5"] = "not_allowed"
	default:
		codes["SOCKS5"] = reply.String()
	}
	return codes
}

// rawCode opens a raw channel to a named target and returns the code that the
// session's status tells.
func rawCode(t *testing.T, target string) string {
	t.Helper()
	p, ch := openChannel(t, "raw:"+target, false)
	defer p.close()
	if err := ch.WriteMessage([]byte("ping")); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 64)
	if err := ch.Wait(); err == nil {
		if n, err := ch.ReadMessage(buf); err == nil && string(buf[:n]) == "ping" {
			return "normal"
		}
	}
	raw, err := p.signal.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	told(raw)
	var status struct {
		Raw []struct{ Target, Code string } `json:"raw_channels"`
	}
	if err := json.Unmarshal(raw, &status); err != nil || len(status.Raw) == 0 {
		t.Fatalf("status %s: %v", raw, err)
	}
	return status.Raw[len(status.Raw)-1].Code
}

// openChannel makes a tunnel with one channel of a protocol and returns that.
func openChannel(t *testing.T, protocol string, unordered bool) (*peer, *rtc.Channel) {
	t.Helper()
	p, channels := openChannels(t, []rtc.ChannelSpec{{Protocol: protocol, Unordered: unordered}})
	return p, channels[0]
}

// openChannels makes a tunnel and returns its channels when all are open, in the
// order of opening.
func openChannels(t *testing.T, specs []rtc.ChannelSpec) (*peer, []*rtc.Channel) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), long)
	defer cancel()
	open := make(chan *rtc.Channel, len(specs))
	dialer := rtc.NewDialer(rtc.DialerConfig{Loopback: true, ListenAddress: "127.0.0.1:0"})
	p := &peer{}
	var offer string
	var err error
	p.rtc, offer, err = dialer.Offer(ctx, specs, nil, rtc.Handler{OnChannel: func(_ *rtc.Peer, c *rtc.Channel) { open <- c }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.rtc.Close(framecodec.CodeTunnelClosed) })
	if p.signal, err = newSignal(t, user("alice")).Offer(ctx, offer, ""); err == nil {
		err = p.rtc.Accept(p.signal.Answer)
	}
	if err != nil {
		t.Fatal(err)
	}
	var list []*rtc.Channel
	for range specs {
		select {
		case c := <-open:
			list = append(list, c)
		case <-ctx.Done():
			t.Fatal("a channel did not open")
		}
	}
	return p, list
}
