package socks5

import (
	"encoding/binary"
	"net/netip"
	"unicode"
	"unicode/utf8"
)

// addressType says how an address is written (RFC 1928 sections 4 and 5).
type addressType byte

const (
	addressIPv4 addressType = 1 // 4 bytes
	addressName addressType = 3 // length u8, name
	addressIPv6 addressType = 4 // 16 bytes
)

// An address is on the wire, in requests as in datagrams:
//
//	type u8 | IPv4, IPv6, or length u8 and name | port u16
//
// The functions below take all of it as one slice.

// addressLength returns the length of an address whose type and next byte are
// known, or 0 if there is no such type.
func addressLength(typ addressType, next byte) int {
	switch typ {
	case addressIPv4:
		return 1 + 4 + 2
	case addressIPv6:
		return 1 + 16 + 2
	case addressName:
		return 1 + 1 + int(next) + 2
	default:
		return 0
	}
}

// validAddress reports whether a whole address of a known type can be used. Only
// names can be wrong.
func validAddress(address []byte) bool {
	return addressType(address[0]) != addressName || validName(address[2:len(address)-2])
}

// hostOf returns the name, or the text of the IP address.
func hostOf(address []byte) string {
	end := len(address) - 2
	if addressType(address[0]) == addressName {
		return string(address[2:end])
	}
	ip, _ := netip.AddrFromSlice(address[1:end])
	return ip.String()
}

func portOf(address []byte) uint16 { return binary.BigEndian.Uint16(address[len(address)-2:]) }

// validName keeps out what no name has and what could break a log line or a
// message on the way; whether it can be resolved is for others to find out.
func validName(name []byte) bool {
	if len(name) == 0 {
		return false
	}
	for len(name) > 0 { // by hand: a string made of it would be allocated for each datagram
		r, size := utf8.DecodeRune(name)
		if (r == utf8.RuneError && size == 1) || unicode.IsControl(r) || unicode.IsSpace(r) {
			return false
		}
		name = name[size:]
	}
	return true
}
