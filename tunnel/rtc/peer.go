package rtc

import (
	"context"
	"fmt"
	"net/netip"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/culvertgate/culvert/framecodec"
	"github.com/culvertgate/culvert/tunnel"
	"github.com/pion/datachannel"
	"github.com/pion/webrtc/v4"
	"go.uber.org/zap"
)

const (
	flushTime   = time.Second     // that Close gives to what was written before
	releaseTime = 5 * time.Second // that Close waits for pion to let go
)

// live counts peers that were made and not yet released.
var live atomic.Int64

// Live returns how many peers of this process hold resources. A peer counts from
// its offer to the call of OnClosed.
func Live() int { return int(live.Load()) }

// Peer is one peer connection. It has an explicit end: Close, or one of the
// things that end it by itself (silence, failure, the remote's end, a time-out).
// Whatever comes first decides Err; everything is released exactly once. All
// methods are safe for concurrent use.
type Peer struct {
	handler Handler
	log     func() *zap.Logger
	connect time.Duration
	filter  remoteFilter
	ignore  bool                           // the peer's candidates are not used
	hosts   func(context.Context) []string // our host candidates, as lines
	private *mux                           // a client's own, closed with the peer
	release func()                         // told last, by the owner

	pc *webrtc.PeerConnection

	done     chan struct{} // the end has begun: Err is set
	released chan struct{} // nothing is held any more
	tasks    sync.WaitGroup

	restartMu sync.Mutex // held while a restart is being exchanged

	mu         sync.Mutex
	err        error
	remote     description
	candidates int  // of the peer, counted for MaxCandidates
	path       bool // ICE has found one
	connected  bool // DTLS too
	opened     bool // a channel too
	restarting bool
	gathered   bool // Offer has returned: later candidates go to OnCandidate
	channels   map[*Channel]struct{}
	deadline   *time.Timer
	final      PeerStats // as of the end
}

// newPeer makes pion's peer connection and listens to it.
func newPeer(p *Peer, api *webrtc.API, cert webrtc.Certificate, servers []webrtc.ICEServer) error {
	heapFloor()
	p.done, p.released = make(chan struct{}), make(chan struct{})
	p.channels = make(map[*Channel]struct{})
	pc, err := api.NewPeerConnection(webrtc.Configuration{Certificates: []webrtc.Certificate{cert}, ICEServers: servers})
	if err != nil {
		return fmt.Errorf("making a peer connection: %w", err)
	}
	p.pc = pc
	live.Add(1)
	pc.OnConnectionStateChange(p.stateChanged)
	pc.OnICEConnectionStateChange(p.iceStateChanged)
	pc.SCTP().OnClose(p.associationEnded)
	return nil
}

// Done is closed when the peer has ended; resources may still be being released.
func (p *Peer) Done() <-chan struct{} { return p.done }

// Err returns why the peer has ended, a *tunnel.Error, or nil while it lives:
// CodeTunnelLost for a failed or silent path and a failed DTLS handshake,
// CodeTunnelClosed when the remote end said so, CodeTimeout when no channel was
// open in time, and otherwise the code of Close.
func (p *Peer) Err() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.err
}

// Close ends the peer with code. What its channels have taken is given a second
// to arrive. It returns when everything is released, at the latest after about
// six seconds, and may be called again and by several. It must not be called
// from a Handler.
func (p *Peer) Close(code framecodec.Code) {
	p.flush(flushTime)
	p.end(&tunnel.Error{Code: code, Text: "closed here"})
	timer := time.NewTimer(releaseTime)
	defer timer.Stop()
	select {
	case <-p.released:
	case <-timer.C:
	}
}

// flush waits until the peer has acknowledged everything.
func (p *Peer) flush(d time.Duration) {
	deadline := time.Now().Add(d)
	for _, c := range p.openChannels() {
		if p.pc.ConnectionState() != webrtc.PeerConnectionStateConnected {
			return // nobody there to acknowledge
		}
		_ = c.Close(framecodec.CodeNormal)
		c.drain(time.Until(deadline))
	}
}

func (p *Peer) openChannels() []*Channel {
	p.mu.Lock()
	defer p.mu.Unlock()
	list := make([]*Channel, 0, len(p.channels))
	for c := range p.channels {
		list = append(list, c)
	}
	return list
}

// end begins the end, once.
func (p *Peer) end(err error) {
	p.mu.Lock()
	if p.err != nil {
		p.mu.Unlock()
		return
	}
	p.err = err
	if p.deadline != nil {
		p.deadline.Stop()
	}
	p.mu.Unlock()
	close(p.done)
	go p.finish()
}

// finish releases everything; it is the only place that does.
func (p *Peer) finish() {
	final := p.stats()
	p.mu.Lock()
	p.final = final
	p.mu.Unlock()
	for _, c := range p.openChannels() {
		c.transportEnded()
	}
	if err := p.pc.GracefulClose(); err != nil {
		p.log().Debug("closing a peer connection", zap.Error(err))
	}
	p.tasks.Wait()
	if p.private != nil {
		_ = p.private.Close()
	}
	live.Add(-1)
	if f := p.handler.OnClosed; f != nil {
		p.guard(func() { f(p, p.Err()) })
	}
	if p.release != nil {
		p.release()
	}
	close(p.released)
}

// spawn runs f in a goroutine that finish waits for; false after the end.
func (p *Peer) spawn(f func()) bool {
	if !p.enter() {
		return false
	}
	go func() {
		defer p.tasks.Done()
		f()
	}()
	return true
}

