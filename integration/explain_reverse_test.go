package integration

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/culvertgate/culvert/framecodec"
	"github.com/culvertgate/culvert/tunnel"
	"github.com/culvertgate/culvert/tunnel/client"
)

// member is an identity and its groups.
type member struct {
	name   string
	groups []string
}

func (m member) header() http.Header {
	return http.Header{"X-User": {m.name}, "X-Groups": {strings.Join(m.groups, ",")}}
}

var (
	reverseOwners   = []member{{"bob", nil}, {"dora", []string{"dev"}}}
	reverseSubjects = []member{{"alice", nil}, {"carol", []string{"ops"}}, {"bob", nil}}
	reverseNames    = []string{"a", "b", "c"}
)

// echoing serves every stream with an echo, datagrams too.
type echoing struct{ wg sync.WaitGroup }

func (e *echoing) Accept(in *tunnel.Incoming) {
	e.wg.Go(func() {
		if in.Target().Datagrams() {
			conn, ep := tunnel.NewDatagramConn(tunnel.Addr{Net: "webrtc"}, tunnel.Addr{Net: "webrtc"})
			if in.Attach(ep, "") == nil {
				_ = conn.Each(func(p []byte) { _, _ = conn.Write(p) })
			}
			return
		}
		conn, ep := tunnel.NewConn(tunnel.Addr{Net: "webrtc"}, tunnel.Addr{Net: "webrtc"})
		if in.Attach(ep, "") == nil {
			_, _ = io.Copy(conn, conn)
			_ = conn.Close()
		}
	})
}

func (*echoing) Close()  {}
func (e *echoing) Wait() { e.wg.Wait() }

// generateExpose makes rules about a few owners, names and subjects.
func generateExpose(rng *rand.Rand) string {
	pick := func(of ...string) string { return of[rng.IntN(len(of))] }
	var b strings.Builder
	for range 1 + rng.IntN(5) {
		fmt.Fprintf(&b, "allow %s {\n%s%s}\n", pick("a", "b", "a b", "b c", "*"),
			pick("", "users bob\n", "users dora\n", "groups dev\n", "users bob\ngroups dev\n"),
			pick("", "reachable_by alice\n", "reachable_by bob\n", "reachable_by_groups ops\n", "reachable_by alice\nreachable_by_groups ops\n"))
	}
	return b.String()
}

// TestExplainIsWhatServicesDo: over generated rules, each service that explain
// lets somebody publish is taken and each other refused, and each that it lets
// somebody reach is reached, with the same codes.
func TestExplainIsWhatServicesDo(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	rng := rand.New(rand.NewPCG(seed, 2))
	t.Logf("seed %d", seed)
	codes := map[string]int{}
	for round := range 8 {
		rules := generateExpose(rng)
		config := global("", "") + "http://" + siteAddr + " {\n\twebrtc_tunnel /tunnel* {\n\t\tname gw\n\t\tidentity {http.request.header.X-User}\n\t\tgroups {http.request.header.X-Groups}\n\t\texpose {\n" + rules + "}\n\t}\n}\n"
		if round == 0 {
			start(t, config)
		} else if err := load(config); err != nil {
			t.Fatalf("round %d: %v\n%s", round, err, rules)
		}
		w := &reverseRound{t: t, rules: rules, codes: codes}
		w.publish()
		w.reach()
		w.close()
	}
	for _, what := range []string{"publish normal", "publish not_allowed", "reach normal", "reach not_allowed", "reach unreachable"} {
		if codes[what] < 2 {
			t.Errorf("only %d times %s: the rules say little", codes[what], what)
		}
	}
}

type reverseRound struct {
	t       *testing.T
	rules   string
	codes   map[string]int
	clients []*client.Tunnel
}

func (w *reverseRound) explain(m member, what, value string) framecodec.Code {
	w.t.Helper()
	body, err := json.Marshal(map[string]any{"endpoint": "gw", "identity": m.name, "groups": m.groups, what: value})
	if err != nil {
		w.t.Fatal(err)
	}
	var got explained
	if status := admin(w.t, http.MethodPost, "/webrtc_tunnel/explain", string(body), &got); status != http.StatusOK {
		w.t.Fatalf("explain %s %s: status %d", what, value, status)
	}
	if got.Reason == "" || got.Allowed != (got.Code == framecodec.CodeNormal) {
		w.t.Errorf("%s %s: explain says %+v", what, value, got)
	}
	return got.Code
}

// publish has each owner offer every name.
func (w *reverseRound) publish() {
	w.t.Helper()
	for _, owner := range reverseOwners {
		published := make(chan client.Publication, 64)
		cfg := client.Config{
			URLs: []string{siteURL}, Header: func(context.Context) (http.Header, error) { return owner.header(), nil },
			Serve:     func() client.Server { return new(echoing) },
			Published: func(_ *client.Tunnel, p client.Publication) { published <- p },
		}
		for _, name := range reverseNames {
			cfg.Services = append(cfg.Services, client.Service{Name: name, Datagrams: name == "c"})
		}
		var c *client.Tunnel
		eventually(w.t, func() (err error) { c, err = client.Dial(w.t.Context(), cfg); return err })
		w.clients = append(w.clients, c)
		seen := map[string]bool{}
		for len(seen) < len(reverseNames) {
			select {
			case p := <-published:
				if seen[p.Service.Name] {
					continue // offered again
				}
				seen[p.Service.Name] = true
				want := w.explain(owner, "expose", p.Service.Name)
				w.codes["publish "+want.String()]++
				if got := tunnel.CodeOf(p.Err); got != want {
					w.t.Errorf("%s publishes %s: %v, explain says %v\n%s", owner.name, p.Service.Name, p.Err, want, w.rules)
				}
			case <-time.After(long):
				w.t.Fatalf("%s: no answer but for %v", owner.name, seen)
			}
		}
	}
}

