package integration

import (
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/culvertgate/culvert/framecodec"
	"github.com/culvertgate/culvert/tunnel"
	"github.com/culvertgate/culvert/tunnel/rtc"
)

// healthJSON is the body of GET /webrtc_tunnel/health.
type healthJSON struct {
	Status  string
	Reasons []string
}

var echoTarget = tunnel.Target{Kind: tunnel.KindNamed, Host: "echo"}

// TestMemoryPerIdentity: one that has used its memory gets no more tunnels, and
// keeps what it has; another one is not concerned.
func TestMemoryPerIdentity(t *testing.T) {
	echo := echoServer(t)
	start(t, global("\t\tlimits {\n\t\t\tmemory_per_identity 4MiB\n\t\t}", "")+users("target echo tcp/"+echo))
	var peers []*peer
	var err error
	for err == nil && len(peers) < 8 {
		var p *peer
		if p, err = tryKeep(t, user("alice")); err == nil {
			peers = append(peers, p)
		}
	}
	wantCode(t, err, framecodec.CodeOutOfMemoryBudget)
	if n := len(peers); n < 2 || n > 4 {
		t.Errorf("alice has %d tunnels in 4 MiB", n)
	}
	peers = append(peers, connect(t, siteURL, user("bob")))
	for i, p := range peers {
		if got := openCode(p, echoTarget); got != framecodec.CodeNormal {
			t.Errorf("a stream in tunnel %d: %v", i, got)
		}
	}
	if status := admin(t, http.MethodGet, "/webrtc_tunnel/health", "", nil); status != http.StatusOK {
		t.Errorf("health %d: one identity's memory is not the gateway's", status)
	}
	peers[0].close()
	eventually(t, func() error {
		_, err := tryKeep(t, user("alice"))
		return err
	})
}

// TestTunnelMemory: a tunnel that has used its memory gets no more channels, and
// keeps those that it has; another one is not concerned.
func TestTunnelMemory(t *testing.T) {
	const channels, room = 6, 4 // of 336 KiB, beside 384 KiB for the peer connection
	echo := echoServer(t)
	start(t, global("\t\tlimits {\n\t\t\ttunnel_memory 2MiB\n\t\t}", "")+users("target echo tcp/"+echo))
	p, list := openChannels(t, slices.Repeat([]rtc.ChannelSpec{{Protocol: "raw:echo"}}, channels))
	count := map[framecodec.Code]int{}
	var open []*rtc.Channel
	for _, ch := range list {
		code := rawOutcome(t, p, ch)
		if count[code]++; code == framecodec.CodeNormal {
			open = append(open, ch)
		}
	}
	if count[framecodec.CodeNormal] != room || count[framecodec.CodeOutOfMemoryBudget] != channels-room {
		t.Errorf("%d raw channels in 2 MiB: %v, want %d open and the others without memory", channels, count, room)
	}
	if code := rawCode(t, user("bob"), "echo"); code != framecodec.CodeNormal {
		t.Errorf("another one's raw channel: %v", code)
	}
	if code := openCode(connect(t, siteURL, user("bob")), echoTarget); code != framecodec.CodeNormal {
		t.Errorf("another one's stream: %v", code)
	}
	for _, ch := range open {
		if code := rawOutcome(t, p, ch); code != framecodec.CodeNormal {
			t.Errorf("a raw channel that was open: %v", code)
		}
	}
}

// TestLeastMemory: the least that the options take is enough for a tunnel with a
// stream.
func TestLeastMemory(t *testing.T) {
	echo := echoServer(t)
	for _, option := range []string{"memory", "memory_per_identity", "tunnel_memory"} {
		t.Run(option, func(t *testing.T) {
			config := func(size string) string {
				return global("\t\tlimits {\n\t\t\t"+option+" "+size+"\n\t\t}", "") + users("target echo tcp/"+echo)
			}
			sizes := []string{"1MiB", "1536KiB", "2MiB", "4MiB"}
			least := 0
			for load(config(sizes[least])) != nil {
				if least++; least == len(sizes) {
					t.Fatal("none is taken")
				}
			}
			start(t, config(sizes[least]))
			t.Logf("the least is at most %s", sizes[least])
			p := connect(t, siteURL, user("alice"))
			if got := openCode(p, echoTarget); got != framecodec.CodeNormal {
				t.Errorf("a stream with %s %s: %v", option, sizes[least], got)
			}
		})
	}
}

// TestMemoryLimit: a peer connection counts against memory. When it is used up
// health says that no tunnel can be had, those that are there go on, and when
// one has ended there is room again.
func TestMemoryLimit(t *testing.T) {
	echo := echoServer(t)
	start(t, global("\t\tlimits {\n\t\t\tmemory 6MiB\n\t\t}", "")+users("limits {\ntunnels_per_identity 20\n}\ntarget echo tcp/"+echo))
	health := func() (status int, body healthJSON) {
		// The API tells 503 with a body, which admin does not decode.
		res, err := (&http.Client{Transport: oneShot}).Get(adminURL + "/webrtc_tunnel/health")
		if err != nil {
			t.Fatal(err)
		}
		decode(t, res, &body)
		return res.StatusCode, body
	}
	if status, body := health(); status != http.StatusOK || body.Status != "ok" {
		t.Errorf("health before: %d %+v", status, body)
	}
	var peers []*peer
	var err error
	for err == nil && len(peers) < 20 {
		var p *peer
		if p, err = tryKeep(t, user("alice")); err == nil {
			peers = append(peers, p)
		}
	}
	wantCode(t, err, framecodec.CodeOutOfMemoryBudget)
	if len(peers) < 2 {
		t.Fatalf("%d tunnels fit into 6 MiB", len(peers))
	}
	if status, body := health(); status != http.StatusServiceUnavailable || body.Status != "unavailable" || len(body.Reasons) != 1 || !strings.Contains(body.Reasons[0], "memory") {
		t.Errorf("health: %d %+v, want 503 because of the memory", status, body)
	}
	for i, p := range peers {
		if got := openCode(p, echoTarget); got != framecodec.CodeNormal {
			t.Errorf("a stream in tunnel %d: %v", i, got)
		}
	}
	peers[0].close()
	eventually(t, func() error {
		_, err := tryKeep(t, user("bob"))
		return err
	})
}
