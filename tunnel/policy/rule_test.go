package policy

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/culvertgate/culvert/tunnel"
)

func TestParseRule(t *testing.T) {
	tests := []struct {
		in      Rule
		covers  string // an address, or
		name    string // a name that it matches
		not     string // an address or name that it does not
		open    uint16
		shut    uint16
		private bool
	}{
		{in: Rule{Text: "tcp/10.0.0.0/8:22,8000-8100"}, covers: "10.255.0.1", not: "11.0.0.1", open: 8050, shut: 23},
		{in: Rule{Text: "tcp/10.0.0.5:22"}, covers: "10.0.0.5", not: "10.0.0.6", open: 22, shut: 2222},
		{in: Rule{Text: "tcp/[2001:db8::/32]:53"}, covers: "2001:db8:1::1", not: "2001:db9::1", open: 53, shut: 54},
		{in: Rule{Text: "tcp/[::1]:1-65535"}, covers: "::1", not: "::2", open: 65535},
		{in: Rule{Text: "tcp/*.internal.example:443 private"}, name: "a.b.internal.example", not: "internal.example", open: 443, shut: 80, private: true},
		{in: Rule{Text: "tcp/*.Internal.Example.:443", Private: true}, name: "a.internal.example", not: "ainternal.example", open: 443, private: true},
		{in: Rule{Text: "tcp/db.example:5432"}, name: "db.example", not: "a.db.example", open: 5432, shut: 5433},
		{in: Rule{Text: "tcp/*:443"}, name: "anything.example", open: 443, shut: 80},
		{in: Rule{Text: "10.0.0.13", Deny: true}, covers: "10.0.0.13", not: "10.0.0.14", open: 1},
		{in: Rule{Text: "10.0.0.0/24", Deny: true}, covers: "10.0.0.14", not: "10.0.1.1", open: 65535},
		{in: Rule{Text: "10.0.0.13:22", Deny: true}, covers: "10.0.0.13", not: "10.0.0.14", open: 22, shut: 23},
		{in: Rule{Text: "tcp/10.0.0.13", Deny: true}, covers: "10.0.0.13", not: "10.0.0.14", open: 22},
		{in: Rule{Text: "2001:db8::1", Deny: true}, covers: "2001:db8::1", not: "2001:db8::2", open: 22},
		{in: Rule{Text: "[2001:db8::]", Deny: true}, covers: "2001:db8::", not: "2001:db8::2", open: 22},
		{in: Rule{Text: "2001:db8::/32", Deny: true}, covers: "2001:db8::1", not: "2001:db9::2", open: 22},
		{in: Rule{Text: "*.evil.example", Deny: true}, name: "a.evil.example", not: "evil.example", open: 22},
		{in: Rule{Text: "udp/[2001:db8::/32]:53"}, covers: "2001:db8:1::1", not: "2001:db9::1", open: 53, shut: 54},
		{in: Rule{Text: "udp/10.0.0.0/8:53,123"}, covers: "10.0.0.1", not: "11.0.0.1", open: 123, shut: 80},
		{in: Rule{Text: "udp/*.internal.example:53 private"}, name: "a.internal.example", not: "internal.example", open: 53, shut: 54, private: true},
		{in: Rule{Text: "udp/*:443"}, name: "anything.example", open: 443, shut: 80},
		{in: Rule{Text: "udp/10.0.0.13", Deny: true}, covers: "10.0.0.13", not: "10.0.0.14", open: 22},
		{in: Rule{Text: "udp/*.evil.example:53", Deny: true}, name: "a.evil.example", not: "evil.example", open: 53, shut: 54},
		{in: Rule{Text: "tcp/::ffff:10.0.0.5", Deny: true}, covers: "10.0.0.5", not: "10.0.0.6", open: 22},
	}
	for _, tt := range tests {
		r, err := parseRule(tt.in)
		if err != nil {
			t.Errorf("%+v: %v", tt.in, err)
			continue
		}
		if tt.covers != "" && !r.covers(netip.MustParseAddr(tt.covers)) || tt.name != "" && !r.matchesName(tt.name) {
			t.Errorf("%q does not match %s%s", tt.in.Text, tt.covers, tt.name)
		}
		if a, err := netip.ParseAddr(tt.not); err == nil && r.covers(a) || err != nil && tt.not != "" && r.matchesName(tt.not) {
			t.Errorf("%q matches %s", tt.in.Text, tt.not)
		}
		for kind, other := range map[tunnel.Kind]string{tunnel.KindTCP: "udp/", tunnel.KindUDP: "tcp/"} {
			if concerned := !strings.HasPrefix(tt.in.Text, other); r.concerns(Subject{}, kind, tt.open) != concerned {
				t.Errorf("%q concerns kind %d: %v", tt.in.Text, kind, !concerned)
			}
			if tt.shut != 0 && r.concerns(Subject{}, kind, tt.shut) {
				t.Errorf("%q: ports %v", tt.in.Text, r.ports)
			}
		}
		if r.private != tt.private {
			t.Errorf("%q: private is %v", tt.in.Text, r.private)
		}
	}
}

