package rtc

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/pion/webrtc/v4"
	"go.uber.org/zap"

	"github.com/culvertgate/culvert/framecodec"
	"github.com/culvertgate/culvert/tunnel"
	"github.com/culvertgate/culvert/tunnel/udp"
)

// DefaultGatherWait is how long an offer waits for candidates of STUN and TURN
// servers; what is found later is told to Handler.OnCandidate.
const DefaultGatherWait = 500 * time.Millisecond

// DialerConfig is what a client's Dialer is made with. The zero value is good.
type DialerConfig struct {
	// Logger returns the logger of the moment; nil: nothing is logged.
	Logger func() *zap.Logger
	// ConnectTimeout is the time from Accept to the first open channel, and for a
	// restart to connect. 0: DefaultConnectTimeout.
	ConnectTimeout time.Duration
	// Timeouts of ICE. Zero fields: the defaults.
	Timeouts Timeouts
	// GatherWait bounds the wait for STUN and TURN servers. 0: DefaultGatherWait.
	GatherWait time.Duration
	// Loopback uses loopback addresses, our own and the gateway's: for a gateway
	// on this machine.
	Loopback bool
	// ListenAddress is what the UDP sockets are bound to; empty: all addresses
	// and any port.
	ListenAddress string
	// Socket is how the UDP sockets are opened.
	Socket udp.Config
	// Now is the clock of certificates; nil: time.Now.
	Now func() time.Time
}

// Dialer makes a client's peer connections, each with a UDP socket of its own:
// between two muxes that many peer connections share, pion would find packets
// by their source only. Safe for concurrent use; there is nothing to close.
type Dialer struct {
	cfg     DialerConfig
	certs   certificates
	loggers *loggers

	once    sync.Once
	net     network
	netErr  error
	warnOne sync.Once
}

// NewDialer does no I/O.
func NewDialer(cfg DialerConfig) *Dialer {
	cfg.Logger = orNop(cfg.Logger)
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.ConnectTimeout <= 0 {
		cfg.ConnectTimeout = DefaultConnectTimeout
	}
	if cfg.GatherWait <= 0 {
		cfg.GatherWait = DefaultGatherWait
	}
	if cfg.ListenAddress == "" {
		cfg.ListenAddress = ":0"
	}
	cfg.Timeouts = cfg.Timeouts.withDefaults()
	return &Dialer{cfg: cfg, certs: certificates{now: cfg.Now}, loggers: newLoggers(cfg.Logger)}
}

// Offer opens a socket, makes a peer connection with the channels of specs, and
// returns its offer with the candidates that were found within GatherWait (those
// of this machine at once). The peer ends by itself if it is not connected in
// time after Accept; before Accept it waits until Close.
func (d *Dialer) Offer(ctx context.Context, specs []ChannelSpec, servers []ICEServer, h Handler) (*Peer, string, error) {
	for _, s := range specs {
		if len(s.Label) > MaxName || len(s.Protocol) > MaxName {
			return nil, "", tunnel.Errorf(framecodec.CodeInternal, "a channel's label or protocol has more than %d bytes", MaxName)
		}
	}
	p, err := d.newPeer(ctx, servers, h)
	if err != nil {
		return nil, "", tunnel.Errorf(framecodec.CodeInternal, "%w", err)
	}
	text, err := d.offer(ctx, p, specs)
	if err != nil {
		p.Close(framecodec.CodeCancelled)
		return nil, "", err
	}
	return p, text, nil
}

func (d *Dialer) newPeer(ctx context.Context, servers []ICEServer, h Handler) (*Peer, error) {
	if d.once.Do(func() { d.net, d.netErr = newNetwork() }); d.netErr != nil {
		return nil, fmt.Errorf("looking at this machine's network: %w", d.netErr)
	}
	cert, err := d.certs.get()
	if err != nil {
		return nil, err
	}
	socket, err := udp.Listen(ctx, "udp", d.cfg.ListenAddress, d.cfg.Socket)
	if err != nil {
		return nil, err
	}
	d.warnOne.Do(func() {
		for _, w := range socket.Warnings() {
			d.cfg.Logger().Warn(w)
		}
	})
	hosts := func() []netip.AddrPort { // asked anew at a restart, when the network may be another
		list, err := hostAddresses(socket, d.cfg.Loopback)
		if err != nil {
			d.cfg.Logger().Warn("no local addresses for ICE", zap.Error(err))
		}
		return list
	}
	m := newMux(socket, maxPeerAddresses+2*MaxCandidates, func() []net.Addr { return families(socket, hosts()) }, d.cfg.Logger)
	p := &Peer{
		handler: h, log: d.cfg.Logger, connect: d.cfg.ConnectTimeout, filter: remoteFilter{loopback: d.cfg.Loopback},
		hosts: func(context.Context) []string { return hostLines(hosts()) }, private: m,
	}
	api := func(alive context.Context) *webrtc.API {
		return newAPI(alive, m, d.net, d.loggers, d.cfg.Timeouts, d.cfg.ConnectTimeout, nil)
	}
	if err := newPeer(p, api, cert, iceServers(servers)); err != nil { //nolint:contextcheck // lives longer than the call
		return nil, errors.Join(err, m.Close())
	}
	return p, nil
}

func iceServers(list []ICEServer) []webrtc.ICEServer {
	out := make([]webrtc.ICEServer, 0, len(list))
	for _, s := range list {
		out = append(out, webrtc.ICEServer{URLs: s.URLs, Username: s.Username, Credential: s.Credential})
	}
	return out
}

