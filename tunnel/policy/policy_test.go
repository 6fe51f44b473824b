package policy

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/culvertgate/culvert/tunnel"
)

func mustNew(t testing.TB, cfg Config) *Policy {
	t.Helper()
	if cfg.HostAddresses == nil {
		cfg.HostAddresses = func() []netip.Addr { return nil }
	}
	p, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestNewErrors(t *testing.T) {
	ssh := NamedTarget{Name: "ssh", Addresses: []string{"tcp/10.0.0.5:22"}}
	with := func(address string) Config {
		return Config{Targets: []NamedTarget{ssh, {Name: "x", Addresses: []string{address}, Position: "Caddyfile:7"}}}
	}
	tests := []struct {
		cfg  Config
		want string
	}{
		{Config{Targets: []NamedTarget{{Name: "Ssh", Addresses: ssh.Addresses}}}, `targets[0] (Ssh tcp/10.0.0.5:22): "Ssh" cannot name a target`},
		{Config{Targets: []NamedTarget{{Name: "socks5", Addresses: ssh.Addresses}}}, "not socks5"},
		{Config{Targets: []NamedTarget{ssh, ssh}}, "targets[1] (ssh tcp/10.0.0.5:22): there is a target of this name"},
		{Config{Targets: []NamedTarget{{Name: "ssh"}}}, "has no address"},
		{Config{Targets: []NamedTarget{{Name: "ssh", Addresses: ssh.Addresses, Users: []string{""}}}}, "name is empty"},
		{with("10.0.0.5:22"), `Caddyfile:7: targets[1] (x 10.0.0.5:22): address "10.0.0.5:22": write it as tcp/host:port`},
		{with("tcp/10.0.0.5"), "write it as tcp/host:port"},
		{with("tcp/10.0.0.5:0"), "not a port"},
		{with("tcp/10.0.0.5:22-23"), "not a port"},
		{with("tcp/:22"), "host is empty"},
		{with("tcp/127.1:22"), "four decimal numbers"},
		{with("tcp/0.0.0.0:22"), "write 127.0.0.1"},
		{with("tcp/[::]:22"), "write 127.0.0.1"},
		{with("tcp/10.0.0.0/8:22"), "host name holds"},
		{with("tcp/*.example:22"), "host name holds"},
		{with("udp/10.0.0.5"), "write it as udp/host:port"},
		{with("udp/10.0.0.5:0"), "not a port"},
		{with("udp/0.0.0.0:53"), "write 127.0.0.1"},
		{with("udp/127.1:53"), "four decimal numbers"},
		{with("sctp/10.0.0.5:53"), "udp/host:port"},
		{Config{Targets: []NamedTarget{{Name: "x", Addresses: []string{"udp/10.0.0.5:53", "udp/10.0.0.6:53", "tcp/10.0.0.5:53"}}}},
			`address "tcp/10.0.0.5:53" is for a stream target, "udp/10.0.0.5:53" is for a datagram target: make two targets of them`},
		{Config{Targets: []NamedTarget{{Name: "x", Addresses: []string{"unix//run/x", "udp/10.0.0.5:53"}}}},
			`address "udp/10.0.0.5:53" is for a datagram target, "unix//run/x" is for a stream target`},
		{Config{Targets: []NamedTarget{{Name: "dns", Addresses: []string{"udp/10.0.0.5:53"}}}, DefaultTarget: "dns"},
			`default_target "dns" is a datagram target`},
		{with("unix/run/x.sock"), "from the root: unix//run/app.sock"},
		{with("unix//" + strings.Repeat("x", 200)), "at most 107 bytes"},
		{with("unix//run/\x00"), "from the root"},
		{Config{Targets: []NamedTarget{ssh}, DefaultTarget: "shh"}, `default_target "shh" is not a target`},
		{Config{Dynamic: &Dynamic{Rules: []Rule{{Text: "tcp/10.0.0.0/8:22"}, {Text: "tcp/10.0.0.0/8", Position: "Caddyfile:12"}}}},
			"Caddyfile:12: dynamic.rules[1] (allow tcp/10.0.0.0/8): an allow rule needs its ports"},
		{Config{Dynamic: &Dynamic{Resolver: "dns.example"}}, `dynamic.resolver "dns.example": write the address`},
		{Config{Dynamic: &Dynamic{Resolver: "10.0.0.53:0"}}, "write the address"},
	}
	for _, tt := range tests {
		if _, err := New(tt.cfg); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%+v:\n%v\nwant %q", tt.cfg, err, tt.want)
		}
	}
}

