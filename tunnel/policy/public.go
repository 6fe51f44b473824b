package policy

import (
	"net/netip"
	"slices"
)

// Public reports whether an address is anybody's on the Internet: not special,
// not private, not this host's, and none of these inside (NAT64, 6to4, Teredo).
// It is for addresses that clients name where no rule can allow them, such as
// ICE candidates.
func Public(a netip.Addr) bool { return publicBut(a, HostAddresses()) }

// publicBut is Public for a host with its own addresses.
func publicBut(a netip.Addr, own []netip.Addr) bool {
	if !a.IsValid() || a.Zone() != "" {
		return false
	}
	parts := embedded([]netip.Addr{unmap(a)}, unmap(a))
	return !slices.ContainsFunc(parts, func(part netip.Addr) bool {
		return classify(unmap(part)) != classGlobal || slices.Contains(own, part)
	})
}
