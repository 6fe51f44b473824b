package rtc

import (
	"net/netip"
	"strings"

	"github.com/pion/ice/v4"
)

// remoteFilter says which candidates of a peer are used.
type remoteFilter struct {
	loopback bool
	allow    func(netip.Addr) bool // nil: every address
}

// use returns the lines that may be given to ICE, without their extensions
// (which name the ufrag). What is not a literal UDP address of component 1 is
// dropped silently: names would be looked up, .local ones even by multicast.
func (f remoteFilter) use(lines []string) []string {
	var used []string
	for _, line := range lines {
		value := strings.TrimPrefix(strings.TrimPrefix(strings.TrimSpace(line), "a="), "candidate:")
		if fields := strings.Fields(value); len(fields) < 8 || len(value) > 512 || fields[1] != "1" || !strings.EqualFold(fields[2], "udp") {
			continue
		} else if _, err := netip.ParseAddr(fields[4]); err != nil {
			continue
		}
		c, err := ice.UnmarshalCandidate(value)
		if err != nil || !c.NetworkType().IsUDP() || !f.usable(c.Address(), c.Port()) {
			continue
		}
		fields := strings.Fields(value)
		kept := strings.Join(fields[:8], " ")
		if len(fields) >= 12 && fields[8] == "raddr" && fields[10] == "rport" {
			kept = strings.Join(fields[:12], " ")
		}
		used = append(used, "candidate:"+kept)
	}
	return used
}

func (f remoteFilter) usable(address string, port int) bool {
	addr, err := netip.ParseAddr(address)
	if err != nil || addr.Zone() != "" || port <= 0 {
		return false
	}
	addr = addr.Unmap()
	switch {
	case addr.IsUnspecified(), addr.IsMulticast(), addr.IsLinkLocalUnicast(), addr == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		return false
	case addr.IsLoopback() && !f.loopback:
		return false
	}
	return f.allow == nil || f.allow(addr)
}