func (d *Dialer) offer(ctx context.Context, p *Peer, specs []ChannelSpec) (string, error) {
	p.pc.OnDataChannel(p.adopt)
	p.pc.OnICECandidate(p.foundCandidate)
	for _, s := range specs {
		if err := p.OpenChannel(s); err != nil {
			return "", err
		}
	}
	made, err := p.pc.CreateOffer(nil)
	if err != nil {
		return "", tunnel.Errorf(framecodec.CodeInternal, "making the offer: %w", err)
	}
	complete, err := p.gather(ctx, made, d.cfg.GatherWait)
	if err != nil {
		return "", err
	}
	return p.localText(ctx, complete)
}

// OpenChannel opens another data channel; OnChannel is told when it is open.
func (p *Peer) OpenChannel(s ChannelSpec) error {
	dc, err := p.pc.CreateDataChannel(s.Label, s.init())
	if err != nil {
		if end := p.Err(); end != nil {
			return end
		}
		return tunnel.Errorf(framecodec.CodeInternal, "making a data channel: %w", err)
	}
	p.adopt(dc)
	return nil
}

func (s ChannelSpec) init() *webrtc.DataChannelInit {
	ordered := !s.Unordered
	init := &webrtc.DataChannelInit{Protocol: &s.Protocol, Ordered: &ordered}
	if s.Unordered {
		none := uint16(0)
		init.MaxRetransmits = &none
	}
	return init
}

// gather sets an offer of ours and waits for candidates, at most for wait. It
// reports whether there will be no more; if there may be, OnCandidate is told.
func (p *Peer) gather(ctx context.Context, offer webrtc.SessionDescription, wait time.Duration) (bool, error) {
	p.mu.Lock()
	p.gathered = false
	p.mu.Unlock()
	gathered := webrtc.GatheringCompletePromise(p.pc)
	if err := p.pc.SetLocalDescription(offer); err != nil {
		return false, tunnel.Errorf(framecodec.CodeInternal, "setting the offer: %w", err)
	}
	bounded, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	err := p.await(bounded, gathered)
	if err != nil && (ctx.Err() != nil || p.Err() != nil) {
		return false, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.gathered = true
	return err == nil, nil
}

// foundCandidate tells the owner of candidates that are not in the offer. It is
// called from the ICE agent's goroutine, see later.
func (p *Peer) foundCandidate(c *webrtc.ICECandidate) {
	p.mu.Lock()
	late := p.gathered && p.err == nil
	p.mu.Unlock()
	f := p.handler.OnCandidate
	if !late || f == nil {
		return
	}
	line := ""
	if c != nil {
		if c.Typ == webrtc.ICECandidateTypeHost {
			return
		}
		line = c.ToJSON().Candidate
	}
	p.later(func() { f(p, line) })
}

// Accept takes the gateway's answer; from now on ConnectTimeout runs. The error
// is an *OfferError or *tunnel.Error; the peer must still be closed.
func (p *Peer) Accept(answerSDP string) error {
	d, err := parseAnswer(answerSDP)
	if err != nil {
		return err
	}
	given := d
	given.candidates = p.usable(d.candidates)
	if len(d.candidates) > 0 && len(given.candidates) == 0 {
		return badOffer("none of the gateway's %d candidates can be used here", len(d.candidates))
	}
	return p.acceptText(d, given.text())
}

// acceptText gives pion the text that stands for d.
func (p *Peer) acceptText(d description, text string) error {
	p.setRemote(d)
	p.startDeadline()
	if err := p.pc.SetRemoteDescription(webrtc.SessionDescription{Type: webrtc.SDPTypeAnswer, SDP: text}); err != nil {
		return badOffer("the answer was not accepted: %w", err)
	}
	return nil
}

// OfferRestart starts an ICE restart and returns what the gateway must be told.
// The old path is given up with it: it is for a path that is broken. The peer
// ends with CodeTimeout unless AcceptRestart and a new path come within
// ConnectTimeout.
func (p *Peer) OfferRestart(ctx context.Context) (Fragment, error) {
	if !p.restartMu.TryLock() {
		return Fragment{}, tunnel.Errorf(framecodec.CodeConflict, "another restart is being made")
	}
	defer p.restartMu.Unlock()
	if p.pc.SignalingState() != webrtc.SignalingStateStable {
		return Fragment{}, tunnel.Errorf(framecodec.CodeConflict, "another restart waits for its answer")
	}
	if err := p.beginRestart(); err != nil {
		return Fragment{}, err
	}
	made, err := p.pc.CreateOffer(&webrtc.OfferOptions{ICERestart: true})
	if err != nil {
		return Fragment{}, tunnel.Errorf(framecodec.CodeInternal, "restarting ICE: %w", err)
	}
	complete, err := p.gather(ctx, made, DefaultGatherWait)
	if err != nil {
		return Fragment{}, err
	}
	f, err := p.localFragment(ctx)
	f.EndOfCandidates = complete
	return f, err
}

// AcceptRestart takes the gateway's part of a restart.
func (p *Peer) AcceptRestart(f Fragment) error {
	d, err := p.restarted(f)
	if err != nil {
		return err
	}
	given := d
	given.candidates = p.usable(d.candidates)
	if err := p.pc.SetRemoteDescription(webrtc.SessionDescription{Type: webrtc.SDPTypeAnswer, SDP: given.text()}); err != nil {
		return badOffer("the restart was not accepted: %w", err)
	}
	p.setRemote(d)
	return nil
}
