package policy

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/culvertgate/culvert/tunnel"
)

// zone is a Resolver with fixed answers; a name without one does not exist.
type zone map[string][]string

func (z zone) LookupNetIP(_ context.Context, network, name string) ([]netip.Addr, error) {
	if network != "ip" {
		return nil, errors.New("looked up for " + network)
	}
	list, ok := z[name]
	if !ok {
		return nil, &net.DNSError{Err: "no such host", Name: name, IsNotFound: true}
	}
	var out []netip.Addr
	for _, a := range list {
		out = append(out, netip.MustParseAddr(a))
	}
	return out, nil
}

// counted counts look-ups and changes the answers of z from the second on.
type counted struct {
	zone
	then  []string
	count atomic.Int32
}

func (c *counted) LookupNetIP(ctx context.Context, network, name string) ([]netip.Addr, error) {
	if c.count.Add(1) > 1 && c.then != nil {
		return zone{name: c.then}.LookupNetIP(ctx, network, name)
	}
	return c.zone.LookupNetIP(ctx, network, name)
}

var officeZone = zone{
	"web":                  {"172.18.0.3"},
	"public.example":       {"8.8.8.8", "2606:4700::2"},
	"mapped.example":       {"::ffff:8.8.8.8", "8.8.8.8"},
	"rebound.example":      {"127.0.0.1"},
	"half.example":         {"8.8.8.8", "10.0.0.7"},
	"nat64.example":        {"64:ff9b::7f00:1"},
	"a.internal.example":   {"10.1.2.3"},
	"bad.internal.example": {"10.1.2.3", "10.0.0.13"},
	"lo.internal.example":  {"127.0.0.1"},
	"own.internal.example": {"10.0.0.1"},
	"ssh.example":          {"10.0.0.7", "10.0.0.8"},
	"ssh2.example":         {"10.0.0.7", "8.8.8.8"},
	"localhost":            {"127.0.0.1", "::1"},
	"empty.example":        {},
}

func TestExplain(t *testing.T) {
	p := office(t)
	tests := []struct {
		target    tunnel.Target
		code      string
		rule      string
		addresses string // considered, those refused with a !
	}{
		{named("ssh"), "normal", "targets[0]", "10.0.0.5:22"},
		{named("local"), "normal", "targets[2]", "127.0.0.1:8080 [::1]:8080"},
		{named("web"), "normal", "targets[4]", "172.18.0.3:80"},
		{named("admin"), "not_allowed", "addresses.forbidden", "!127.0.0.1:2019"},
		{named("alice"), "not_allowed", "targets[5]", ""},
		{named("nothing"), "unknown_target", "targets", ""},
		{tcp("10.0.0.7", 22), "normal", "dynamic.rules[0]", "10.0.0.7:22"},
		{tcp("10.0.0.13", 22), "not_allowed", "dynamic.rules[8]", "!10.0.0.13:22"},
		{tcp("public.example", 443), "normal", "dynamic.rules[2]", "8.8.8.8:443 [2606:4700::2]:443"},
		{tcp("PUBLIC.example.", 443), "normal", "dynamic.rules[2]", "8.8.8.8:443 [2606:4700::2]:443"},
		{tcp("mapped.example", 443), "normal", "dynamic.rules[2]", "8.8.8.8:443"},
		{tcp("public.example", 80), "not_allowed", "dynamic", ""},
		{tcp("rebound.example", 443), "not_allowed", "addresses.loopback", "!127.0.0.1:443"},
		{tcp("half.example", 443), "not_allowed", "addresses.private", "8.8.8.8:443 !10.0.0.7:443"},
		{tcp("nat64.example", 443), "not_allowed", "addresses.loopback", "![64:ff9b::7f00:1]:443"},
		{tcp("a.internal.example", 443), "normal", "dynamic.rules[1]", "10.1.2.3:443"},
		{tcp("bad.internal.example", 443), "not_allowed", "dynamic.rules[8]", "10.1.2.3:443 !10.0.0.13:443"},
		{tcp("lo.internal.example", 443), "not_allowed", "addresses.loopback", "!127.0.0.1:443"},
		{tcp("own.internal.example", 443), "not_allowed", "addresses.this_host", "!10.0.0.1:443"},
		{tcp("localhost", 443), "not_allowed", "addresses.loopback", "!127.0.0.1:443 ![::1]:443"},
		{tcp("localhost", 8081), "not_allowed", "addresses.loopback", "127.0.0.1:8081 ![::1]:8081"},
		{tcp("127.1", 443), "not_allowed", "host", ""},
		{flow("dns"), "normal", "targets[6]", "127.0.0.1:2019 10.0.0.53:53"},
		{named("dns"), "unknown_target", "targets", ""},
		{flow("ssh"), "unknown_target", "targets", ""},
		{flow("socket"), "not_allowed", "addresses.forbidden", "!127.0.0.1:443 ![::1]:443"},
		{udp("10.0.0.7", 53), "normal", "dynamic.rules[12]", "10.0.0.7:53"},
		{udp("10.0.0.13", 53), "not_allowed", "dynamic.rules[8]", "!10.0.0.13:53"},
		{udp("a.internal.example", 53), "normal", "dynamic.rules[13]", "10.1.2.3:53"},
		{udp("lo.internal.example", 53), "not_allowed", "addresses.loopback", "!127.0.0.1:53"},
		{udp("public.example", 123), "normal", "dynamic.rules[14]", "8.8.8.8:123 [2606:4700::2]:123"},
		{udp("public.example", 443), "not_allowed", "dynamic", "!8.8.8.8:443 ![2606:4700::2]:443"},
		{udp("public.example", 80), "not_allowed", "dynamic", ""},
		// By address rules only: allowed as a whole, and no word about the look-up.
		{tcp("ssh.example", 22), "normal", "dynamic.rules[0]", "10.0.0.7:22 10.0.0.8:22"},
		{tcp("ssh2.example", 22), "not_allowed", "dynamic", "10.0.0.7:22 !8.8.8.8:22"},
		{tcp("missing.example", 22), "not_allowed", "dynamic", ""},
		{tcp("empty.example", 22), "not_allowed", "dynamic", ""},
		// By a name rule: the look-up's outcome may be told.
		{tcp("missing.example", 443), "resolve_failed", "dynamic.rules[2]", ""},
		{tcp("empty.example", 443), "resolve_failed", "dynamic.rules[2]", ""},
	}
	for _, tt := range tests {
		e := p.Explain(t.Context(), Subject{}, tt.target, officeZone)
		var considered []string
		for _, a := range e.Addresses {
			text := a.Address
			if !a.Allowed {
				text = "!" + text
			}
			considered = append(considered, text)
		}
		if e.CodeName != tt.code || e.Rule.String() != tt.rule || strings.Join(considered, " ") != tt.addresses || e.Reason == "" {
			t.Errorf("%v: %s by %s (%s) %v, want %s by %s, %s", tt.target, e.CodeName, e.Rule, e.Reason, considered, tt.code, tt.rule, tt.addresses)
		}
	}
}

