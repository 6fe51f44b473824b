package integration

import (
	"context"
	"fmt"
	"maps"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/culvertgate/culvert/framecodec"
	"github.com/culvertgate/culvert/internal/testkit"
	"github.com/culvertgate/culvert/tunnel"
)

// openCodes opens a target so many times and returns the codes, each once.
func openCodes(t *testing.T, p *peer, target string, n int) (codes []framecodec.Code) {
	t.Helper()
	parsed, err := tunnel.ParseTarget(target)
	if err != nil {
		t.Fatal(err)
	}
	for range n {
		if code := openCode(p, parsed); len(codes) == 0 || codes[len(codes)-1] != code {
			codes = append(codes, code)
		}
	}
	return codes
}

// wantHealth wants a status and, if it is not ok, a reason with these words.
func wantHealth(t *testing.T, status string, words ...string) {
	t.Helper()
	var got struct {
		Status  string
		Reasons []string
	}
	if code := admin(t, http.MethodGet, "/webrtc_tunnel/health", "", &got); code != http.StatusOK || got.Status != status {
		t.Errorf("health: %d %+v, want %s", code, got, status)
	}
	for _, word := range words {
		if !slices.ContainsFunc(got.Reasons, func(s string) bool { return strings.Contains(s, word) }) {
			t.Errorf("no reason of %q says %q", got.Reasons, word)
		}
	}
	if len(words) == 0 && len(got.Reasons) > 0 {
		t.Errorf("health is %s because of %q", got.Status, got.Reasons)
	}
}

// usable returns the names of GET P/targets that may be opened now.
func usable(t *testing.T) (names []string) {
	t.Helper()
	req, err := http.NewRequest(http.MethodGet, siteURL+"/targets", nil)
	if err != nil {
		t.Fatal(err)
	}
	res, err := patiently(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	var list struct {
		Targets []struct {
			Name   string
			Usable bool
		}
	}
	decode(t, res, &list)
	for _, one := range list.Targets {
		if one.Usable {
			names = append(names, one.Name)
		}
	}
	return names
}

// explainBreaker returns what explain says of a target's breaker.
func explainBreaker(t *testing.T, target string) string {
	t.Helper()
	var got struct {
		Allowed bool
		Code    string
		Breaker string
	}
	if status := admin(t, http.MethodPost, "/webrtc_tunnel/explain", question(t, "", target, nil), &got); status != http.StatusOK || !got.Allowed || got.Code != "normal" {
		t.Errorf("explain %s: status %d, %+v", target, status, got)
	}
	return got.Breaker
}

// wantStates wants these series of breaker_state and no others. It asks again:
// the admin endpoint may still be the one of before a load.
func wantStates(t *testing.T, want map[string]float64) {
	t.Helper()
	eventually(t, func() error {
		got := map[string]float64{}
		_, values := scrape(t)
		for name, state := range values {
			if label, ok := strings.CutPrefix(name, `breaker_state{target="`); ok {
				got[strings.TrimSuffix(label, `"}`)] = state
			}
		}
		if !maps.Equal(got, want) {
			return fmt.Errorf("breaker_state is %v, want %v", got, want)
		}
		return nil
	})
}

// TestBreaker: a target that refuses is given a rest, everybody is told so, over
// a reload too; when it is back the first trial finds it.
func TestBreaker(t *testing.T) {
	echo, dead := echoServer(t), testkit.FreeTCP(t)
	asleep := testkit.FreeTCP(t)
	config := func(more string) string {
		return global("", on("b")+"\n\tmetrics") + site("target pc tcp/"+dead+"\ntarget asleep tcp/"+asleep+" {\nbreaker off\n}\ntarget echo tcp/"+echo+more+
			"\ndynamic {\nallow tcp/127.0.0.1:9\nallow tcp/127.0.0.0/8:1-65535\n}")
	}
	start(t, config(""))
	forget(t)
	p := connect(t, siteURL, nil)
	wantHealth(t, "ok")
	wantStates(t, map[string]float64{"gw/pc": 0, "gw/echo": 0, "gw dynamic.rules[0]": 0, "gw dynamic.rules[1]": 0})

	refusedThenOpen := []framecodec.Code{framecodec.CodeRefused, framecodec.CodeBreakerOpen}
	began := time.Now()
	if got := openCodes(t, p, "pc", 20); !slices.Equal(got, refusedThenOpen) {
		t.Fatalf("opens ended with %v", got)
	}
	if got := openCodes(t, p, "tcp/127.0.0.1:7", 20); !slices.Equal(got, refusedThenOpen) {
		t.Fatalf("dynamic opens ended with %v", got)
	}
	if got := openCodes(t, p, "asleep", 20); !slices.Equal(got, []framecodec.Code{framecodec.CodeRefused}) {
		t.Errorf("with breaker off opens ended with %v", got)
	}
	if code := rawCode(t, http.Header{}, "pc"); code != framecodec.CodeBreakerOpen {
		t.Errorf("a raw channel: %v", code)
	}
	if code := openCode(p, tunnel.Target{Kind: tunnel.KindNamed, Host: "echo"}); code != framecodec.CodeNormal {
		t.Errorf("the target beside it: %v", code)
	}
	told := func() {
		t.Helper()
		if time.Since(began) > 4*time.Second {
			t.Log("too late to look: its rest may be over")
			return
		}
		wantHealth(t, "degraded", "target pc of gw", "refused")
		if got := usable(t); !slices.Equal(got, []string{"asleep", "echo"}) {
			t.Errorf("usable are %q", got)
		}
		if pc, dynamic, echo := explainBreaker(t, "pc"), explainBreaker(t, "tcp/127.0.0.1:7"), explainBreaker(t, "echo"); pc != "open" || dynamic != "open" || echo != "" {
			t.Errorf("explain says %q, %q and %q", pc, dynamic, echo)
		}
		wantStates(t, map[string]float64{"gw/pc": 2, "gw/echo": 0, "gw dynamic.rules[0]": 0, "gw dynamic.rules[1]": 2})
	}
	told()
	waitEvent(t, recorded{"b", "breaker_opened", map[string]any{"endpoint": "gw", "target": "pc", "code": "refused"}})
	waitEvent(t, recorded{"b", "breaker_opened", map[string]any{"endpoint": "gw", "target": "tcp/127.0.0.1:7", "code": "refused"}})

	if err := load(config("\ntarget more tcp/" + echo)); err != nil {
		t.Fatal(err)
	}
	if time.Since(began) < 4*time.Second && explainBreaker(t, "pc") != "open" {
		t.Error("a reload has closed it")
	}
	p = connect(t, siteURL, nil)
	serveOn(t, dead)
	eventually(t, func() error {
		if code := openCode(p, tunnel.Target{Kind: tunnel.KindNamed, Host: "pc"}); code != framecodec.CodeNormal {
			return fmt.Errorf("it is back, and opens end with %v", code)
		}
		return nil
	})
	if took := time.Since(began); took < 4*time.Second {
		t.Errorf("it was given a rest of %v only", took)
	}
	waitEvent(t, recorded{"b", "breaker_closed", map[string]any{"endpoint": "gw", "target": "pc"}})
	wantHealth(t, "ok")
	eventually(t, func() error { // it opened a moment later
		if got := explainBreaker(t, "tcp/127.0.0.1:7"); got != "half_open" {
			return fmt.Errorf("the rest of the other one should be over, it is %s", got)
		}
		return nil
	})
	wantStates(t, map[string]float64{"gw/pc": 0, "gw/echo": 0, "gw/more": 0, "gw dynamic.rules[0]": 0, "gw dynamic.rules[1]": 1})

	log, err := os.ReadFile(logFile)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`"level":"warn","ts":`, `"msg":"breaker opened: the target has failed too often and is given a rest","endpoint":"gw","target":"pc"`,
		`"msg":"breaker closed: the target works again","endpoint":"gw","target":"pc"`,
	} {
		if !strings.Contains(string(log), want) {
			t.Errorf("the log has no %s", want)
		}
	}

	// One that is gone with its rule is no longer there, nor in the metrics.
	if err := load(global("", on("b")+"\n\tmetrics") + site("target pc tcp/"+echo)); err != nil {
		t.Fatal(err)
	}
	wantStates(t, map[string]float64{"gw/pc": 0})
	waitEvent(t, recorded{"b", "breaker_closed", map[string]any{"endpoint": "gw", "target": "tcp/127.0.0.1:7"}})
}

