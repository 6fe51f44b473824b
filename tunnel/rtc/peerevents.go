package rtc

import (
	"time"

	"github.com/pion/datachannel"
	"github.com/pion/webrtc/v4"
	"go.uber.org/zap"

	"github.com/culvertgate/culvert/framecodec"
	"github.com/culvertgate/culvert/tunnel"
)

// What pion tells of a peer connection, and the clock that bounds its phases.

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
		p.connected, p.path = true, true
		p.mu.Unlock()
		if f := p.handler.OnConnected; f != nil && first {
			p.tell(func() { f(p) })
		}
	case webrtc.PeerConnectionStateFailed:
		p.end(&tunnel.Error{Code: framecodec.CodeTunnelLost, Text: p.failure()})
	case webrtc.PeerConnectionStateClosed:
		p.associationEnded(nil)
	default: // on the way, or disturbed: ICE decides
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

// iceStateChanged is called from the ICE agent's goroutine, see later.
func (p *Peer) iceStateChanged(state webrtc.ICEConnectionState) {
	switch state {
	case webrtc.ICEConnectionStateDisconnected:
		p.later(func() { p.tellPath(false) })
	case webrtc.ICEConnectionStateConnected, webrtc.ICEConnectionStateCompleted:
		p.later(p.pathConnected)
	default: // checking; failures are the peer connection's
	}
}

func (p *Peer) pathConnected() {
	pair, err := p.pc.SCTP().Transport().ICETransport().GetSelectedCandidatePair()
	if err != nil || pair == nil {
		return // said of the pair before a restart
	}
	p.foundPath()
	p.tellPath(true)
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
	p.opened, p.path = true, true
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
