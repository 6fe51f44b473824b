package rtc

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"sync"
	"time"

	"github.com/pion/webrtc/v4"
	"go.uber.org/zap"

	"github.com/culvertgate/culvert/framecodec"
	"github.com/culvertgate/culvert/tunnel"
	"github.com/culvertgate/culvert/tunnel/udp"
)

// GatewayConfig is what a gateway is made with.
type GatewayConfig struct {
	// Socket is the one UDP socket of all peer connections. The gateway owns it
	// from then on and is the only one to read it.
	Socket *udp.Socket
	// Logger returns the logger of the moment; nil: nothing is logged.
	Logger func() *zap.Logger
	// Now is the clock of certificates and look-ups; nil: time.Now.
	Now func() time.Time
	Options

	resolve resolver // of external addresses; nil: the system's
}

// Gateway answers offers, all over one UDP socket.
type Gateway struct {
	socket  *udp.Socket
	log     func() *zap.Logger
	now     func() time.Time
	resolve resolver
	certs   certificates
	net     network
	loggers *loggers
	mux     *mux
	heap    heapWatch
	tasks   sync.WaitGroup // look-ups, collections

	mu     sync.Mutex
	set    settings
	peers  map[*Peer]struct{}
	closed bool
	empty  chan struct{} // closed when closed and without peers
}

// NewGateway starts to read the socket. An error leaves the socket to the caller.
func NewGateway(cfg GatewayConfig) (*Gateway, error) {
	if cfg.Socket == nil {
		return nil, errors.New("a gateway needs a UDP socket")
	}
	g := &Gateway{
		socket: cfg.Socket, log: orNop(cfg.Logger), now: cfg.Now, resolve: cfg.resolve,
		peers: make(map[*Peer]struct{}), empty: make(chan struct{}),
	}
	if g.now == nil {
		g.now = time.Now
	}
	if g.resolve == nil {
		g.resolve = net.DefaultResolver.LookupNetIP
	}
	g.certs.now = g.now
	g.loggers = newLoggers(g.log)
	var err error
	if g.net, err = newNetwork(); err != nil {
		return nil, fmt.Errorf("looking at this machine's network: %w", err)
	}
	if err := g.checkOptions(cfg.Options); err != nil {
		return nil, err
	}
	limit := maxPeerAddresses
	if cfg.RemoteCandidates {
		limit += MaxCandidates
	}
	g.mux = newMux(cfg.Socket, limit, g.listenAddresses, g.log)
	if err := g.SetOptions(cfg.Options); err != nil {
		return nil, errors.Join(err, g.mux.Close())
	}
	return g, nil
}

func orNop(f func() *zap.Logger) func() *zap.Logger {
	if f != nil {
		return f
	}
	nop := zap.NewNop()
	return func() *zap.Logger { return nop }
}

// SetOptions replaces the options for the answers to come. An error leaves the
// old ones. (Whether remote candidates are used also bounds the addresses of a
// peer: that bound stays as NewGateway had it, when it is turned on later.)
func (g *Gateway) SetOptions(o Options) error {
	set, err := readOptions(o, g.socket)
	if err != nil {
		return err
	}
	set.api = func(alive context.Context, follow *rebinding) *webrtc.API {
		return newAPI(alive, g.mux, g.net, g.loggers, set.Timeouts, set.ConnectTimeout, follow)
	}
	g.mu.Lock()
	g.keepExternalLocked(set.external)
	g.set = set
	g.mu.Unlock()
	for _, e := range set.external {
		e.begin(g.spawn, g.now())
	}
	return nil
}

// keepExternalLocked puts those of the options before, which know their addresses
// already, into the place of new ones that say the same.
func (g *Gateway) keepExternalLocked(list []*external) {
	for i, e := range list {
		e.resolve, e.log = g.resolve, g.log
		for _, old := range g.set.external {
			if old.text == e.text {
				list[i] = old
			}
		}
	}
}

func (g *Gateway) checkOptions(o Options) error {
	_, err := readOptions(o, g.socket)
	return err
}

func (g *Gateway) settings() (settings, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return settings{}, tunnel.Errorf(framecodec.CodeTunnelClosed, "the gateway is closed")
	}
	return g.set, nil
}

func (g *Gateway) listenAddresses() []net.Addr {
	hosts, err := hostAddresses(g.socket, true)
	if err != nil {
		g.log().Warn("no local addresses for ICE", zap.Error(err))
	}
	return families(g.socket, hosts)
}

// Addresses returns where answers say that this gateway is found: the external
// addresses, then those of this machine that may be shown.
func (g *Gateway) Addresses(ctx context.Context) ([]netip.AddrPort, error) {
	set, err := g.settings()
	if err != nil {
		return nil, err
	}
	return g.addresses(ctx, set)
}

func (g *Gateway) addresses(ctx context.Context, set settings) ([]netip.AddrPort, error) {
	var list []netip.AddrPort
	for _, e := range set.external {
		list = append(list, e.addresses(ctx, g.spawn, g.socket.AddrPort().Port(), g.now())...)
	}
	if len(set.external) > 0 && len(set.Candidates) == 0 && !set.KeepPrivate {
		return list, nil
	}
	hosts, err := hostAddresses(g.socket, set.Loopback)
	if err != nil && len(list) == 0 {
		return nil, err
	}
	var private []netip.AddrPort
	for _, h := range hosts {
		switch {
		case !set.filter.shows(h.Addr()):
		case isPublic(h.Addr()):
			list = append(list, h)
		case len(set.external) == 0 || set.KeepPrivate:
			private = append(private, h)
		}
	}
	return append(list, private...), nil
}

