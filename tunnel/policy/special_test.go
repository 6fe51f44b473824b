package policy

import (
	"net/netip"
	"slices"
	"testing"
)

func TestClassify(t *testing.T) {
	tests := []struct {
		addr string
		want class
	}{
		{"0.0.0.0", classUnusable}, {"::", classUnusable}, {"0.1.2.3", classReserved},
		{"127.0.0.1", classLoopback}, {"127.255.255.254", classLoopback}, {"::1", classLoopback},
		{"169.254.169.254", classLinkLocal}, {"fe80::1", classLinkLocal}, {"febf::1", classLinkLocal},
		{"fec0::1", classLinkLocal}, {"feff::1", classLinkLocal},
		{"fd00:ec2::254", classMetadata}, {"fd20:ce::254", classMetadata}, {"168.63.129.16", classMetadata},
		{"100.64.0.1", classShared}, {"100.100.100.200", classShared}, {"100.127.255.255", classShared},
		{"10.0.0.0", classPrivate}, {"10.255.255.255", classPrivate}, {"172.16.0.1", classPrivate},
		{"172.31.255.255", classPrivate}, {"192.168.1.1", classPrivate}, {"fc00::1", classPrivate}, {"fdff::1", classPrivate},
		{"224.0.0.1", classMulticast}, {"239.255.255.255", classMulticast}, {"ff02::1", classMulticast},
		{"240.0.0.1", classReserved}, {"255.255.255.254", classReserved}, {"255.255.255.255", classBroadcast},
		{"192.0.0.192", classReserved}, {"192.88.99.1", classReserved}, {"198.18.0.1", classReserved}, {"198.19.255.255", classReserved},
		{"192.0.2.1", classDocument}, {"198.51.100.1", classDocument}, {"203.0.113.1", classDocument},
		{"2001:db8::1", classDocument}, {"3fff::1", classDocument},
		{"2001:2::1", classReserved}, {"2001:20::1", classReserved}, {"100::1", classReserved}, {"5f00::1", classReserved},
		{"4000::1", classReserved}, {"64:ff9b:1::1", classReserved}, {"200::1", classReserved},
		{"64:ff9b::808:808", classGlobal}, {"2002:808:808::", classGlobal}, {"2001::1", classGlobal},
		{"8.8.8.8", classGlobal}, {"100.63.255.255", classGlobal}, {"100.128.0.0", classGlobal}, {"172.15.0.1", classGlobal},
		{"172.32.0.1", classGlobal}, {"192.0.1.1", classGlobal}, {"198.17.0.1", classGlobal}, {"198.20.0.1", classGlobal}, {"223.255.255.255", classGlobal},
		{"2606:4700::1111", classGlobal}, {"2a00:1450::1", classGlobal}, {"2001:4860::8888", classGlobal},
	}
	for _, tt := range tests {
		if got := classify(netip.MustParseAddr(tt.addr)); got != tt.want {
			t.Errorf("%s: %q, want %q", tt.addr, got, tt.want)
		}
	}
	if got := classify(netip.Addr{}); got != classUnusable {
		t.Errorf("no address: %q", got)
	}
}

func TestEmbedded(t *testing.T) {
	tests := []struct {
		addr string
		want []string
	}{
		{"8.8.8.8", nil},
		{"2606:4700::1111", nil},
		{"::1", nil},
		{"64:ff9b::7f00:1", []string{"127.0.0.1"}},
		{"64:ff9b::a9fe:a9fe", []string{"169.254.169.254"}},
		{"2002:7f00:1::", []string{"127.0.0.1"}},
		{"2002:a00:5::1", []string{"10.0.0.5"}},
		// Teredo: server 192.0.2.45, client 127.0.0.1, inverted.
		{"2001:0:c000:22d::80ff:fffe", []string{"192.0.2.45", "127.0.0.1"}},
		{"64:ff9b:1::a00:5", []string{"10.0.0.5"}},
		{"64:ff9b:1:a00:0:500::", []string{"10.0.0.5", "0.0.5.0", "0.5.0.0"}}, // /48; the others may be meant
		{"64:ff9b:1:50a:0:102::", []string{"10.0.1.2", "0.1.2.0"}},            // /56
		{"64:ff9b:1:506:a:1:300::", []string{"10.0.1.3", "3.0.0.0"}},          // /64
		{"64:ff9b:1:506:100::", nil},                                          // byte 8 is never used
	}
	for _, tt := range tests {
		var got []string
		for _, a := range embedded(nil, netip.MustParseAddr(tt.addr)) {
			got = append(got, a.String())
		}
		if !slices.Equal(got, tt.want) {
			t.Errorf("%s: %v, want %v", tt.addr, got, tt.want)
		}
	}
}
