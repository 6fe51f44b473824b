package policy

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/culvertgate/culvert/framecodec"
	"github.com/culvertgate/culvert/tunnel"
)

// The small world of the property: few ports, names and addresses, so that
// rules and targets meet.
var (
	worldPorts = []uint16{22, 443, 2019}
	worldNames = []string{"a.example", "b.a.example", "example", "a.test", "localhost", "c.b.a.example"}
	worldAddrs = []string{
		"8.8.8.8", "9.9.9.9", "10.0.0.5", "10.0.0.13", "192.168.1.1", "127.0.0.1", "127.0.0.2", "169.254.169.254",
		"100.64.0.1", "0.0.0.0", "203.0.113.9", "8.8.4.4", "10.0.0.1", "2606:4700::2", "fd00::5", "::1", "fe80::1",
		"64:ff9b::7f00:1", "64:ff9b::808:808", "64:ff9b::a00:5", "2002:7f00:1::", "::ffff:127.0.0.1", "::ffff:10.0.0.5", "::", "fd00:ec2::254",
	}
	worldNets = []string{
		"10.0.0.0/8", "10.0.0.5", "127.0.0.0/8", "0.0.0.0/0", "8.8.8.8", "192.168.0.0/16", "169.254.0.0/16",
		"[::/0]", "[64:ff9b::/96]", "[fd00::/8]", "[::1]", "203.0.113.0/24", "8.8.0.0/16",
	}
	worldPatterns = []string{"*.example", "*.a.example", "a.example", "a.test", "localhost", "*"}
	worldOwn      = []netip.Addr{netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("8.8.4.4")}
)

// Half of the world is TCP's.
var worldNetwork = rapid.SampledFrom([]string{"tcp/", "udp/"})

var kindOf = map[string]tunnel.Kind{"tcp/": tunnel.KindNamed, "udp/": tunnel.KindNamedDatagram}

type world struct {
	cfg     Config
	policy  *Policy
	subject Subject
	target  tunnel.Target
	zone    zone
}

func drawWorld(t *rapid.T) world {
	var w world
	users := rapid.SampledFrom([][]string{nil, nil, {"alice"}, {"bob"}})
	rules := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) Rule {
		r := Rule{Deny: rapid.IntRange(0, 4).Draw(t, "deny") == 0, Users: users.Draw(t, "users")}
		host := rapid.SampledFrom(slices.Concat(worldNets, worldPatterns)).Draw(t, "host")
		ports := rapid.SampledFrom([]string{":22", ":443", ":22,443", ":1-65535"}).Draw(t, "ports")
		r.Text = worldNetwork.Draw(t, "network") + host + ports
		r.Private = slices.Contains(worldPatterns, host) && host != "*" && !r.Deny && rapid.Bool().Draw(t, "private")
		if r.Deny && rapid.Bool().Draw(t, "any port") {
			r.Text = host
		}
		return r
	}), 0, 6).Draw(t, "rules")
	network := worldNetwork.Draw(t, "network of the target")
	address := rapid.Custom(func(t *rapid.T) string {
		if network == "tcp/" && rapid.IntRange(0, 5).Draw(t, "unix") == 0 {
			return "unix//run/" + rapid.SampledFrom([]string{"a", "admin"}).Draw(t, "socket")
		}
		host := rapid.SampledFrom(slices.Concat(worldNames, worldAddrs)).Filter(func(h string) bool {
			a, err := netip.ParseAddr(h)
			return err != nil || !a.IsUnspecified()
		}).Draw(t, "address")
		if strings.Contains(host, ":") {
			host = "[" + host + "]"
		}
		return fmt.Sprintf("%s%s:%d", network, host, rapid.SampledFrom(worldPorts).Draw(t, "port"))
	})
	w.cfg = Config{
		Endpoint:      "gw",
		Targets:       []NamedTarget{{Name: "t", Addresses: rapid.SliceOfN(address, 1, 3).Draw(t, "addresses"), Users: users.Draw(t, "users")}},
		HostAddresses: func() []netip.Addr { return worldOwn },
		Forbidden: func() []Listener {
			return slices.Concat(Listeners("tcp", "", 2019, "the admin endpoint"), Listeners("unix", "/run/admin", 0, "the admin endpoint"),
				Listeners("udp", "", 443, "the socket"))
		},
	}
	if rapid.IntRange(0, 9).Draw(t, "dynamic") > 0 {
		w.cfg.Dynamic = &Dynamic{Rules: rules}
	}
	p, err := New(w.cfg)
	if err != nil {
		t.Fatal(err)
	}
	w.policy = p
	w.subject = rapid.SampledFrom([]Subject{{}, {Identity: "alice"}, {Identity: "bob"}, {Identity: "alice", Anonymous: true}}).Draw(t, "subject")
	w.target = tunnel.Target{Kind: kindOf[network], Host: rapid.SampledFrom([]string{"t", "t", "", "x"}).Draw(t, "name")}
	if rapid.IntRange(0, 19).Draw(t, "wrong kind") == 0 {
		w.target.Kind = rapid.SampledFrom([]tunnel.Kind{tunnel.KindNamed, tunnel.KindNamedDatagram}).Draw(t, "named kind")
	}
	if rapid.IntRange(0, 3).Draw(t, "kind") > 0 {
		to := rapid.SampledFrom([]func(string, uint16) tunnel.Target{tcp, udp}).Draw(t, "host kind")
		w.target = to(rapid.SampledFrom(slices.Concat(worldNames, worldAddrs, []string{"127.1", "A.Example."})).Draw(t, "host"),
			rapid.SampledFrom(worldPorts).Draw(t, "port"))
	}
	w.zone = zone{}
	for _, name := range worldNames {
		if rapid.IntRange(0, 5).Draw(t, "exists") > 0 {
			w.zone[name] = rapid.SliceOfN(rapid.SampledFrom(worldAddrs), 0, 3).Draw(t, "answer")
		}
	}
	return w
}

