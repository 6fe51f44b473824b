package policy

import (
	"net"
	"net/netip"
	"sync"
	"time"
)

// hostAddressesFor is how long the list of interface addresses is used again:
// reading it costs a dump from the kernel, and a stream opens in less.
const hostAddressesFor = time.Second

var hostAddresses struct {
	sync.Mutex
	read time.Time
	list []netip.Addr
}

// HostAddresses returns the addresses of this host's interfaces, at most a
// second old. The slice is shared: do not change it. Where the system does not
// tell (an error), the last known list is returned.
func HostAddresses() []netip.Addr {
	h := &hostAddresses
	h.Lock()
	defer h.Unlock()
	if now := time.Now(); h.list == nil || now.Sub(h.read) > hostAddressesFor {
		if list, err := net.InterfaceAddrs(); err == nil {
			h.list, h.read = parseInterfaces(list), now
		}
	}
	return h.list
}

func parseInterfaces(list []net.Addr) []netip.Addr {
	out := make([]netip.Addr, 0, len(list))
	for _, a := range list {
		if n, ok := a.(*net.IPNet); ok {
			if addr, ok := netip.AddrFromSlice(n.IP); ok {
				out = append(out, unmap(addr))
			}
		}
	}
	return out
}
