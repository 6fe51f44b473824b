package policy

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/culvertgate/culvert/framecodec"
	"github.com/culvertgate/culvert/tunnel"
)

func tcp(host string, port uint16) tunnel.Target {
	return tunnel.Target{Kind: tunnel.KindTCP, Host: host, Port: port}
}

func udp(host string, port uint16) tunnel.Target {
	return tunnel.Target{Kind: tunnel.KindUDP, Host: host, Port: port}
}

func flow(name string) tunnel.Target {
	return tunnel.Target{Kind: tunnel.KindNamedDatagram, Host: name}
}

func named(name string) tunnel.Target { return tunnel.Target{Kind: tunnel.KindNamed, Host: name} }

// office is the configuration of the tables below: rules of all kinds, in an
// order in which the denials come last.
func office(t testing.TB) *Policy {
	return mustNew(t, Config{
		Endpoint:      "gw",
		DefaultTarget: "ssh",
		Targets: []NamedTarget{
			{Name: "ssh", Addresses: []string{"tcp/10.0.0.5:22"}},
			{Name: "admin", Addresses: []string{"tcp/127.0.0.1:2019"}},
			{Name: "local", Addresses: []string{"tcp/localhost:8080"}},
			{Name: "metadata", Addresses: []string{"tcp/169.254.169.254:80"}},
			{Name: "web", Addresses: []string{"tcp/web:80"}},
			{Name: "alice", Addresses: []string{"tcp/10.0.0.6:22"}, Users: []string{"alice"}},
			{Name: "dns", Addresses: []string{"udp/127.0.0.1:2019", "udp/10.0.0.53:53"}}, // 6: the port is the admin endpoint's, of TCP
			{Name: "socket", Addresses: []string{"udp/localhost:443"}},                   // 7: our own
			{Name: "time", Addresses: []string{"udp/time:123"}, Groups: []string{"ops"}}, // 8
		},
		Dynamic: &Dynamic{Rules: []Rule{
			{Text: "tcp/10.0.0.0/8:22,8000-8100"},                          // 0
			{Text: "tcp/*.internal.example:443 private"},                   // 1
			{Text: "tcp/*:443"},                                            // 2
			{Text: "tcp/127.0.0.0/8:8081"},                                 // 3
			{Text: "tcp/192.168.0.0/16:22", Users: []string{"alice"}},      // 4
			{Text: "tcp/[2001:db8::/32]:53"},                               // 5
			{Text: "tcp/[64:ff9b::/96]:22"},                                // 6
			{Text: "tcp/0.0.0.0/0:2019"},                                   // 7
			{Text: "10.0.0.13", Deny: true},                                // 8
			{Text: "*.evil.example", Deny: true},                           // 9
			{Text: "9.9.9.9:443", Deny: true, Groups: []string{"interns"}}, // 10
			{Text: "udp/[2001:db8::/32]:53"},                               // 11
			{Text: "udp/10.0.0.0/8:53,443"},                                // 12
			{Text: "udp/*.internal.example:53 private"},                    // 13
			{Text: "udp/*:123"},                                            // 14
			{Text: "udp/127.0.0.0/8:443,2019"},                             // 15
			{Text: "udp/10.0.0.14", Deny: true},                            // 16
			{Text: "tcp/10.0.0.15", Deny: true},                            // 17
			{Text: "udp/*.ntp.example", Deny: true},                        // 18
		}},
		HostAddresses: func() []netip.Addr {
			return []netip.Addr{netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("8.8.4.4"), netip.MustParseAddr("2606:4700::1")}
		},
		Forbidden: func() []Listener {
			l := Listeners("tcp", "", 2019, "the admin endpoint")
			l = append(l, Listeners("tcp", "10.0.0.77", 22, "an entry")...)
			return append(l, Listeners("udp", "", 443, "the UDP socket")...)
		},
	})
}

