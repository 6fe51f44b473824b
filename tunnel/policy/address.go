package policy

import (
	"net/netip"

	"github.com/culvertgate/culvert/tunnel"
)

// Address is where a stream or flow can end: one IP address and port of TCP or
// UDP, or a unix socket. It is comparable, and small: each open stream has one.
type Address struct {
	Addr netip.Addr
	Port uint16
	UDP  bool   // else TCP
	Path string // of a unix socket; all else is then zero
}

// AddrPort returns address and port, of a unix socket the zero value.
func (a Address) AddrPort() netip.AddrPort { return netip.AddrPortFrom(a.Addr, a.Port) }

// Network returns tcp4, tcp6, udp4, udp6 or unix, as net.Dial takes it.
func (a Address) Network() string {
	if a.Path != "" {
		return "unix"
	}
	if a.Addr.Is4() {
		return transport(a.UDP) + "4"
	}
	return transport(a.UDP) + "6"
}

// String returns 10.0.0.5:22 or the path, as net.Dial takes it.
func (a Address) String() string {
	if a.Path != "" {
		return a.Path
	}
	return a.AddrPort().String()
}

// transport is the name of a transport as listeners and rules write it.
func transport(udp bool) string {
	if udp {
		return "udp"
	}
	return "tcp"
}

// isFlow reports whether a target of this kind takes datagrams.
func isFlow(k tunnel.Kind) bool { return k == tunnel.KindUDP || k == tunnel.KindNamedDatagram }

// step is one thing to try for a target: an address, or a name to resolve.
type step struct {
	address Address
	name    string // if set, address is empty
	port    uint16
	grant   grant
}

// grant is what stands behind a step: how far the operator's word goes for its
// addresses.
type grant struct {
	by      *RuleRef // the target or rule that allows it; nil: each address needs a literal or CIDR rule
	dynamic bool     // a client named it: the rules of the dynamic block count
	exact   bool     // the operator wrote this very address
	private bool     // the operator lets the name lead to private addresses
	proxy   byte     // version of the PROXY protocol that its addresses are told the client in; 0: none
}