// Explain says what an open does, and an open dials nothing that the law denies.
func TestExplainAgreesWithDial(t *testing.T) {
	outcomes, flows := map[tunnel.Code]int{}, 0
	check := func(t *rapid.T) {
		w := drawWorld(t)
		r := &recorder{networks: true}
		again := &counted{zone: w.zone, then: []string{"127.0.0.1", "169.254.169.254", "10.0.0.13"}}
		d := Dialer{Resolver: w.zone, Connect: r.connect}
		if len(w.cfg.Targets[0].Addresses) == 1 || !w.target.Named() {
			d.Resolver = again // one name at most: its second answer must not matter
		}
		e := w.policy.Explain(t.Context(), w.subject, w.target, w.zone)
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		c, at, err := d.Dial(ctx, w.policy, w.subject, w.target)
		if err == nil {
			_ = c.Close()
		}
		outcomes[tunnel.CodeOf(err)]++
		if at.UDP {
			flows++
		}
		if e.Allowed != (err == nil) || e.Code != tunnel.CodeOf(err) {
			t.Fatalf("%v: explained %+v\nopened %v, %v", w.target, e, at, err)
		}
		for _, a := range r.dialled {
			if why := w.denied(a); why != "" {
				t.Fatalf("%v dialled %s: %s", w.target, a, why)
			}
			if !slices.ContainsFunc(e.Addresses, func(c Considered) bool {
				return strings.TrimPrefix(strings.TrimPrefix(a, "tcp/"), "udp/") == c.Address && c.Allowed
			}) {
				t.Fatalf("%v dialled %s, which was not explained: %+v", w.target, a, e)
			}
		}
		if first := w.policy.Decide(w.subject, w.target); !first.Allowed && first.Code != e.Code {
			t.Fatalf("decided %+v, explained %+v", first, e)
		}
		if err == nil && !w.policy.CheckAddress(w.subject, w.target, at).Allowed {
			t.Fatalf("%v is open at %v and would be cut at once", w.target, at)
		}
	}
	rare := []tunnel.Code{framecodec.CodeNormal, framecodec.CodeNotAllowed, framecodec.CodeResolveFailed, framecodec.CodeUnknownTarget}
	missing := func(c tunnel.Code) bool { return outcomes[c] == 0 }
	for range 50 { // a hundred draws leave the rarest out once in twenty times
		if rapid.Check(t, check); t.Failed() || flows > 0 && !slices.ContainsFunc(rare, missing) {
			return
		}
	}
	t.Errorf("some of %v never came: %v, and %d flows", rare, outcomes, flows)
}

