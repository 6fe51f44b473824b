package socks5

import (
	"encoding/binary"
	"net/netip"
)

// AppendReply appends the answer to a request (RFC 1928 section 6). Bound is the
// address from which the target is reached, for UDP ASSOCIATE the one to which
// the client is to send its datagrams; one that is not valid, as with every
// failure, is written as 0.0.0.0:0. A zone is left out.
func AppendReply(b []byte, r Reply, bound netip.AddrPort) []byte {
	addr := bound.Addr().Unmap()
	if !addr.IsValid() {
		addr, bound = netip.IPv4Unspecified(), netip.AddrPort{}
	}
	typ := addressIPv6
	if addr.Is4() {
		typ = addressIPv4
	}
	b = append(b, version, byte(r), 0, byte(typ))
	b = append(b, addr.WithZone("").AsSlice()...)
	return binary.BigEndian.AppendUint16(b, bound.Port())
}
