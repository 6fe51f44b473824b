package socks5

import "errors"

// Why a datagram is to be dropped, without an answer: RFC 1928 section 7 has
// none. They are values, so that a flood of such datagrams allocates nothing.
var (
	// ErrFragment: the datagram is part of a larger one. Putting them together is
	// optional, and who does not is told by the RFC to drop them.
	ErrFragment = errors.New("SOCKS5 datagram is a fragment")

	// ErrDatagramShort: the datagram ends within its header.
	ErrDatagramShort = errors.New("SOCKS5 datagram ends within its header")

	// ErrDatagramAddress: the datagram's destination is of an unknown type, or a
	// name that no request could have either.
	ErrDatagramAddress = errors.New("SOCKS5 datagram has an address that cannot be read")

	// ErrDatagramPort: the datagram's destination is port 0, where nothing is.
	ErrDatagramPort = errors.New("SOCKS5 datagram is for port 0")
)

// datagramPrefix is what stands before the address (RFC 1928 section 7): two
// reserved bytes and the number of the fragment, which is 0 for a whole.
const datagramPrefix = "\x00\x00\x00"

// Datagram is what a client sends into its association or gets out of it (RFC
// 1928 section 7). Both slices alias what was parsed, and are good for as long.
type Datagram struct {
	// Address is where it goes to, and in an answer where it comes from, as it is
	// on the wire from the type to the port. It is good as a key: a lookup
	// m[string(d.Address)] does not allocate. One destination has several
	// addresses if the client writes it in several ways (upper and lower case, a
	// name and its IP address).
	Address []byte

	// Data is the rest; it may be empty.
	Data []byte
}

// ParseDatagram reads a datagram. The error is ErrFragment, ErrDatagramShort,
// ErrDatagramAddress or ErrDatagramPort. The reserved bytes are not looked at, as
// that of a request. Nothing is allocated.
func ParseDatagram(p []byte) (Datagram, error) {
	// The address's type and its first byte, which every type has.
	if len(p) < len(datagramPrefix)+2 {
		return Datagram{}, ErrDatagramShort
	}
	if p[2] != 0 {
		return Datagram{}, ErrFragment
	}
	rest := p[len(datagramPrefix):]
	n := addressLength(addressType(rest[0]), rest[1])
	if n == 0 {
		return Datagram{}, ErrDatagramAddress
	}
	if len(rest) < n {
		return Datagram{}, ErrDatagramShort
	}
	// Capped: an append to the address is not to run into the data.
	d := Datagram{Address: rest[:n:n], Data: rest[n:]}
	if !validAddress(d.Address) {
		return Datagram{}, ErrDatagramAddress
	}
	if d.Port() == 0 {
		return Datagram{}, ErrDatagramPort
	}
	return d, nil
}

// Host returns the destination's name of 1 to 255 bytes, or its IPv4 or IPv6
// text, as in Request. It allocates. The datagram is one of ParseDatagram.
func (d Datagram) Host() string { return hostOf(d.Address) }

// Port returns the destination's port, which is not 0. The datagram is one of
// ParseDatagram.
func (d Datagram) Port() uint16 { return portOf(d.Address) }

// AppendDatagramHeader appends what stands before the data of a datagram (RFC
// 1928 section 7). Address is that of a Datagram: an answer to it comes from
// where the client sent to, in the client's own spelling.
func AppendDatagramHeader(b, address []byte) []byte {
	b = append(b, datagramPrefix...)
	return append(b, address...)
}
