package rtc

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/culvertgate/culvert/tunnel/udp"
)

// maxHosts bounds the candidates of our own addresses in one description.
const maxHosts = 16

var sharedAddressSpace = netip.MustParsePrefix("100.64.0.0/10") // RFC 6598

// isPublic reports whether addr can be reached from everywhere, by its range.
func isPublic(addr netip.Addr) bool {
	return addr.IsGlobalUnicast() && !addr.IsPrivate() && !sharedAddressSpace.Contains(addr)
}

// addressFilter is the option `candidates`: which of our own addresses are shown.
type addressFilter struct {
	public   bool
	prefixes []netip.Prefix
}

// parseFilter reads "all" or nothing, "public", or addresses and CIDRs.
func parseFilter(words []string) (addressFilter, error) {
	var f addressFilter
	for _, w := range words {
		switch w {
		case "all":
			if len(words) > 1 {
				return f, fmt.Errorf("candidates: all stands alone, got %q", strings.Join(words, " "))
			}
		case "public":
			f.public = true
		default:
			p, err := netip.ParsePrefix(w)
			if err != nil {
				a, aerr := netip.ParseAddr(w)
				if aerr != nil {
					return f, fmt.Errorf("candidates: %q is neither all, public, an address nor a CIDR", w)
				}
				p = netip.PrefixFrom(a, a.BitLen())
			}
			f.prefixes = append(f.prefixes, p.Masked())
		}
	}
	return f, nil
}

func (f addressFilter) shows(addr netip.Addr) bool {
	if !f.public && len(f.prefixes) == 0 {
		return true
	}
	return f.public && isPublic(addr) ||
		slices.ContainsFunc(f.prefixes, func(p netip.Prefix) bool { return p.Contains(addr) })
}

// hostAddresses returns the addresses at which socket can be reached from this
// machine's networks: the one that it is bound to, or those of all interfaces.
// Loopback addresses only with loopback, or where the machine has no others.
func hostAddresses(socket *udp.Socket, loopback bool) ([]netip.AddrPort, error) {
	bound := socket.AddrPort()
	if !bound.Addr().IsUnspecified() {
		if bound.Addr().IsLoopback() && !loopback {
			return nil, nil
		}
		return []netip.AddrPort{bound}, nil
	}
	list, err := net.InterfaceAddrs()
	if err != nil {
		return nil, fmt.Errorf("listing this machine's addresses: %w", err)
	}
	var outer, inner []netip.AddrPort
	for _, a := range list {
		n, ok := a.(*net.IPNet)
		if !ok {
			continue
		}
		addr, _ := netip.AddrFromSlice(n.IP)
		addr = addr.Unmap()
		if addr.Is6() && bound.Addr().Is4() {
			continue
		}
		at := netip.AddrPortFrom(addr, bound.Port())
		switch {
		case addr.IsLoopback():
			inner = append(inner, at)
		case addr.IsGlobalUnicast():
			outer = append(outer, at)
		}
	}
	if loopback || len(outer) == 0 {
		outer = append(outer, inner...)
	}
	return outer, nil
}

// families returns an address of each family that socket can send from. They
// stand for all local addresses inside ICE: the socket is bound to none in
// particular, the kernel chooses the source by its routes, and so one local
// candidate a family is enough, whatever our description lists.
func families(socket *udp.Socket, hosts []netip.AddrPort) []net.Addr {
	bound := socket.AddrPort()
	if !bound.Addr().IsUnspecified() {
		return []net.Addr{net.UDPAddrFromAddrPort(bound)}
	}
	v4 := netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), bound.Port())
	if i := slices.IndexFunc(hosts, func(a netip.AddrPort) bool { return a.Addr().Is4() }); i >= 0 {
		v4 = hosts[i]
	}
	found := []net.Addr{net.UDPAddrFromAddrPort(v4)}
	if i := slices.IndexFunc(hosts, func(a netip.AddrPort) bool { return a.Addr().Is6() }); i >= 0 && bound.Addr().Is6() {
		found = append(found, net.UDPAddrFromAddrPort(hosts[i]))
	}
	return found
}

// hostLines returns candidate lines of type host, the first with the highest
// priority (RFC 8445 section 5.1.2.1, RFC 8839 section 5.1).
func hostLines(addrs []netip.AddrPort) []string {
	lines := make([]string, 0, len(addrs))
	for i, a := range addrs {
		if i == maxHosts {
			break
		}
		priority := uint32(126)<<24 | uint32(65535-i)<<8 | 255
		lines = append(lines, fmt.Sprintf("candidate:%d 1 udp %d %s %d typ host", i+1, priority, a.Addr(), a.Port()))
	}
	return lines
}
