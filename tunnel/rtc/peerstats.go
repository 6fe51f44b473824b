package rtc

import (
	"fmt"
	"net/netip"
	"time"

	"github.com/pion/webrtc/v4"
)

// PeerStats is what is known of a peer connection at a moment.
type PeerStats struct {
	CandidatePair            string // "host 192.0.2.1:3478 - prflx 198.51.100.7:40112"; empty before there is one
	Local, Remote            netip.AddrPort
	RTT                      time.Duration // smoothed, of SCTP; 0 before the first measurement
	BytesSent, BytesReceived uint64        // of SCTP packets
}

// Stats returns the present state, and after the end the last one. For a socket
// that is bound to no address, Local is the address that stands for all of its
// family.
func (p *Peer) Stats() PeerStats {
	select {
	case <-p.done:
		p.mu.Lock()
		defer p.mu.Unlock()
		return p.final
	default:
		return p.stats()
	}
}

func (p *Peer) stats() PeerStats {
	sctp := p.pc.SCTP()
	transport := sctp.Stats()
	s := PeerStats{
		RTT:       time.Duration(transport.SmoothedRoundTripTime * float64(time.Second)),
		BytesSent: transport.BytesSent, BytesReceived: transport.BytesReceived,
	}
	p.mu.Lock()
	path := p.path
	p.mu.Unlock()
	if !path { // pion's transport may not be asked before it has started
		return s
	}
	pair, err := sctp.Transport().ICETransport().GetSelectedCandidatePair()
	if err != nil || pair == nil {
		return s
	}
	s.Local, s.Remote = candidateAddress(pair.Local), candidateAddress(pair.Remote)
	s.CandidatePair = fmt.Sprintf("%s %s - %s %s", pair.Local.Typ, s.Local, pair.Remote.Typ, s.Remote)
	return s
}

func candidateAddress(c *webrtc.ICECandidate) netip.AddrPort {
	addr, err := netip.ParseAddr(c.Address)
	if err != nil {
		return netip.AddrPort{}
	}
	return netip.AddrPortFrom(addr.Unmap(), c.Port)
}