func TestDecide(t *testing.T) {
	p := office(t)
	alice := Subject{Identity: "alice"}
	intern := Subject{Identity: "bob", Groups: []string{"interns"}}
	const allowed, resolve = "allowed", "resolve"
	tests := []struct {
		subject Subject
		target  tunnel.Target
		want    string // allowed, resolve (allowed, if the addresses are), or the code
		rule    string
	}{
		// Named targets.
		{Subject{}, named("ssh"), allowed, "targets[0]"},
		{Subject{}, named(""), allowed, "targets[0]"},
		{Subject{}, named("metadata"), allowed, "targets[3]"},
		{Subject{}, named("local"), allowed, "targets[2]"},
		{Subject{}, named("web"), resolve, "targets[4]"},
		{alice, named("alice"), allowed, "targets[5]"},
		{Subject{}, named("alice"), "not_allowed", "targets[5]"},
		{intern, named("alice"), "not_allowed", "targets[5]"},
		{Subject{}, named("nothing"), "unknown_target", "targets"},
		{Subject{}, named("SSH"), "unknown_target", "targets"},
		{Subject{}, flow("ssh"), "unknown_target", "targets"},
		{Subject{}, flow(""), "unknown_target", "targets"},
		{Subject{}, flow("nothing"), "unknown_target", "targets"},
		{Subject{}, flow("dns"), allowed, "targets[6]"},
		{Subject{}, named("dns"), "unknown_target", "targets"},
		{Subject{}, flow("socket"), "not_allowed", "addresses.forbidden"},
		{Subject{}, flow("time"), "not_allowed", "targets[8]"},
		{Subject{}, named("time"), "not_allowed", "targets[8]"}, // whoever may not open it learns no more
		{Subject{Identity: "bob", Groups: []string{"ops"}}, flow("time"), resolve, "targets[8]"},
		{Subject{Identity: "bob", Groups: []string{"ops"}}, named("time"), "unknown_target", "targets"},
		{Subject{}, tunnel.Target{Host: "ssh"}, "unknown_target", "targets"},
		{Subject{}, tunnel.Target{Kind: 5, Host: "ssh"}, "unknown_target", "targets"},
		{Subject{}, named("admin"), "not_allowed", "addresses.forbidden"},

		// Address rules and their ports.
		{Subject{}, tcp("10.0.0.7", 22), allowed, "dynamic.rules[0]"},
		{Subject{}, tcp("10.0.0.7", 8100), allowed, "dynamic.rules[0]"},
		{Subject{}, tcp("10.0.0.7", 8101), "not_allowed", "addresses.private"},
		{Subject{}, tcp("::ffff:10.0.0.7", 22), allowed, "dynamic.rules[0]"},
		{Subject{}, tcp("::10.0.0.7", 22), allowed, "dynamic.rules[0]"},
		{Subject{}, tcp("10.0.0.1", 22), allowed, "dynamic.rules[0]"}, // this host, by CIDR
		{Subject{}, tcp("2001:db8::1", 53), allowed, "dynamic.rules[5]"},
		{Subject{}, tcp("2001:db8::1", 443), "not_allowed", "addresses.documentation"},
		{alice, tcp("192.168.1.1", 22), allowed, "dynamic.rules[4]"},
		{Subject{}, tcp("192.168.1.1", 22), "not_allowed", "addresses.private"},

		// The rules of one network say nothing of the other, but for what denies both.
		{Subject{}, udp("10.0.0.7", 22), "not_allowed", "addresses.private"},
		{Subject{}, udp("8.8.8.8", 443), "not_allowed", "dynamic"},
		{Subject{}, udp("10.0.0.7", 53), allowed, "dynamic.rules[12]"},
		{Subject{}, udp("::ffff:10.0.0.7", 53), allowed, "dynamic.rules[12]"},
		{Subject{}, tcp("10.0.0.7", 53), "not_allowed", "addresses.private"},
		{Subject{}, udp("2001:db8::1", 53), allowed, "dynamic.rules[11]"},
		{Subject{}, udp("2001:db8::1", 54), "not_allowed", "addresses.documentation"},
		{Subject{}, udp("10.0.0.13", 53), "not_allowed", "dynamic.rules[8]"},
		{Subject{}, udp("10.0.0.14", 53), "not_allowed", "dynamic.rules[16]"},
		{Subject{}, udp("::10.0.0.14", 53), "not_allowed", "dynamic.rules[16]"},
		{Subject{}, tcp("10.0.0.14", 22), allowed, "dynamic.rules[0]"},
		{Subject{}, udp("10.0.0.15", 53), allowed, "dynamic.rules[12]"},
		{Subject{}, tcp("10.0.0.15", 22), "not_allowed", "dynamic.rules[17]"},
		{Subject{}, udp("a.internal.example", 53), resolve, "dynamic.rules[13]"},
		{Subject{}, udp("a.evil.example", 123), "not_allowed", "dynamic.rules[9]"},
		{Subject{}, udp("a.ntp.example", 123), "not_allowed", "dynamic.rules[18]"},
		{Subject{}, tcp("a.ntp.example", 443), resolve, "dynamic.rules[2]"},
		{Subject{}, udp("8.8.8.8", 123), allowed, "dynamic.rules[14]"},
		{Subject{}, udp("8.8.4.4", 123), "not_allowed", "addresses.this_host"},
		{Subject{}, udp("224.0.1.1", 123), "not_allowed", "addresses.multicast"},
		{Subject{}, udp("255.255.255.255", 123), "not_allowed", "addresses.broadcast"},
		{Subject{}, udp("64:ff9b::e000:101", 123), "not_allowed", "addresses.multicast"},
		{Subject{}, udp("0.0.0.0", 123), "not_allowed", "addresses.unspecified"},
		{Subject{}, udp("127.1", 53), "not_allowed", "host"},
		{Subject{}, udp("8.8.8.8", 0), "not_allowed", "host"},

		// Our UDP socket is never reached; the admin endpoint's port is TCP's.
		{Subject{}, udp("127.0.0.1", 443), "not_allowed", "addresses.forbidden"},
		{Subject{}, udp("127.9.9.9", 443), "not_allowed", "addresses.forbidden"},
		{Subject{}, udp("10.0.0.1", 443), "not_allowed", "addresses.forbidden"},
		{Subject{}, udp("8.8.4.4", 443), "not_allowed", "addresses.forbidden"},
		{Subject{}, udp("10.0.0.7", 443), allowed, "dynamic.rules[12]"},
		{Subject{}, udp("127.0.0.1", 2019), allowed, "dynamic.rules[15]"},

		// deny wins although it is last, in every form of the address.
		{Subject{}, tcp("10.0.0.13", 22), "not_allowed", "dynamic.rules[8]"},
		{Subject{}, tcp("::ffff:10.0.0.13", 22), "not_allowed", "dynamic.rules[8]"},
		{Subject{}, tcp("64:ff9b::a00:d", 22), "not_allowed", "dynamic.rules[8]"},
		{Subject{}, tcp("a.evil.example", 443), "not_allowed", "dynamic.rules[9]"},
		{Subject{}, tcp("A.B.Evil.Example.", 443), "not_allowed", "dynamic.rules[9]"},
		{Subject{}, tcp("evil.example", 443), resolve, "dynamic.rules[2]"},
		{intern, tcp("9.9.9.9", 443), "not_allowed", "dynamic.rules[10]"},
		{alice, tcp("9.9.9.9", 443), allowed, "dynamic.rules[2]"},

		// * is names and public addresses.
		{Subject{}, tcp("8.8.8.8", 443), allowed, "dynamic.rules[2]"},
		{Subject{}, tcp("8.8.8.8", 80), "not_allowed", "dynamic"},
		{Subject{}, tcp("example.com", 443), resolve, "dynamic.rules[2]"},
		{Subject{}, tcp("example.com", 80), "not_allowed", "dynamic"},
		{Subject{}, tcp("a.internal.example", 443), resolve, "dynamic.rules[1]"},
		{Subject{}, tcp("host.example", 22), resolve, "dynamic"}, // by its addresses
		{Subject{}, tcp("8.8.4.4", 443), "not_allowed", "addresses.this_host"},
		{Subject{}, tcp("2606:4700::1", 443), "not_allowed", "addresses.this_host"},
		{Subject{}, tcp("2606:4700::2", 443), allowed, "dynamic.rules[2]"},
		{Subject{}, tcp("10.0.0.7", 443), "not_allowed", "addresses.private"},
		{Subject{}, tcp("127.0.0.1", 443), "not_allowed", "addresses.loopback"},
		{Subject{}, tcp("::1", 443), "not_allowed", "addresses.loopback"},
		{Subject{}, tcp("::ffff:127.0.0.1", 443), "not_allowed", "addresses.loopback"},
		{Subject{}, tcp("::7f00:1", 443), "not_allowed", "addresses.loopback"},
		{Subject{}, tcp("64:ff9b::7f00:1", 443), "not_allowed", "addresses.loopback"},
		{Subject{}, tcp("64:ff9b::808:808", 443), allowed, "dynamic.rules[2]"},
		{Subject{}, tcp("2002:7f00:1::", 443), "not_allowed", "addresses.loopback"},
		{Subject{}, tcp("2001:0:808:808:0:0:80ff:fffe", 443), "not_allowed", "addresses.loopback"},
		{Subject{}, tcp("64:ff9b:1::808:808", 443), "not_allowed", "addresses.reserved"},
		{Subject{}, tcp("169.254.169.254", 443), "not_allowed", "addresses.link_local"},
		{Subject{}, tcp("fe80::1", 443), "not_allowed", "addresses.link_local"},
		{Subject{}, tcp("fd00:ec2::254", 443), "not_allowed", "addresses.metadata"},
		{Subject{}, tcp("100.100.100.200", 443), "not_allowed", "addresses.shared"},
		{Subject{}, tcp("224.0.0.1", 443), "not_allowed", "addresses.multicast"},
		{Subject{}, tcp("255.255.255.255", 443), "not_allowed", "addresses.broadcast"},
		{Subject{}, tcp("192.0.2.1", 443), "not_allowed", "addresses.documentation"},
		{Subject{}, tcp("0.0.0.0", 443), "not_allowed", "addresses.unspecified"},
		{Subject{}, tcp("::", 443), "not_allowed", "addresses.unspecified"},
		{Subject{}, tcp("::ffff:0.0.0.0", 443), "not_allowed", "addresses.unspecified"},

		// A CIDR that covers NAT64 does not cover what is inside.
		{Subject{}, tcp("64:ff9b::a00:7", 22), allowed, "dynamic.rules[6]"}, // 10.0.0.7 has rule 0
		{Subject{}, tcp("64:ff9b::c0a8:101", 22), "not_allowed", "addresses.private"},
		{alice, tcp("64:ff9b::c0a8:101", 22), allowed, "dynamic.rules[6]"},
		{Subject{}, tcp("64:ff9b::7f00:1", 22), "not_allowed", "addresses.loopback"},

		// Forms of a host.
		{Subject{}, tcp("127.1", 443), "not_allowed", "host"},
		{Subject{}, tcp("0x7f000001", 443), "not_allowed", "host"},
		{Subject{}, tcp("2130706433", 443), "not_allowed", "host"},
		{Subject{}, tcp("0177.0.0.1", 443), "not_allowed", "host"},
		{Subject{}, tcp("", 443), "not_allowed", "host"},
		{Subject{}, tcp("fe80::1%lo", 443), "not_allowed", "host"},
		{Subject{}, tcp("8.8.8.8", 0), "not_allowed", "host"},
		{Subject{}, tcp("a b", 443), "not_allowed", "host"},
		{Subject{}, tcp("localhost", 443), resolve, "dynamic.rules[2]"},

		// What is never reached: wildcard listeners on every address of this host.
		{Subject{}, tcp("127.0.0.1", 2019), "not_allowed", "addresses.forbidden"},
		{Subject{}, tcp("127.77.0.1", 2019), "not_allowed", "addresses.forbidden"},
		{Subject{}, tcp("::ffff:127.0.0.1", 2019), "not_allowed", "addresses.forbidden"},
		{Subject{}, tcp("10.0.0.1", 2019), "not_allowed", "addresses.forbidden"},
		{Subject{}, tcp("8.8.4.4", 2019), "not_allowed", "addresses.forbidden"},
		{Subject{}, tcp("64:ff9b::a00:1", 2019), "not_allowed", "addresses.forbidden"},
		{Subject{}, tcp("0.0.0.0", 2019), "not_allowed", "addresses.unspecified"},
		{Subject{}, tcp("10.0.0.2", 2019), allowed, "dynamic.rules[7]"}, // another host's
		{Subject{}, tcp("10.0.0.77", 22), "not_allowed", "addresses.forbidden"},
	}
	for _, tt := range tests {
		d := p.Decide(tt.subject, tt.target)
		got := d.Code.String()
		switch {
		case d.Allowed && d.NeedsResolve:
			got = resolve
		case d.Allowed:
			got = allowed
		}
		if got != tt.want || d.Rule.String() != tt.rule {
			t.Errorf("%+v %v: %s by %s (%s), want %s by %s", tt.subject, tt.target, got, d.Rule, d.Reason, tt.want, tt.rule)
		}
		if d.Allowed == (d.Code != framecodec.CodeNormal) || d.Reason == "" || d.Rule.Endpoint != "gw" {
			t.Errorf("%v: incomplete: %+v", tt.target, d)
		}
	}
}