// All mistakes of a configuration are told at once.
func TestNewTellsAll(t *testing.T) {
	_, err := New(Config{
		Targets: []NamedTarget{{Name: "A"}, {Name: "b"}},
		Dynamic: &Dynamic{Rules: []Rule{{Text: "tcp/1.2.3.4"}}, Resolver: "x"},
	})
	if err == nil || strings.Count(err.Error(), "\n") != 3 {
		t.Fatalf("want four lines:\n%v", err)
	}
}

func TestTargets(t *testing.T) {
	p := mustNew(t, Config{DefaultTarget: "ssh", Targets: []NamedTarget{
		{Name: "ssh", Addresses: []string{"tcp/10.0.0.5:22"}},
		{Name: "pc", Title: "Office PC", App: "vnc", Addresses: []string{"tcp/10.0.0.9:5900"}, Users: []string{"alice"}},
		{Name: "ops", Addresses: []string{"unix//run/x"}, Groups: []string{"ops", "root"}},
		{Name: "dns", Addresses: []string{"udp/10.0.0.53:53", "udp/localhost:53", "udp/dns.example:53"}, Users: []string{"carol"}},
	}})
	ssh := TargetInfo{Name: "ssh", Kind: "stream", Default: true}
	pc := TargetInfo{Name: "pc", Kind: "stream", Title: "Office PC", App: "vnc"}
	ops := TargetInfo{Name: "ops", Kind: "stream"}
	dns := TargetInfo{Name: "dns", Kind: "datagram"}
	tests := []struct {
		subject Subject
		want    []TargetInfo
	}{
		{Subject{}, []TargetInfo{ssh}},
		{Subject{Identity: "bob"}, []TargetInfo{ssh}},
		{Subject{Identity: "alice"}, []TargetInfo{ssh, pc}},
		{Subject{Identity: "alice", Anonymous: true}, []TargetInfo{ssh}},
		{Subject{Identity: "bob", Groups: []string{"dev", "ops"}}, []TargetInfo{ssh, ops}},
		{Subject{Groups: []string{"ops"}}, []TargetInfo{ssh}},
		{Subject{Identity: "Alice"}, []TargetInfo{ssh}},
		{Subject{Identity: "carol"}, []TargetInfo{ssh, dns}},
	}
	for _, tt := range tests {
		if diff := cmp.Diff(tt.want, p.Targets(tt.subject)); diff != "" {
			t.Errorf("%+v: %s", tt.subject, diff)
		}
	}
}

func TestNamed(t *testing.T) {
	p := mustNew(t, Config{Targets: []NamedTarget{
		{Name: "ssh", Addresses: []string{"tcp/10.0.0.5:22"}},
		{Name: "dns", Addresses: []string{"udp/10.0.0.53:53"}},
	}})
	for name, want := range map[string]tunnel.Target{"ssh": named("ssh"), "dns": flow("dns"), "none": named("none"), "": named("")} {
		if got := p.Named(name); got != want {
			t.Errorf("%q is %+v", name, got)
		}
	}
}

func TestWarnings(t *testing.T) {
	tests := []struct {
		rule Rule
		want string
	}{
		{Rule{Text: "tcp/0.0.0.0/0:443"}, "loopback"},
		{Rule{Text: "tcp/[::/0]:443"}, "loopback"},
		{Rule{Text: "tcp/128.0.0.0/1:443"}, "link-local (cloud metadata)"},
		{Rule{Text: "tcp/[fe00::/8]:443"}, "link-local"},
		{Rule{Text: "tcp/localhost:443"}, "write tcp/127.0.0.1"},
		{Rule{Text: "udp/localhost:53"}, "write udp/127.0.0.1"},
		{Rule{Text: "udp/0.0.0.0/0:53"}, "loopback"},
		{Rule{Text: "udp/127.0.0.1:53"}, ""},
		{Rule{Text: "tcp/127.0.0.0/8:443"}, ""},
		{Rule{Text: "tcp/127.0.0.1:443"}, ""},
		{Rule{Text: "tcp/169.254.0.0/16:80"}, ""},
		{Rule{Text: "tcp/[::1]:443"}, ""},
		{Rule{Text: "tcp/10.0.0.0/8:443"}, ""},
		{Rule{Text: "tcp/*:443"}, ""},
		{Rule{Text: "0.0.0.0/0", Deny: true}, ""},
	}
	for _, tt := range tests {
		got := strings.Join(mustNew(t, Config{Dynamic: &Dynamic{Rules: []Rule{tt.rule}}}).Warnings(), "\n")
		if (got == "") != (tt.want == "") || !strings.Contains(got, tt.want) {
			t.Errorf("%q: %q, want %q", tt.rule.Text, got, tt.want)
		}
	}
}