// denied is the law once more, written independently: why an address may not be
// dialled, or "".
func (w *world) denied(dialled string) string {
	if strings.HasPrefix(dialled, "/") {
		if dialled == "/run/admin" || w.target.Kind != tunnel.KindNamed {
			return "a socket that is ours, that a client named, or a flow's"
		}
		return ""
	}
	network, dialled, _ := strings.Cut(dialled, "/")
	flow := w.target.Kind == tunnel.KindUDP || w.target.Kind == tunnel.KindNamedDatagram
	if flow != (network == "udp") {
		return "another network"
	}
	ap := netip.MustParseAddrPort(dialled)
	all := []netip.Addr{ap.Addr()}
	switch b := ap.Addr().As16(); {
	case ap.Addr().Is4In6():
		return "not unmapped"
	case strings.HasPrefix(dialled, "[64:ff9b::"):
		all = append(all, netip.AddrFrom4([4]byte(b[12:])))
	case strings.HasPrefix(dialled, "[2002:"):
		all = append(all, netip.AddrFrom4([4]byte(b[2:6])))
	}
	for _, a := range all {
		if a.IsUnspecified() {
			return "unspecified"
		}
		if ap.Port() == map[string]uint16{"tcp": 2019, "udp": 443}[network] && (a.IsLoopback() || slices.Contains(worldOwn, a)) {
			return "one of our listeners"
		}
		if w.target.Named() && w.operatorWrote(ap) {
			continue
		}
		if !w.target.Named() && w.ruleHolds(a, ap.Port(), true) {
			return "a deny rule"
		}
		special := a.IsLoopback() || a.IsLinkLocalUnicast() || slices.Contains(worldOwn, a) || a.Is4() && a.As4()[0] == 100 ||
			strings.HasPrefix(a.String(), "203.0.113.") || a.String() == "fd00:ec2::254"
		private := a.IsPrivate() && (w.target.Named() || w.privateName())
		if (special || a.IsPrivate() && !private) && (w.target.Named() || !w.ruleHolds(a, ap.Port(), false)) {
			return "special, and no literal or CIDR allows it"
		}
	}
	return ""
}

func (w *world) operatorWrote(ap netip.AddrPort) bool {
	return slices.ContainsFunc(w.cfg.Targets[0].Addresses, func(text string) bool {
		_, text, _ = strings.Cut(text, "/")
		got, err := netip.ParseAddrPort(text)
		if err != nil {
			return strings.HasPrefix(text, "localhost:") && ap.Addr().IsLoopback() && strings.HasSuffix(text, fmt.Sprintf(":%d", ap.Port()))
		}
		return netip.AddrPortFrom(got.Addr().Unmap(), got.Port()) == ap
	})
}

// rulesOf calls f with host pattern and rule of each rule for this subject and
// port until f is true.
func (w *world) rulesOf(port uint16, deny bool, f func(host string, r Rule) bool) bool {
	if w.cfg.Dynamic == nil {
		return false
	}
	return slices.ContainsFunc(w.cfg.Dynamic.Rules, func(r Rule) bool {
		if r.Deny != deny || len(r.Users) > 0 && (w.subject.Anonymous || !slices.Contains(r.Users, w.subject.Identity)) {
			return false
		}
		text, ports := r.Text, ""
		if network, rest, _ := strings.Cut(text, "/"); network == "tcp" || network == "udp" {
			if (network == "udp") != (w.target.Kind == tunnel.KindUDP) {
				return false
			}
			at := strings.LastIndex(rest, ":")
			text, ports = rest[:at], rest[at+1:]
		}
		meant := ports == "" || ports == "1-65535" || slices.Contains(strings.Split(ports, ","), fmt.Sprint(port))
		return meant && f(strings.Trim(text, "[]"), r)
	})
}

func (w *world) ruleHolds(a netip.Addr, port uint16, deny bool) bool {
	return w.rulesOf(port, deny, func(host string, _ Rule) bool {
		if host == "*" {
			return deny
		}
		if one, err := netip.ParseAddr(host); err == nil {
			return one == a
		}
		p, err := netip.ParsePrefix(host)
		return err == nil && p.Contains(a)
	})
}

func (w *world) privateName() bool {
	name := strings.ToLower(strings.TrimSuffix(w.target.Host, "."))
	return w.rulesOf(w.target.Port, false, func(host string, r Rule) bool {
		suffix, isSuffix := strings.CutPrefix(host, "*")
		return r.Private && (host == name || isSuffix && strings.HasSuffix(name, suffix))
	})
}
