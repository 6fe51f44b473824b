package policy

import "net/netip"

// class names the reason why an address is not for everybody. The words appear
// in explanations, logs and the label of policy_denials_total.
type class string

const (
	classGlobal    class = ""
	classUnusable  class = "unspecified"
	classLoopback  class = "loopback"
	classHost      class = "this_host"
	classLinkLocal class = "link_local"
	classMetadata  class = "metadata"
	classShared    class = "shared"
	classMulticast class = "multicast"
	classBroadcast class = "broadcast"
	classDocument  class = "documentation"
	classReserved  class = "reserved"
	classPrivate   class = "private"
	classForbidden class = "forbidden"
)

// addressList is the RuleRef list of a refusal of this class.
func addressList(c class) string { return "addresses." + string(c) }

type specialRange struct {
	prefix netip.Prefix
	class  class
}

// specialRanges: the first match counts, so narrow ranges stand in front. The
// sources are the IANA special-purpose registries (RFC 6890), security.md
// "Where a stream may go" 4 and the metadata services of the large clouds
// outside of link-local.
var specialRanges = []specialRange{
	{netip.MustParsePrefix("168.63.129.16/32"), classMetadata}, // Azure
	{netip.MustParsePrefix("fd00:ec2::254/128"), classMetadata},
	{netip.MustParsePrefix("fd20:ce::254/128"), classMetadata}, // Google
	{netip.MustParsePrefix("255.255.255.255/32"), classBroadcast},
	{netip.MustParsePrefix("0.0.0.0/8"), classReserved},
	{netip.MustParsePrefix("10.0.0.0/8"), classPrivate},
	{netip.MustParsePrefix("100.64.0.0/10"), classShared},
	{netip.MustParsePrefix("127.0.0.0/8"), classLoopback},
	{netip.MustParsePrefix("169.254.0.0/16"), classLinkLocal},
	{netip.MustParsePrefix("172.16.0.0/12"), classPrivate},
	{netip.MustParsePrefix("192.0.0.0/24"), classReserved},
	{netip.MustParsePrefix("192.0.2.0/24"), classDocument},
	{netip.MustParsePrefix("192.88.99.0/24"), classReserved},
	{netip.MustParsePrefix("192.168.0.0/16"), classPrivate},
	{netip.MustParsePrefix("198.18.0.0/15"), classReserved},
	{netip.MustParsePrefix("198.51.100.0/24"), classDocument},
	{netip.MustParsePrefix("203.0.113.0/24"), classDocument},
	{netip.MustParsePrefix("224.0.0.0/4"), classMulticast},
	{netip.MustParsePrefix("240.0.0.0/4"), classReserved},
	{netip.MustParsePrefix("0.0.0.0/0"), classGlobal},
	{netip.MustParsePrefix("::1/128"), classLoopback},
	{netip.MustParsePrefix("64:ff9b::/96"), classGlobal}, // its inner address is checked
	{netip.MustParsePrefix("fc00::/7"), classPrivate},
	{netip.MustParsePrefix("fe80::/10"), classLinkLocal},
	{netip.MustParsePrefix("fec0::/10"), classLinkLocal},
	{netip.MustParsePrefix("ff00::/8"), classMulticast},
	{netip.MustParsePrefix("2001::/32"), classGlobal}, // Teredo: likewise
	{netip.MustParsePrefix("2001::/23"), classReserved},
	{netip.MustParsePrefix("2001:db8::/32"), classDocument},
	{netip.MustParsePrefix("3fff::/20"), classDocument},
	{netip.MustParsePrefix("2000::/3"), classGlobal},
	{netip.MustParsePrefix("::/0"), classReserved}, // not assigned for global unicast
}

// classify tells what kind of address an unmapped a is, this host's own ones
// aside.
func classify(a netip.Addr) class {
	if !a.IsValid() || a.IsUnspecified() {
		return classUnusable
	}
	for i := range specialRanges {
		if specialRanges[i].prefix.Contains(a) {
			return specialRanges[i].class
		}
	}
	return classReserved
}

var (
	compatible = netip.MustParsePrefix("::/96")
	nat64      = netip.MustParsePrefix("64:ff9b::/96")
	nat64Local = netip.MustParsePrefix("64:ff9b:1::/48")
	sixToFour  = netip.MustParsePrefix("2002::/16")
	teredo     = netip.MustParsePrefix("2001::/32")
)

// unmap turns the IPv6 forms of an IPv4 address, ::ffff:0:0/96 and the old
// ::/96, into that address. :: and ::1 are addresses of their own.
func unmap(a netip.Addr) netip.Addr {
	a = a.WithZone("").Unmap()
	if !a.Is6() || !compatible.Contains(a) || a.IsUnspecified() || a.IsLoopback() {
		return a
	}
	b := a.As16()
	return netip.AddrFrom4([4]byte(b[12:]))
}

// embedded appends the IPv4 addresses that a translator or relay would take
// out of a: packets to a may end there. NAT64 (RFC 6052), 6to4 (RFC 3056) and
// Teredo (RFC 4380), whose server and client both count.
func embedded(to []netip.Addr, a netip.Addr) []netip.Addr {
	if !a.Is6() {
		return to
	}
	b := a.As16()
	v4 := func(b0, b1, b2, b3 byte) netip.Addr { return netip.AddrFrom4([4]byte{b0, b1, b2, b3}) }
	switch {
	case nat64.Contains(a):
		return append(to, v4(b[12], b[13], b[14], b[15]))
	case nat64Local.Contains(a):
		return appendLocalNAT64(to, b)
	case sixToFour.Contains(a):
		return append(to, v4(b[2], b[3], b[4], b[5]))
	case teredo.Contains(a):
		return append(to, v4(b[4], b[5], b[6], b[7]), v4(^b[12], ^b[13], ^b[14], ^b[15]))
	}
	return to
}

// appendLocalNAT64 reads an address of the local-use prefix of RFC 8215. The
// site chooses a prefix length below it and with it the place of the IPv4
// address (RFC 6052 section 2.2), which nobody here knows: each place counts
// whose unused bits are zero as they must be.
func appendLocalNAT64(to []netip.Addr, b [16]byte) []netip.Addr {
	rest := func(from int) bool { return [16]byte(append(b[:from:from], make([]byte, 16-from)...)) == b }
	if b[8] == 0 {
		for _, form := range [...]struct{ at, end int }{{6, 11}, {7, 12}, {9, 13}} { // /48, /56, /64
			if rest(form.end) {
				to = append(to, netip.AddrFrom4(nat64At(b, form.at)))
			}
		}
	}
	if !rest(12) {
		to = append(to, netip.AddrFrom4([4]byte(b[12:]))) // /96
	}
	return to
}

// nat64At takes four bytes from at on, stepping over byte 8, which is always
// zero.
func nat64At(b [16]byte, at int) (v4 [4]byte) {
	for i := range v4 {
		if at == 8 {
			at++
		}
		v4[i] = b[at]
		at++
	}
	return v4
}
