package policy

import (
	"net/netip"

	"github.com/culvertgate/culvert/tunnel"
)

// Address is where a stream can end: one IP address and port, or a unix socket.
// It is comparable.
type Address struct {
	AddrPort netip.AddrPort
	Path     string // of a unix socket; AddrPort is then zero
}

// Network returns tcp4, tcp6 or unix, as net.Dial takes it.
func (a Address) Network() string {
	switch {
	case a.Path != "":
		return "unix"
	case a.AddrPort.Addr().Is4():
		return "tcp4"
	default:
		return "tcp6"
	}
}

// String returns 10.0.0.5:22 or the path, as net.Dial takes it.
func (a Address) String() string {
	if a.Path != "" {
		return a.Path
	}
	return a.AddrPort.String()
}

// networkOf names the transport of a kind as listeners do.
func networkOf(k tunnel.Kind) string {
	if k == tunnel.KindUDP || k == tunnel.KindNamedDatagram {
		return "udp"
	}
	return "tcp"
}

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
}