func TestDecideWithoutDynamic(t *testing.T) {
	p := mustNew(t, Config{})
	for _, target := range []tunnel.Target{tcp("8.8.8.8", 443), tcp("example.com", 443), tcp("127.1", 1)} {
		if d := p.Decide(Subject{}, target); d.Allowed || d.Code != framecodec.CodeNotAllowed || d.Rule.String() != "dynamic" {
			t.Errorf("%v: %+v", target, d)
		}
	}
	if d := p.Decide(Subject{}, named("")); d.Code != framecodec.CodeUnknownTarget {
		t.Errorf("no target: %+v", d)
	}
}

// What an operator writes as a literal may be reached, whatever it is; only our
// own listeners never.
func TestWideRuleOpensSpecials(t *testing.T) {
	p := mustNew(t, Config{Dynamic: &Dynamic{Rules: []Rule{{Text: "tcp/0.0.0.0/0:80"}, {Text: "tcp/[::/0]:80"}}}})
	for _, host := range []string{"127.0.0.1", "169.254.169.254", "10.0.0.1", "::1", "64:ff9b::7f00:1"} {
		if d := p.Decide(Subject{}, tcp(host, 80)); !d.Allowed {
			t.Errorf("%s: %+v", host, d)
		}
	}
	for _, host := range []string{"0.0.0.0", "::", "64:ff9b::", "2002::"} {
		if d := p.Decide(Subject{}, tcp(host, 80)); d.Allowed {
			t.Errorf("%s is allowed", host)
		}
	}
}

