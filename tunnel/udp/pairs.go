package udp

import (
	"encoding/binary"
	"net/netip"
	"sync"
	"sync/atomic"
)

// The pair check. ICE libraries let everything in that comes from an address
// which the peer has merely named, and hand it to DTLS. Here an address is let
// in only while somebody has said AllowPair for it. tunnel/rtc does so when a
// Binding success response has come from exactly that address for a transaction
// (96 random bits) that was sent to it, and takes it back 30 s after the last
// such response or when the peer connection ends. So whoever spoofs a source
// address gets nothing but STUN through unless it is the address of a living
// pair, and then only into that peer's own DTLS, whose records are
// authenticated. STUN itself is matched by user name and transaction above.
type pairs struct {
	mu  sync.RWMutex
	set map[netip.AddrPort]struct{}

	// The reader's memory of the last address that passed; changes of the set
	// raise generation. Bulk traffic comes from one address at a time.
	generation atomic.Uint64
	last       netip.AddrPort
	lastGen    uint64
}

// AllowPair lets packets of addr pass until RemovePair.
func (s *Socket) AllowPair(addr netip.AddrPort) {
	p := &s.pairs
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.set == nil {
		p.set = make(map[netip.AddrPort]struct{})
	}
	p.set[unmap(addr)] = struct{}{}
}

// RemovePair takes back AllowPair.
func (s *Socket) RemovePair(addr netip.AddrPort) {
	p := &s.pairs
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.set, unmap(addr))
	p.generation.Add(1)
}

// Pairs returns how many addresses may pass.
func (s *Socket) Pairs() int {
	s.pairs.mu.RLock()
	defer s.pairs.mu.RUnlock()
	return len(s.pairs.set)
}

// allowed is called by the reading goroutine only.
func (p *pairs) allowed(from netip.AddrPort) bool {
	generation := p.generation.Load()
	if p.last == from && p.lastGen == generation && from.IsValid() {
		return true
	}
	p.mu.RLock()
	_, ok := p.set[from]
	p.mu.RUnlock()
	if ok {
		p.last, p.lastGen = from, generation
	}
	return ok
}

// IsSTUN reports whether p is a STUN message by its header: first byte 0-3 and
// the magic cookie (RFC 8489 section 5, RFC 9443 section 3).
func IsSTUN(p []byte) bool {
	const header, cookie = 20, 0x2112A442
	return len(p) >= header && p[0] < 4 && binary.BigEndian.Uint32(p[4:]) == cookie
}
