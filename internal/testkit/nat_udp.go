package testkit

import (
	"crypto/rand"
	"encoding/binary"
	"net/netip"
	"sync"
)

// translator is the NAT that a Cable's near end may be behind: UDP over IPv4
// leaves from another address and other ports, and only who was written to
// since the last rebinding gets an answer through (RFC 4787: endpoint-independent
// mapping and filtering, which is what most homes have).
type translator struct {
	mu      sync.Mutex
	inside  [4]byte           // guarded by mu, like all
	outside [4]byte           // zero: there is no NAT
	shift   uint16            // of ports
	ports   map[uint16]uint16 // outside to inside
}

// rebind forgets every mapping; those made from now on have another port, and the
// address outside.
func (n *translator) rebind(inside, outside netip.Addr) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.inside, n.outside = inside.As4(), outside.As4()
	n.shift += 1013
	n.ports = map[uint16]uint16{}
}

// lowPorts stay what they are.
const lowPorts = 1024

// outward changes the source of a packet from the near end.
func (n *translator) outward(packet []byte) {
	n.mu.Lock()
	defer n.mu.Unlock()
	udp := udpHeader(packet)
	if n.outside == [4]byte{} || udp == nil || [4]byte(packet[12:16]) != n.inside {
		return
	}
	port := binary.BigEndian.Uint16(udp)
	mapped := port
	if port >= lowPorts {
		mapped = lowPorts + uint16((uint32(port-lowPorts)+uint32(n.shift))%(1<<16-lowPorts))
	}
	n.ports[mapped] = port
	copy(packet[12:16], n.outside[:])
	binary.BigEndian.PutUint16(udp, mapped)
	mendChecksums(packet)
}

// inward changes the destination of a packet to the near end and reports whether
// it may pass.
func (n *translator) inward(packet []byte) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	udp := udpHeader(packet)
	if n.outside == [4]byte{} || udp == nil {
		return true
	}
	port, ok := n.ports[binary.BigEndian.Uint16(udp[2:])]
	if !ok || [4]byte(packet[16:20]) != n.outside {
		return false
	}
	copy(packet[16:20], n.inside[:])
	binary.BigEndian.PutUint16(udp[2:], port)
	mendChecksums(packet)
	return true
}

// udpHeader returns what follows the IPv4 header of a UDP packet that is not a
// later fragment; nil: it is something else.
func udpHeader(packet []byte) []byte {
	if len(packet) < 20 || packet[0]>>4 != 4 || packet[9] != 17 || binary.BigEndian.Uint16(packet[6:])&0x1fff != 0 {
		return nil
	}
	if header := int(packet[0]&15) * 4; header >= 20 && len(packet) >= header+8 {
		return packet[header:]
	}
	return nil
}

// mendChecksums makes the header's right and leaves UDP's out, as IPv4 allows.
func mendChecksums(packet []byte) {
	header := packet[:int(packet[0]&15)*4]
	header[10], header[11] = 0, 0
	sum := uint32(0)
	for i := 0; i < len(header); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(header[i:]))
	}
	for sum>>16 != 0 {
		sum = sum&0xffff + sum>>16
	}
	binary.BigEndian.PutUint16(header[10:], ^uint16(sum))
	if udp := udpHeader(packet); udp != nil {
		udp[6], udp[7] = 0, 0
	}
}

// garble makes a UDP packet one of the same addresses, length and first byte
// (the kind: STUN, DTLS), the rest of which is nonsense. It reports whether it is one.
func garble(packet []byte) bool {
	udp := udpHeader(packet)
	if len(udp) < 10 {
		return false
	}
	_, _ = rand.Read(udp[9:])
	mendChecksums(packet)
	return true
}
