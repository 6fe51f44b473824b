package policy

import (
	"net/netip"
	"path/filepath"
	"strings"
)

// Listener is a place of this process that no stream may reach, whatever the
// rules say: the admin endpoint, our UDP socket, the listeners of
// webrtc_tunnel endpoints and entries (security.md, "Where a stream may go" 5).
type Listener struct {
	Network string     // tcp, udp or unix
	Addr    netip.Addr // not valid or unspecified: every address of this host
	Port    uint16
	Path    string // of a unix socket
	What    string // for logs and explanations, such as "the admin endpoint"
}

// Listeners returns what one listen address of Caddy stands for. network is
// Caddy's (tcp, tcp4, udp6, unix ...), host a name, an address, empty, or the
// path of a unix socket, which may carry permissions (path|0222). localhost is
// both loopback addresses; a name that cannot be known here counts as every
// address of this host.
func Listeners(network, host string, port uint16, what string) []Listener {
	if strings.HasPrefix(network, "unix") {
		path, _, _ := strings.Cut(host, "|")
		return []Listener{{Network: "unix", Path: filepath.Clean(path), What: what}}
	}
	l := Listener{Network: strings.TrimRight(network, "46"), Port: port, What: what}
	host, _, _ = strings.Cut(strings.Trim(host, "[]"), "%")
	if isLocalhost(strings.ToLower(strings.TrimSuffix(host, "."))) {
		v4, v6 := l, l
		v4.Addr, v6.Addr = loopback4, netip.IPv6Loopback()
		return []Listener{v4, v6}
	}
	if a, err := netip.ParseAddr(host); err == nil {
		l.Addr = unmap(a)
	}
	return []Listener{l}
}

var loopback4 = netip.AddrFrom4([4]byte{127, 0, 0, 1})

// isLocalhost: RFC 6761 section 6.3.
func isLocalhost(name string) bool {
	return name == "localhost" || strings.HasSuffix(name, ".localhost")
}

// holds reports whether a connection to a would arrive at l.
func (l *Listener) holds(network string, a netip.AddrPort, local func(netip.Addr) bool) bool {
	if l.Network != network || l.Port != a.Port() {
		return false
	}
	if !l.Addr.IsValid() || l.Addr.IsUnspecified() {
		return local(a.Addr())
	}
	return l.Addr == a.Addr()
}