// enter begins something that finish waits for, until tasks.Done.
func (p *Peer) enter() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err != nil {
		return false
	}
	p.tasks.Add(1)
	return true
}

// tell calls a function of the owner unless the end has begun. Nothing but
// OnClosed is told after OnClosed.
func (p *Peer) tell(f func()) {
	if !p.enter() {
		return
	}
	defer p.tasks.Done()
	p.guard(f)
}

// guard calls a function of the owner; a panic there ends this peer only.
func (p *Peer) guard(f func()) {
	defer func() {
		if v := recover(); v != nil {
			p.log().Error("panic in a peer connection's handler", zap.Any("panic", v), zap.ByteString("stack", debug.Stack()))
			p.end(&tunnel.Error{Code: framecodec.CodeInternal, Text: "internal error"})
		}
	}()
	f()
}

// startDeadline bounds the time to an open channel, or of a restart.
func (p *Peer) startDeadline() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err != nil {
		return
	}
	if p.deadline != nil {
		p.deadline.Stop()
	}
	p.deadline = time.AfterFunc(p.connect, p.tooLate)
}

func (p *Peer) tooLate() {
	p.mu.Lock()
	restarting, opened, connected, path := p.restarting, p.opened, p.connected, p.path
	p.mu.Unlock()
	step := "no network path (UDP) was found"
	switch {
	case restarting:
		step = "no network path (UDP) was found after the restart"
	case opened:
		return
	case connected:
		step = "connected, but no data channel was opened"
	case path:
		step = "a network path was found, but the DTLS handshake did not end"
	}
	p.end(tunnel.Errorf(framecodec.CodeTimeout, "%s within %v", step, p.connect))
}

func (p *Peer) stateChanged(state webrtc.PeerConnectionState) {
	switch state {
	case webrtc.PeerConnectionStateConnected:
		p.mu.Lock()
		first := !p.connected
		p.connected = true
		p.mu.Unlock()
		if f := p.handler.OnConnected; f != nil && first {
			p.tell(func() { f(p) })
		}
	case webrtc.PeerConnectionStateFailed:
		p.end(&tunnel.Error{Code: framecodec.CodeTunnelLost, Text: p.failure()})
	case webrtc.PeerConnectionStateClosed:
		p.associationEnded(nil)
	}
}

// failure says in which phase a peer failed by itself.
func (p *Peer) failure() string {
	p.mu.Lock()
	connected, path := p.connected, p.path
	p.mu.Unlock()
	switch {
	case connected:
		return "the peer fell silent"
	case path:
		return "the DTLS handshake failed"
	default:
		return "no network path (UDP) was found"
	}
}

func (p *Peer) iceStateChanged(state webrtc.ICEConnectionState) {
	switch state {
	case webrtc.ICEConnectionStateDisconnected:
		p.tellPath(false)
	case webrtc.ICEConnectionStateConnected, webrtc.ICEConnectionStateCompleted:
		pair, err := p.pc.SCTP().Transport().ICETransport().GetSelectedCandidatePair()
		if err != nil || pair == nil {
			return // said of the pair before a restart
		}
		p.foundPath()
		p.tellPath(true)
	}
}

// foundPath also ends a restart.
func (p *Peer) foundPath() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.path = true
	if !p.restarting {
		return
	}
	p.restarting = false
	if p.deadline != nil && p.opened {
		p.deadline.Stop()
	}
}

func (p *Peer) tellPath(up bool) {
	if f := p.handler.OnPath; f != nil {
		p.tell(func() { f(p, up) })
	}
}

// adopt waits for dc to open and hands it on.
func (p *Peer) adopt(dc *webrtc.DataChannel) {
	dc.OnOpen(func() {
		raw, err := dc.Detach()
		channel, ok := raw.(*datachannel.DataChannel)
		if err != nil || !ok {
			p.log().Warn("a data channel could not be taken over", zap.Error(err))
			return
		}
		if len(dc.Label()) > MaxName || len(dc.Protocol()) > MaxName {
			p.log().Debug("data channel closed: its label or protocol is too long")
			_ = channel.Close()
			return
		}
		c := newChannel(p, dc, channel)
		if !p.keep(c) {
			_ = channel.Close()
			return
		}
		if f := p.handler.OnChannel; f != nil {
			p.tell(func() { f(p, c) })
		}
	})
}

// keep counts a channel among the open ones.
func (p *Peer) keep(c *Channel) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err != nil || len(p.channels) >= MaxChannels {
		return false
	}
	p.channels[c] = struct{}{}
	p.opened = true
	if p.deadline != nil && !p.restarting {
		p.deadline.Stop()
	}
	return true
}

func (p *Peer) forget(c *Channel) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.channels, c)
}

// associationEnded is called when SCTP is over while the path is not known to be.
func (p *Peer) associationEnded(err error) {
	p.mu.Lock()
	connected := p.connected || p.opened
	p.mu.Unlock()
	if !connected { // pion closes everything when the handshake fails
		p.end(&tunnel.Error{Code: framecodec.CodeTunnelLost, Text: p.failure(), Err: err})
		return
	}
	p.end(&tunnel.Error{Code: framecodec.CodeTunnelClosed, Text: "the peer ended the connection", Err: err})
}

func (p *Peer) maxSend() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.remote.maxSend()
}

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
