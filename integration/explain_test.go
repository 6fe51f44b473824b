package integration

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/culvertgate/culvert/framecodec"
	"github.com/culvertgate/culvert/internal/testkit"
)

// explained is what explain tells of a target.
type explained struct {
	Allowed   bool
	Code      framecodec.Code
	Reason    string
	Rule      struct{ List, Text, Position string }
	Addresses []struct{ Address string }
}

func explain(t *testing.T, identity, target string, groups ...string) explained {
	t.Helper()
	var got explained
	if status := admin(t, http.MethodPost, "/webrtc_tunnel/explain", question(t, identity, target, groups), &got); status != http.StatusOK {
		t.Fatalf("explain %s: status %d", target, status)
	}
	return got
}

// question is the body of a request to explain.
func question(t *testing.T, identity, target string, groups []string) string {
	t.Helper()
	body, err := json.Marshal(map[string]any{"endpoint": "gw", "identity": identity, "groups": groups, "target": target})
	if err != nil {
		t.Fatal(err)
	}
	return string(body)
}

// TestExplainIsWhatOpensDo: over generated policies, each target that explain
// allows is reached by every path that can name it, and each that it refuses is
// refused by all of them with the same code.
func TestExplainIsWhatOpensDo(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	rng := rand.New(rand.NewPCG(seed, 1))
	t.Logf("seed %d", seed)
	w := newPaths(t, netAddr(t))
	config := func(rules string) string {
		return global(remoteHere+" {\nheader X-User alice\nheader X-Groups ops\n}", w.entries()) + users(rules)
	}
	var codes = map[framecodec.Code]int{}
	for round := range 6 {
		rules := w.generate(rng)
		if round == 0 {
			start(t, config(rules))
		} else if err := load(config(rules)); err != nil {
			t.Fatalf("round %d: %v\n%s", round, err, rules)
		}
		w.connect(t)
		for _, target := range w.targets {
			want := explain(t, "alice", target, "ops")
			codes[want.Code]++
			if want.Reason == "" || want.Allowed != (want.Code == framecodec.CodeNormal) {
				t.Errorf("%s: explain says %+v", target, want)
			}
			for path, got := range w.openAll(t, target) {
				if got.outcome != got.expressed(want.Code) {
					t.Errorf("round %d, %s by %s: %s, explain says %v (%s)\n%s", round, target, path, got.outcome, want.Code, want.Reason, rules)
				}
			}
		}
		w.close()
	}
	for _, c := range []framecodec.Code{framecodec.CodeNormal, framecodec.CodeNotAllowed} {
		if codes[c] < 10 {
			t.Errorf("only %d of the targets were %v: the policies say little", codes[c], c)
		}
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

// names are what the test's DNS server knows. Nothing may lead to an address
// that is neither refused nor of this machine.
var names = map[string][]string{
	"one.example.":      {"127.0.0.1"},
	"two.example.":      {"127.0.0.2", "127.0.0.3"},
	"deep.sub.example.": {"127.0.0.2"},
	"private.example.":  {"10.11.12.13"},
	"mixed.example.":    {"127.0.0.1", "10.11.12.13"},
}

// newPaths makes what the rounds have in common: targets, a DNS server, and a
// listener for each target that leads to nothing else.
func newPaths(t *testing.T, port string) *paths {
	w := &paths{port: port, dns: startDNS(t, names), listeners: map[string]string{}}
	w.targets = []string{
		"named", "ops", "byname", "pair", "nosuch",
		"tcp/127.0.0.1:2999", "tcp/[::ffff:127.0.0.2]:" + port, "tcp/0x7f000001:" + port, "tcp/127.1:" + port, "tcp/10.11.12.13:" + port,
	}
	for _, host := range []string{
		"127.0.0.1", "127.0.0.2", "127.0.0.3", "127.0.0.4", "one.example", "two.example", "deep.sub.example", "private.example", "mixed.example",
		"nowhere.example", "ONE.Example.", "localhost",
	} {
		w.targets = append(w.targets, "tcp/"+net.JoinHostPort(host, port))
	}
	for _, target := range w.targets {
		w.listeners[target] = testkit.FreeTCP(t)
	}
	return w
}

// generate makes rules, all about a few loopback addresses and names.
func (w *paths) generate(rng *rand.Rand) string {
	pick := func(of ...string) string { return of[rng.IntN(len(of))] }
	host := func() string { return fmt.Sprintf("127.0.0.%d", 1+rng.IntN(4)) }
	who := func() string {
		return pick("", "", " {\nusers alice\n}", " {\nusers bob\n}", " {\ngroups ops\n}", " {\ngroups dev\nusers carol\n}")
	}
	var b strings.Builder
	fmt.Fprintf(&b, "groups {http.request.header.X-Groups}\ndialects 1 2\ndefault_target named\nlimits {\ntunnels_per_identity 64\n}\n")
	fmt.Fprintf(&b, "target named tcp/%s:%s%s\n", host(), w.port, who())
	fmt.Fprintf(&b, "target ops tcp/%s:%s {\ngroups %s\n}\n", host(), w.port, pick("ops", "dev"))
	// Explain tells of breakers apart (TestBreaker): what leads nowhere would open one.
	fmt.Fprintf(&b, "target byname tcp/%s:%s {\nbreaker off\n}\n", pick("one.example", "nowhere.example", "localhost"), w.port)
	fmt.Fprintf(&b, "target pair tcp/127.0.0.5:1 tcp/%s:%s%s\n", host(), w.port, who())
	fmt.Fprintf(&b, "dynamic {\nresolver %s\n", w.dns)
	for range 2 + rng.IntN(6) {
		switch rng.IntN(8) {
		case 0:
			fmt.Fprintf(&b, "deny %s%s\n", pick(host(), "two.example", "*.sub.example", "tcp/*.example:"+w.port), who())
		case 1, 2:
			fmt.Fprintf(&b, "allow tcp/127.0.0.0/30:%s%s\n", w.port, who())
		case 3:
			fmt.Fprintf(&b, "allow tcp/*:%s%s\n", w.port, who())
		case 4, 5:
			fmt.Fprintf(&b, "allow tcp/%s:%s%s\n", pick("one.example", "*.example", "*.sub.example", "mixed.example", "nowhere.example", "deep.sub.example"), w.port, who())
		case 6:
			fmt.Fprintf(&b, "allow tcp/*.sub.example:%s private%s\n", w.port, who())
		default:
			fmt.Fprintf(&b, "allow tcp/%s:%s%s\n", host(), w.port, who())
		}
	}
	b.WriteString("}\n")
	return b.String()
}
