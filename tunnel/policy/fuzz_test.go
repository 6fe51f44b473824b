package policy

import (
	"net/netip"
	"testing"

	"github.com/culvertgate/culvert/tunnel"
)

// FuzzParseRule: a rule that is accepted speaks of exactly one thing, of some
// port, and opens what it covers and nothing beside it.
func FuzzParseRule(f *testing.F) {
	for _, s := range []string{
		"tcp/10.0.0.0/8:22,8000-8100", "tcp/[2001:db8::/32]:53", "udp/10.0.0.53:53", "tcp/db.example:5432", "tcp/*.internal.example:443 private",
		"tcp/*:443", "10.0.0.13", "*.example", "[2001:db8::1]", "10.0.0.0/8", "tcp/::ffff:10.0.0.1:1", "tcp/[::ffff:10.0.0.0/104]:1",
		"tcp/10.0.0.1:1-0", "tcp/10.0.0.1:1,", "tcp/*:1-65535 private", "unix//x", "tcp/0.0.0.0/0:1-65535", "tcp/bücher.example:80", "a b c", "*.*.x",
	} {
		f.Add(s, false)
		f.Add(s, true)
	}
	f.Fuzz(func(t *testing.T, s string, deny bool) {
		r, err := parseRule(Rule{Text: s, Deny: deny})
		if err != nil {
			return
		}
		speaks := 0
		for _, is := range []bool{r.prefix.IsValid(), r.name != "", r.suffix != "", r.every} {
			if is {
				speaks++
			}
		}
		if speaks != 1 {
			t.Fatalf("%q speaks of %d things: %+v", s, speaks, r)
		}
		if !deny && (r.kind == 0 || r.ports == nil) {
			t.Fatalf("%q allows without a network or ports: %+v", s, r)
		}
		if r.kind != 0 && r.kind != tunnel.KindTCP && r.kind != tunnel.KindUDP {
			t.Fatalf("%q is of kind %v", s, r.kind)
		}
		if r.private && (deny || r.every || r.prefix.IsValid()) {
			t.Fatalf("%q is private: %+v", s, r)
		}
		for _, p := range r.ports {
			if p.low == 0 || p.high < p.low {
				t.Fatalf("%q has ports %v", s, r.ports)
			}
		}
		if r.prefix.IsValid() {
			// Addresses are compared unmapped, and a prefix must be what it looks like.
			if r.prefix != r.prefix.Masked() || r.prefix.Addr().Is4In6() || !r.covers(r.prefix.Addr()) {
				t.Fatalf("%q covers %v", s, r.prefix)
			}
			if before := r.prefix.Addr().Prev(); before.IsValid() && r.covers(before) {
				t.Fatalf("%q covers %v too", s, before)
			}
		}
		// The same again is the same.
		if again, err := parseRule(Rule{Text: s, Deny: deny}); err != nil || again.prefix != r.prefix || again.name != r.name || again.suffix != r.suffix {
			t.Fatalf("%q is %+v, and the second time %+v, %v", s, r, again, err)
		}
	})
}

// FuzzParseAddress: the address of a named target leads somewhere definite.
func FuzzParseAddress(f *testing.F) {
	for _, s := range []string{
		"tcp/10.0.0.5:22", "udp/10.0.0.53:53", "tcp/localhost:80", "udp/localhost:53", "tcp/[::1]:1", "tcp/[::ffff:10.0.0.1]:1", "tcp/db.example:5432",
		"tcp/0.0.0.0:1", "tcp/[::]:1", "unix//run/app.sock", "unix/relative", "unix//a\x00b", "tcp/:1", "tcp/x", "tcp/x:0", "sctp/x:1", "tcp/[fe80::1%eth0]:1",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		kind, steps, err := parseAddress(s)
		if err != nil {
			return
		}
		if kind != tunnel.KindNamed && kind != tunnel.KindNamedDatagram || len(steps) == 0 {
			t.Fatalf("%q is of kind %v and has %d steps", s, kind, len(steps))
		}
		for _, step := range steps {
			switch {
			case step.name != "":
				if step.port == 0 || step.address != (Address{}) {
					t.Fatalf("%q leads to %+v", s, step)
				}
			case step.address.Path != "":
				if len(step.address.Path) > maxSocketPath || step.address.Addr.IsValid() || kind != tunnel.KindNamed {
					t.Fatalf("%q leads to %+v", s, step)
				}
			default:
				a := step.address
				if a.Port == 0 || !a.Addr.IsValid() || a.Addr.IsUnspecified() || a.Addr.Is4In6() || a.Addr.Zone() != "" || a.UDP != (kind == tunnel.KindNamedDatagram) {
					t.Fatalf("%q leads to %+v", s, step)
				}
				if netip.AddrPortFrom(a.Addr, a.Port).String() == "" {
					t.Fatalf("%q leads nowhere", s)
				}
			}
		}
	})
}