func TestCheckAddress(t *testing.T) {
	p := office(t)
	at := func(s string) Address {
		a := netip.MustParseAddrPort(s)
		return Address{Addr: a.Addr(), Port: a.Port()}
	}
	udpAt := func(s string) Address {
		a := at(s)
		a.UDP = true
		return a
	}
	tests := []struct {
		target  tunnel.Target
		at      Address
		allowed bool
	}{
		{named("ssh"), at("10.0.0.5:22"), true},
		{named(""), at("10.0.0.5:22"), true},
		{named("ssh"), at("10.0.0.5:23"), false},
		{named("ssh"), at("10.0.0.6:22"), false},
		{named("gone"), at("10.0.0.5:22"), false},
		{named("local"), at("[::1]:8080"), true},
		{named("web"), at("172.18.0.3:80"), true}, // the operator's name may lead to private addresses
		{named("web"), at("172.18.0.3:81"), false},
		{named("web"), at("127.0.0.1:80"), false},
		{named("web"), at("169.254.169.254:80"), false},
		{named("web"), at("10.0.0.1:80"), false}, // this host
		{tcp("10.0.0.7", 22), at("10.0.0.7:22"), true},
		{tcp("10.0.0.7", 22), at("10.0.0.8:22"), false},
		{tcp("host.example", 22), at("10.0.0.7:22"), true},
		{tcp("host.example", 22), at("8.8.8.8:22"), false},
		{tcp("host.example", 22), at("10.0.0.13:22"), false},
		{tcp("a.internal.example", 443), at("10.9.9.9:443"), true},
		{tcp("a.internal.example", 443), at("127.0.0.1:443"), false},
		{tcp("a.internal.example", 443), at("[fd00:ec2::254]:443"), false},
		{tcp("a.internal.example", 443), at("[fd00::1]:443"), true},
		{tcp("example.com", 443), at("10.9.9.9:443"), false},
		{tcp("localhost", 8081), at("127.0.0.1:8081"), true}, // by the CIDR
		{tcp("localhost", 443), at("127.0.0.1:443"), false},
		{flow("dns"), udpAt("10.0.0.53:53"), true},
		{flow("dns"), at("10.0.0.53:53"), false},
		{flow("dns"), udpAt("10.0.0.54:53"), false},
		{named("dns"), udpAt("10.0.0.53:53"), false},
		{named("ssh"), udpAt("10.0.0.5:22"), false},
		{flow("ssh"), udpAt("10.0.0.5:22"), false},
		{flow("socket"), udpAt("127.0.0.1:443"), false},
		{udp("10.0.0.7", 53), udpAt("10.0.0.7:53"), true},
		{udp("10.0.0.7", 53), at("10.0.0.7:53"), false},
		{udp("host.example", 53), udpAt("10.0.0.7:53"), true},
		{udp("host.example", 53), at("10.0.0.7:53"), false},
		{udp("host.example", 53), udpAt("10.0.0.14:53"), false},
	}
	for _, tt := range tests {
		if d := p.CheckAddress(Subject{}, tt.target, tt.at); d.Allowed != tt.allowed {
			t.Errorf("%v at %v: %+v", tt.target, tt.at, d)
		}
	}
}