// reach has each subject open every service, and one of nobody's.
func (w *reverseRound) reach() {
	w.t.Helper()
	for _, subject := range reverseSubjects {
		p := connect(w.t, siteURL, subject.header())
		for _, owner := range append([]member{{"nobody", nil}}, reverseOwners...) {
			for _, name := range reverseNames {
				target := "client:" + owner.name + "/" + name
				want := w.explain(subject, "target", target)
				if want == framecodec.CodeNormal && owner.name == "nobody" {
					want = framecodec.CodeUnreachable
				}
				w.codes["reach "+want.String()]++
				if got := w.open(p, target, name == "c"); got != want {
					w.t.Errorf("%s opens %s: %v, explain says %v\n%s", subject.name, target, got, want, w.rules)
				}
			}
		}
		p.close()
	}
}

func (w *reverseRound) open(p *peer, target string, datagrams bool) framecodec.Code {
	w.t.Helper()
	if !datagrams {
		return openCode(p, tunnel.Target{Kind: tunnel.KindNamed, Host: target})
	}
	_, ep := tunnel.NewDatagramConn(tunnel.Addr{Net: "webrtc"}, tunnel.Addr{Net: "webrtc"})
	ctx, cancel := context.WithTimeout(context.Background(), long)
	defer cancel()
	_, err := p.session.Open(ctx, tunnel.Target{Kind: tunnel.KindNamedDatagram, Host: target}, ep)
	return tunnel.CodeOf(err)
}

func (w *reverseRound) close() {
	for _, c := range w.clients {
		_ = c.Close()
	}
}

// TestExplainIsWhatFlowsDo: the same for UDP, where an open says whether there
// would be a way: nobody has to answer.
func TestExplainIsWhatFlowsDo(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	rng := rand.New(rand.NewPCG(seed, 3))
	t.Logf("seed %d", seed)
	dns := startDNS(t, names)
	echo := echoUDP(t)
	_, port, _ := strings.Cut(echo, ":")
	pick := func(of ...string) string { return of[rng.IntN(len(of))] }
	who := func() string { return pick("", " {\nusers alice\n}", " {\nusers bob\n}", " {\ngroups ops\n}") }
	targets := []string{"d", "byname", "stream", "udp/10.11.12.13:" + port, "udp/" + udpAddr, "tcp/127.0.0.1:" + port}
	for _, host := range []string{"127.0.0.1", "127.0.0.2", "one.example", "two.example", "mixed.example", "nowhere.example", "localhost"} {
		targets = append(targets, "udp/"+host+":"+port)
	}
	codes := map[framecodec.Code]int{}
	for round := range 5 {
		var b strings.Builder
		fmt.Fprintf(&b, "groups {http.request.header.X-Groups}\ntarget d udp/%s%s\ntarget byname udp/one.example:%s\ntarget stream tcp/%s\ndynamic {\nresolver %s\n", echo, who(), port, echo, dns)
		for range 2 + rng.IntN(5) {
			switch rng.IntN(6) {
			case 0:
				fmt.Fprintf(&b, "deny %s%s\n", pick("127.0.0.2", "udp/two.example", "tcp/*.example:"+port), who())
			case 1:
				fmt.Fprintf(&b, "allow udp/127.0.0.0/30:%s%s\n", port, who())
			case 2:
				fmt.Fprintf(&b, "allow tcp/127.0.0.0/30:%s%s\n", port, who())
			case 3:
				fmt.Fprintf(&b, "allow udp/*:%s%s\n", port, who())
			default:
				fmt.Fprintf(&b, "allow udp/%s:%s%s\n", pick("one.example", "*.example", "127.0.0.1", "nowhere.example"), port, who())
			}
		}
		rules := b.String() + "}\n"
		config := global("", "") + users(rules)
		if round == 0 {
			start(t, config)
		} else if err := load(config); err != nil {
			t.Fatalf("round %d: %v\n%s", round, err, rules)
		}
		p := connect(t, siteURL, aliceOfOps)
		for _, target := range targets {
			want := explain(t, "alice", target, "ops")
			codes[want.Code]++
			parsed, err := tunnel.ParseTarget(target)
			if err != nil {
				t.Fatal(err)
			}
			if parsed.Named() && target != "stream" {
				parsed.Kind = tunnel.KindNamedDatagram
			}
			var ep tunnel.Endpoint
			if parsed.Datagrams() {
				_, ep = tunnel.NewDatagramConn(tunnel.Addr{Net: "webrtc"}, tunnel.Addr{Net: "webrtc"})
			} else {
				_, ep = tunnel.NewConn(tunnel.Addr{Net: "webrtc"}, tunnel.Addr{Net: "webrtc"})
			}
			ctx, cancel := context.WithTimeout(t.Context(), long)
			_, err = p.session.Open(ctx, parsed, ep)
			cancel()
			got := tunnel.CodeOf(err)
			if got == framecodec.CodeRefused && !parsed.Datagrams() {
				got = framecodec.CodeNormal // allowed, and nobody listens
			}
			if got != want.Code {
				t.Errorf("round %d, %s: %v, explain says %v (%s)\n%s", round, target, got, want.Code, want.Reason, rules)
			}
		}
		p.close()
	}
	if codes[framecodec.CodeNormal] < 5 || codes[framecodec.CodeNotAllowed] < 5 {
		t.Errorf("%v: the policies say little", codes)
	}
}