func TestExplainJSON(t *testing.T) {
	p := mustNew(t, Config{Endpoint: "gw", Dynamic: &Dynamic{Rules: []Rule{{Text: "tcp/10.0.0.0/8:22", Position: "Caddyfile:9"}}}})
	got, err := json.Marshal(p.Explain(t.Context(), Subject{}, tcp("10.0.0.7", 22), zone{}))
	if err != nil {
		t.Fatal(err)
	}
	rule := `{"endpoint":"gw","list":"dynamic.rules","index":0,"text":"allow tcp/10.0.0.0/8:22","position":"Caddyfile:9"}`
	want := `{"allowed":true,"rule":` + rule + `,"reason":"the rule covers the address","code":"normal",` +
		`"addresses":[{"address":"10.0.0.7:22","allowed":true,"rule":` + rule + `,"reason":"the rule covers the address"}]}`
	if string(got) != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

// Many addresses of a name: 16 are dialled, one bad one refuses them all.
func TestManyAddresses(t *testing.T) {
	p := office(t)
	var list []string
	for i := range 40 {
		list = append(list, netip.AddrFrom4([4]byte{8, 8, 9, byte(i)}).String())
	}
	many := zone{"many.example": list, "tail.example": append(list[:39:39], "10.0.0.7")}
	if e := p.Explain(t.Context(), Subject{}, tcp("many.example", 443), many); !e.Allowed || len(e.Addresses) != maxAddresses {
		t.Errorf("allowed %v, %d addresses", e.Allowed, len(e.Addresses))
	}
	steps, _ := p.plan(Subject{}, tcp("many.example", 443))
	if usable, _, err := p.addresses(t.Context(), many, Subject{}, tcp("many.example", 443), &steps[0]); err != nil || len(usable) != maxAddresses {
		t.Errorf("%d usable, %v", len(usable), err)
	}
	e := p.Explain(t.Context(), Subject{}, tcp("tail.example", 443), many)
	if e.Allowed || e.Addresses[len(e.Addresses)-1].Address != "10.0.0.7:443" {
		t.Errorf("the fortieth address is denied: %+v", e)
	}
}