func TestUnixTargets(t *testing.T) {
	dir := t.TempDir()
	admin, link := filepath.Join(dir, "admin.sock"), filepath.Join(dir, "link.sock")
	if err := os.WriteFile(admin, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(admin, link); err != nil {
		t.Fatal(err)
	}
	p := mustNew(t, Config{
		Targets: []NamedTarget{
			{Name: "files", Addresses: []string{"unix/" + dir + "/sub/../files.sock"}},
			{Name: "admin", Addresses: []string{"unix/" + admin}},
			{Name: "dots", Addresses: []string{"unix/" + dir + "/x/../admin.sock"}},
			{Name: "link", Addresses: []string{"unix/" + link}},
		},
		Forbidden: func() []Listener { return Listeners("unix", admin+"|0222", 0, "the admin endpoint") },
	})
	if d := p.Decide(Subject{}, named("files")); !d.Allowed {
		t.Errorf("%+v", d)
	}
	if d := p.CheckAddress(Subject{}, named("files"), Address{Path: filepath.Join(dir, "files.sock")}); !d.Allowed {
		t.Errorf("%+v", d)
	}
	for _, name := range []string{"admin", "dots", "link"} {
		if d := p.Decide(Subject{}, named(name)); d.Allowed || d.Rule.String() != "addresses.forbidden" {
			t.Errorf("%s: %+v", name, d)
		}
	}
}

func TestListeners(t *testing.T) {
	local := func(a netip.Addr) bool { return a.IsLoopback() || a == netip.MustParseAddr("10.0.0.1") }
	tests := []struct {
		network, host string
		at            string
		holds         bool
	}{
		{"tcp", "", "127.0.0.1:2019", true},
		{"tcp", "", "10.0.0.1:2019", true},
		{"tcp", "", "10.0.0.2:2019", false},
		{"tcp", "", "127.0.0.1:2020", false},
		{"tcp4", "0.0.0.0", "127.0.0.2:2019", true},
		{"tcp6", "::", "[::1]:2019", true},
		{"tcp", "[::]", "10.0.0.1:2019", true},
		{"tcp", "localhost", "127.0.0.1:2019", true},
		{"tcp", "localhost", "[::1]:2019", true},
		{"tcp", "LOCALHOST.", "[::1]:2019", true},
		{"tcp", "localhost", "10.0.0.1:2019", false},
		{"tcp", "10.0.0.9", "10.0.0.9:2019", true},
		{"tcp", "::ffff:10.0.0.9", "10.0.0.9:2019", true},
		{"tcp", "fe80::1%eth0", "[fe80::1]:2019", true},
		{"tcp", "10.0.0.9", "10.0.0.1:2019", false},
		{"tcp", "myself.example", "10.0.0.1:2019", true}, // unknown here: every address of this host
		{"udp", "", "127.0.0.1:2019", true},
		{"udp", "", "10.0.0.1:2019", true},
		{"udp4", "0.0.0.0", "127.0.0.2:2019", true},
		{"udp6", "::", "[::1]:2019", true},
		{"udp", "10.0.0.9", "10.0.0.9:2019", true},
		{"udp", "10.0.0.9", "10.0.0.1:2019", false},
	}
	for _, tt := range tests {
		got := false
		other := false
		network, not := "tcp", "udp"
		if strings.HasPrefix(tt.network, "udp") {
			network, not = not, network
		}
		for _, l := range Listeners(tt.network, tt.host, 2019, "x") {
			got = got || l.holds(network, netip.MustParseAddrPort(tt.at), local)
			other = other || l.holds(not, netip.MustParseAddrPort(tt.at), local)
		}
		if got != tt.holds || other {
			t.Errorf("%s %q holds %s: %v, and of the other network: %v", tt.network, tt.host, tt.at, got, other)
		}
	}
}

func TestHostAddresses(t *testing.T) {
	p, err := New(Config{Dynamic: &Dynamic{Rules: []Rule{{Text: "tcp/*:80"}}}})
	if err != nil {
		t.Fatal(err)
	}
	own := HostAddresses()
	if len(own) == 0 {
		t.Fatal("this host has no address")
	}
	for _, a := range own {
		if !p.local(a) {
			t.Errorf("%v is not local", a)
		}
		if d := p.Decide(Subject{}, tcp(a.String(), 80)); d.Allowed {
			t.Errorf("%v: %+v", a, d)
		}
	}
}

func BenchmarkDecide(b *testing.B) {
	p := office(b)
	p.hostAddresses = HostAddresses
	b.ReportAllocs()
	for b.Loop() {
		if d := p.Decide(Subject{}, tcp("10.0.0.7", 22)); !d.Allowed {
			b.Fatal(d)
		}
	}
}
