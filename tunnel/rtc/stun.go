package rtc

import (
	"bytes"
	"encoding/binary"
)

// What the demultiplexer reads of STUN (RFC 8489 section 5): the class, the
// transaction and the user name. Everything else, the integrity above all, is
// checked by pion's agent. Both functions expect that udp.IsSTUN held.

type stunClass uint8

const (
	stunRequest stunClass = iota
	stunIndication
	stunSuccess
	stunFailure
)

type transaction [12]byte

const (
	stunHeader   = 20
	attrUsername = 0x0006
)

func stunParts(p []byte) (stunClass, transaction) {
	class := stunClass(p[0]&1)<<1 | stunClass(p[1]>>4&1)
	return class, transaction(p[8:20])
}

// stunUfrag returns the part of USERNAME before the colon: in a request to us,
// our own user name fragment (RFC 8445 section 7.2.2). Empty if there is none.
func stunUfrag(p []byte) string {
	rest := p[stunHeader:]
	if n := int(binary.BigEndian.Uint16(p[2:])); n <= len(rest) {
		rest = rest[:n]
	}
	for len(rest) >= 4 {
		kind, n := binary.BigEndian.Uint16(rest), int(binary.BigEndian.Uint16(rest[2:]))
		if n > len(rest)-4 {
			return ""
		}
		if kind == attrUsername {
			ufrag, _, ok := bytes.Cut(rest[4:4+n], []byte(":"))
			if !ok || len(ufrag) > 256 {
				return ""
			}
			return string(ufrag)
		}
		rest = rest[min(4+(n+3)&^3, len(rest)):]
	}
	return ""
}