// TestBreakerIgnoresTheClients: 100 opens that their client cancels, and as many
// that the policy refuses, are nobody's failure.
func TestBreakerIgnoresTheClients(t *testing.T) {
	silent, err := net.ListenPacket("udp", "127.0.0.1:0") // a DNS server that never answers
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { silent.Close() })
	start(t, global("", on("c"))+site("target slow tcp/slow.example:80\ndynamic {\nresolver "+silent.LocalAddr().String()+"\nallow tcp/192.0.2.1:80\ndeny 127.0.0.13\n}"))
	forget(t)
	p := connect(t, siteURL, nil)
	slow := tunnel.Target{Kind: tunnel.KindNamed, Host: "slow"}
	for range 100 {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Millisecond)
		_, ep := tunnel.NewConn(tunnel.Addr{}, tunnel.Addr{})
		if _, err := p.session.Open(ctx, slow, ep); err == nil {
			t.Error("it opened")
		}
		cancel()
		_, err := p.open("tcp/127.0.0.13:80")
		wantCode(t, err, framecodec.CodeNotAllowed)
	}
	other := connect(t, siteURL, nil)
	for range 20 { // and the tunnel that ends while they are under way
		_, ep := tunnel.NewConn(tunnel.Addr{}, tunnel.Addr{})
		go func() { _, _ = other.session.Open(t.Context(), slow, ep) }()
	}
	eventually(t, func() error {
		if n := other.session.Stats().Streams; n != 20 {
			return fmt.Errorf("%d opens are under way", n)
		}
		return nil
	})
	other.close()
	eventually(t, func() error {
		if list := tunnels(t, "gateway"); len(list) != 1 || list[0].Streams != 0 {
			return fmt.Errorf("%+v", list)
		}
		return nil
	})
	wantHealth(t, "ok")
	if got := usable(t); !slices.Equal(got, []string{"slow"}) {
		t.Errorf("usable are %q", got)
	}
	for _, e := range events() {
		if strings.HasPrefix(e.name, "breaker") {
			t.Errorf("%v", e)
		}
	}
}
