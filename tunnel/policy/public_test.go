package policy

import (
	"net/netip"
	"testing"
)

// TestPublic: what a client names as its own address may not lead into the
// gateway's networks, in whatever form.
func TestPublic(t *testing.T) {
	for _, text := range []string{"8.8.8.8", "::ffff:8.8.8.8", "2606:4700::1111", "64:ff9b::808:808", "2002:808:808::1"} {
		if !Public(netip.MustParseAddr(text)) {
			t.Errorf("%s is not public", text)
		}
	}
	for _, text := range []string{
		"127.0.0.1", "::1", "10.0.0.1", "192.168.1.1", "172.16.0.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "::",
		"224.0.0.1", "255.255.255.255", "192.0.2.1", "fe80::1", "fc00::1", "fd00:ec2::254", "fec0::1", "ff02::1",
		"::ffff:10.0.0.1", "::10.0.0.1", "64:ff9b::a00:1", "64:ff9b::7f00:1", "2002:a00:1::1", "2001:0:a00:1::1", "2606:4700::1%eth0",
	} {
		if Public(netip.MustParseAddr(text)) {
			t.Errorf("%s is public", text)
		}
	}
	if Public(netip.Addr{}) {
		t.Error("no address is public")
	}
	own := []netip.Addr{netip.MustParseAddr("8.8.8.8")}
	for text, want := range map[string]bool{"8.8.8.8": false, "::ffff:8.8.8.8": false, "64:ff9b::808:808": false, "8.8.4.4": true} {
		if got := publicBut(netip.MustParseAddr(text), own); got != want {
			t.Errorf("%s at the host 8.8.8.8: public %v, want %v", text, got, want)
		}
	}
}
