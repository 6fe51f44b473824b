// Package rtc makes peer connections: at a gateway from the offers of peers, all
// over one UDP socket; at a client with a socket of its own for each. A data
// channel of a peer connection is a tunnel.Carrier (channel.go). It knows pion,
// SDP and ICE, and neither HTTP nor frames.
//
// Goroutines. Each demultiplexer (mux.go; one of a Gateway, one of each client
// Peer) has one that reads the socket. A Peer has none of its own while it
// rests; one hears what the ICE agent reports, as long as there is something
// (Peer.later), one runs the end (Peer.finish) and waits for the first, and the
// bounded wait of a Channel that is being closed has one. pion has about twelve
// for each peer connection; Handlers are called from those too.
//
// Locks. Peer.mu and Channel.mu are leaves: no handler and nothing of pion is
// called under them, but for a stream's buffered amount and its mark, whose lock
// in pion is a leaf too. mux.mu is above muxConn.mu and above the socket's.
package rtc

import (
	"time"

	"github.com/culvertgate/culvert/framecodec"
	"github.com/culvertgate/culvert/tunnel"
)

// MaxMessage is the largest message that is accepted and that is ever sent, in
// bytes; it is what our descriptions announce (RFC 8841 section 6).
const MaxMessage = 65536

// Bounds of what a peer may hand us before and after it is known.
const (
	MaxDescription = 64 << 10 // bytes of an SDP offer or answer
	MaxFragment    = 16 << 10 // bytes of an SDP fragment (RFC 8840)
	MaxCandidates  = 64       // candidates of one peer, in all its messages together
	MaxName        = 256      // bytes of a data channel's label, and of its protocol
	MaxChannels    = 1024     // data channels open at once in one peer connection

	maxPeerAddresses = 16 // addresses that one peer may send checks from: peer-reflexive candidates
)

// DefaultConnectTimeout is how long a peer connection may take from the answer
// to its first open channel, and from a restart to a connected path.
const DefaultConnectTimeout = 15 * time.Second

// Timeouts are those of ICE. Zero fields mean the defaults 5 s, 17 s and 2 s:
// a check runs every Keepalive, so a peer that was killed is noticed at the
// latest Disconnected + Failed + Keepalive = 24 s after its last packet, and a
// path that was away for 15 s is still there.
type Timeouts struct {
	Disconnected time.Duration // silence until the path counts as disturbed
	Failed       time.Duration // further silence until the peer connection ends
	Keepalive    time.Duration // between consent checks (RFC 7675)
}

func (t Timeouts) withDefaults() Timeouts {
	if t.Disconnected <= 0 {
		t.Disconnected = 5 * time.Second
	}
	if t.Failed <= 0 {
		t.Failed = 17 * time.Second
	}
	if t.Keepalive <= 0 {
		t.Keepalive = 2 * time.Second
	}
	return t
}

// Handler is told what happens in a Peer. Nil fields are allowed. The functions
// must return at once, must not call Peer.Close (which waits for them), and may
// be called concurrently. A panic in one ends the peer with CodeInternal.
type Handler struct {
	// OnPath is called when ICE has a network path (again), and with false when
	// the path has been silent for Timeouts.Disconnected.
	OnPath func(p *Peer, up bool)
	// OnConnected is called once, when ICE and DTLS are up.
	OnConnected func(*Peer)
	// OnChannel is called for each channel that is open: those of the peer and
	// those that Offer was asked to make. Whoever gets it must read it until its
	// end and close it.
	OnChannel func(*Peer, *Channel)
	// OnCandidate is called at a client for each candidate of ours that was found
	// after Offer had returned, with its "candidate:..." line, and with "" when
	// there will be no more.
	OnCandidate func(*Peer, string)
	// OnClosed is called exactly once, when everything of the peer has been
	// released; err is what Peer.Err returns.
	OnClosed func(*Peer, error)
}

// ChannelSpec is a data channel that a client opens.
type ChannelSpec struct {
	Label, Protocol string // at most MaxName bytes each
	// Unordered makes a channel without order and without retransmission, for
	// datagrams (SPEC.md 3.5).
	Unordered bool
}

// ICEServer is a STUN or TURN server for a client.
type ICEServer struct {
	URLs                 []string // RFC 7064, RFC 7065
	Username, Credential string
}

// OfferError says why a description was refused. It unwraps to a *tunnel.Error
// of CodeBadOffer whose text may be shown to the peer.
type OfferError struct {
	err *tunnel.Error
	// Unprocessable: the description is well-formed, but asks for something that
	// is not to be had here, such as media (HTTP 422 instead of 400).
	Unprocessable bool
}

// Error returns the code and the text.
func (e *OfferError) Error() string { return e.err.Error() }

// Unwrap returns the *tunnel.Error.
func (e *OfferError) Unwrap() error { return e.err }

func badOffer(format string, args ...any) error {
	return &OfferError{err: tunnel.Errorf(framecodec.CodeBadOffer, format, args...)}
}

func unprocessable(format string, args ...any) error {
	return &OfferError{err: tunnel.Errorf(framecodec.CodeBadOffer, format, args...), Unprocessable: true}
}