// noAddress says why an answer would have no candidate, and what to do.
func noAddress(set settings, err error) error {
	for _, e := range set.external {
		err = errors.Join(err, e.missing())
	}
	if err == nil {
		return tunnel.Errorf(framecodec.CodeInternal, "the gateway has no address to offer: set external_address, or candidates that match an address of this machine")
	}
	return tunnel.Errorf(framecodec.CodeInternal, "the gateway has no address to offer: %w (correct external_address or this machine's DNS)", err)
}

// spawn runs f in a goroutine that Close waits for; false after Close.
func (g *Gateway) spawn(f func()) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return false
	}
	g.tasks.Go(f)
	return true
}

func (g *Gateway) hostLines(ctx context.Context) []string {
	addrs, err := g.Addresses(ctx)
	if err != nil {
		g.log().Warn("no addresses to offer", zap.Error(err))
	}
	return hostLines(addrs)
}

// Answer makes a peer connection from an offer and returns its answer with all
// candidates. No state exists for an offer that CheckOffer refuses. The peer
// ends by itself after ConnectTimeout if no channel is open by then. Errors are
// *OfferError or *tunnel.Error.
func (g *Gateway) Answer(ctx context.Context, offerSDP string, h Handler) (*Peer, string, error) {
	offer, err := parseOffer(offerSDP)
	if err != nil {
		return nil, "", err
	}
	set, err := g.settings()
	if err != nil {
		return nil, "", err
	}
	addrs, err := g.addresses(ctx, set)
	if err != nil || len(addrs) == 0 {
		return nil, "", noAddress(set, err)
	}
	cert, err := g.certs.get()
	if err != nil {
		return nil, "", tunnel.Errorf(framecodec.CodeInternal, "%w", err)
	}
	p := &Peer{
		handler: h, log: g.log, connect: set.ConnectTimeout, remote: offer,
		filter: remoteFilter{loopback: set.Loopback, allow: set.RemoteAllowed}, ignore: !set.RemoteCandidates,
		gathered: true,
	}
	g.watchHeap()
	p.hosts = g.hostLines
	p.release = func() { g.forget(p) }
	follow := &rebinding{silence: 2 * set.Timeouts.Keepalive}
	api := func(alive context.Context) *webrtc.API { return set.api(alive, follow) }
	if err := newPeer(p, api, cert, nil); err != nil { //nolint:contextcheck // lives longer than the call
		return nil, "", tunnel.Errorf(framecodec.CodeInternal, "%w", err)
	}
	p.pc.SCTP().Transport().ICETransport().OnSelectedCandidatePairChange(follow.selected)
	if !g.keep(p) {
		p.Close(framecodec.CodeTunnelClosed)
		return nil, "", tunnel.Errorf(framecodec.CodeTunnelClosed, "the gateway is closed")
	}
	p.pc.OnDataChannel(p.adopt)
	answer, err := p.answer(ctx, offer)
	if err != nil {
		p.Close(framecodec.CodeBadOffer)
		return nil, "", err
	}
	p.startDeadline()
	return p, answer, nil
}

// watchHeap collects the garbage of answers and ends when it is time to.
func (g *Gateway) watchHeap() {
	if !g.heap.due(theFloor.size(), readHeap) {
		return
	}
	collect := func() {
		defer g.heap.done()
		runtime.GC()
	}
	if !g.spawn(collect) {
		g.heap.done()
	}
}

func (g *Gateway) keep(p *Peer) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return false
	}
	g.peers[p] = struct{}{}
	return true
}

func (g *Gateway) forget(p *Peer) {
	g.watchHeap()
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.peers, p)
	g.signalEmptyLocked()
}

func (g *Gateway) signalEmptyLocked() {
	if !g.closed || len(g.peers) > 0 {
		return
	}
	select {
	case <-g.empty:
	default:
		close(g.empty)
	}
}

// Dropped counts packets that reached the demultiplexer and belonged to no peer,
// or to one that had no room for them. What the socket dropped before is in its
// own Stats.
func (g *Gateway) Dropped() uint64 { return g.mux.dropped() }

// Close ends all peers with CodeTunnelClosed, closes the socket, and returns
// when everything is released, or after some seconds. It may be called again.
func (g *Gateway) Close() {
	g.mu.Lock()
	g.closed = true
	peers := make([]*Peer, 0, len(g.peers))
	for p := range g.peers {
		peers = append(peers, p)
	}
	g.signalEmptyLocked()
	g.mu.Unlock()
	var closing sync.WaitGroup
	for _, p := range peers {
		closing.Go(func() { p.Close(framecodec.CodeTunnelClosed) })
	}
	closing.Wait()
	timer := time.NewTimer(releaseTime)
	defer timer.Stop()
	select {
	case <-g.empty:
	case <-timer.C:
	}
	_ = g.mux.Close()
	g.tasks.Wait()
}