// Each error names what to change.
func TestParseRuleErrors(t *testing.T) {
	tests := []struct {
		in   Rule
		want string
	}{
		{Rule{Text: ""}, "one word"},
		{Rule{Text: "tcp/10.0.0.5:22 privat"}, "followed by private"},
		{Rule{Text: "tcp/10.0.0.5"}, "needs its ports: 10.0.0.5:443"},
		{Rule{Text: "tcp/*.example"}, "needs its ports"},
		{Rule{Text: "tcp/[2001:db8::1]"}, "needs its ports"},
		{Rule{Text: "10.0.0.0/8:22"}, "network in front: tcp/10.0.0.0/8:22"},
		{Rule{Text: "db.example:22"}, "network in front"},
		{Rule{Text: "udp/10.0.0.5"}, "needs its ports: 10.0.0.5:443"},
		{Rule{Text: "udp/2001:db8::1:53"}, "in brackets"},
		{Rule{Text: "udp/10.0.0.5:0"}, "not a port"},
		{Rule{Text: "udp/*:443", Private: true}, "* never opens private"},
		{Rule{Text: "sctp/10.0.0.0/8:53"}, "network in front"},
		{Rule{Text: "unix//run/x"}, "named target"},
		{Rule{Text: "tcp/2001:db8::1:22"}, "in brackets"},
		{Rule{Text: "tcp/[10.0.0.1]:22"}, "brackets hold an IPv6"},
		{Rule{Text: "tcp/[2001:db8::1:22"}, "brackets hold an IPv6"},
		{Rule{Text: "tcp/[2001:db8::1]22"}, "brackets hold an IPv6"},
		{Rule{Text: "tcp/10.0.0.5:"}, "not a port"},
		{Rule{Text: "tcp/10.0.0.5:0"}, "not a port"},
		{Rule{Text: "tcp/10.0.0.5:65536"}, "not a port"},
		{Rule{Text: "tcp/10.0.0.5:+22"}, "not a port"},
		{Rule{Text: "tcp/10.0.0.5:022"}, "not a port"},
		{Rule{Text: "tcp/10.0.0.5:ssh"}, "not a port"},
		{Rule{Text: "tcp/10.0.0.5:22,"}, "not a port"},
		{Rule{Text: "tcp/10.0.0.5:20-10"}, "other way round"},
		{Rule{Text: "tcp/10.0.0.5/8:22"}, "write 10.0.0.0/8, or 10.0.0.5"},
		{Rule{Text: "tcp/[::ffff:10.0.0.0/104]:22"}, "in their own form"},
		{Rule{Text: "tcp/10.0.0.0/33:22"}, "not a CIDR"},
		{Rule{Text: "tcp/10/8:22"}, "not a CIDR"},
		{Rule{Text: "tcp/127.1:22"}, "four decimal numbers"},
		{Rule{Text: "tcp/0x7f000001:22"}, "four decimal numbers"},
		{Rule{Text: "tcp/:22"}, "empty"},
		{Rule{Text: "tcp/*.10.0.0.1:22"}, "as a CIDR"},
		{Rule{Text: "tcp/*example:22"}, "stands alone"},
		{Rule{Text: "tcp/a.*.example:22"}, "stands alone"},
		{Rule{Text: "tcp/*.:22"}, "empty"},
		{Rule{Text: "tcp/*:443", Private: true}, "* never opens private"},
		{Rule{Text: "tcp/10.0.0.0/8:443", Private: true}, "opens what it covers anyway"},
		{Rule{Text: "*.example", Deny: true, Private: true}, "belongs to an allow rule"},
		{Rule{Text: "tcp/10.0.0.5:22", Users: []string{"alice", ""}}, "name is empty"},
		{Rule{Text: "tcp/10.0.0.5:22", Groups: []string{""}}, "name is empty"},
	}
	for _, tt := range tests {
		if _, err := parseRule(tt.in); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%+v: %v, want %q", tt.in, err, tt.want)
		}
	}
}
