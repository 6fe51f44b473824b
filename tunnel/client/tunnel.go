package client

import (
	"context"
	"net"
	"net/http"
	"net/http/httptrace"
	"sync"
	"sync/atomic"
	"time"

	"github.com/culvertgate/culvert/framecodec"
	"github.com/culvertgate/culvert/internal/faultpoint"
	"github.com/culvertgate/culvert/tunnel"
	"github.com/culvertgate/culvert/tunnel/rtc"
	"github.com/culvertgate/culvert/tunnel/signal"
)

// Tunnel is one connection to a gateway. It ends by Close, by the gateway, or
// when it is lost; it does not come back (Remote does that). All methods are
// safe for concurrent use.
type Tunnel struct {
	cfg    Config
	url    string // without query
	client *signal.Client
	since  time.Time

	peer     *rtc.Peer
	remote   *signal.ClientSession
	session  *tunnel.Session // set when connect has returned
	sessions chan *tunnel.Session
	channels atomic.Int32 // for streams, that were opened
	asked    atomic.Bool  // a channel for datagrams, which is not open yet
	pathUp   atomic.Bool
	services publication

	stop      context.CancelFunc // of the signalling goroutine
	wg        sync.WaitGroup     // signal, and the peer's end where it need not be waited for
	disturbed chan struct{}      // one token: the path fell silent
	found     chan struct{}      // one token: there are candidates to send
	closing   chan struct{}      // closed by shut
	done      chan struct{}      // the end has begun: Err is set
	told      chan struct{}      // Config.Ended was told; soon after done
	gone      chan struct{}      // nothing is held any more

	mu         sync.Mutex
	candidates []string // to be sent; guarded by mu
	shutErr    *tunnel.Error
	err        error

	released bool // guarded by the Remote's lock
}

// signalClient talks to a gateway.
func (c Config) signalClient(url string) (*signal.Client, error) {
	return signal.NewClient(signal.ClientConfig{URL: url, Header: c.Header, HTTP: &http.Client{Transport: c.Transport}})
}

// newTunnel prepares a tunnel; it does no I/O.
func (c Config) newTunnel(a *attempt, url string) (*Tunnel, error) {
	client, err := c.signalClient(url)
	if err != nil {
		return nil, err
	}
	return &Tunnel{
		cfg: c, url: a.url, client: client,
		sessions:  make(chan *tunnel.Session, 1),
		disturbed: make(chan struct{}, 1), found: make(chan struct{}, 1),
		closing: make(chan struct{}),
		done:    make(chan struct{}), told: make(chan struct{}), gone: make(chan struct{}),
		services: publication{withdraw: make(chan struct{})},
	}, nil
}

// connect goes through the steps. On error nothing is left; else it is for the
// caller to start end.
func (t *Tunnel) connect(ctx context.Context, a *attempt) error {
	servers, err := t.client.ICEServers(httptrace.WithClientTrace(ctx, a.trace(StepSignal)))
	if err != nil {
		return err
	}
	a.enter(StepSignal, "")
	faultpoint.Here(faultpoint.ClientKeep)
	specs := []rtc.ChannelSpec{{Label: "culvert", Protocol: t.protocol()}}
	var offer string
	t.peer, offer, err = t.cfg.dialer.Offer(ctx, specs, append(servers, t.cfg.ICEServers...), t.handler(a))
	if err != nil {
		return err
	}
	if err := t.exchange(ctx, a, offer); err != nil {
		a.stop()
		if t.session != nil {
			t.endSession(asError(err))
		}
		t.release(asError(err)) //nolint:contextcheck // what is released must be, whether ctx is over or not
		return err
	}
	t.since = time.Now()
	return nil
}

// protocol names the dialect in the channel's DCEP protocol field.
func (t *Tunnel) protocol() string {
	if t.cfg.Dialect == tunnel.Dialect1 {
		return ""
	}
	return "culvert.2"
}

// exchange sends the offer and waits for the session to be usable.
func (t *Tunnel) exchange(ctx context.Context, a *attempt, offer string) error {
	var err error
	if t.remote, err = t.client.Offer(ctx, offer, t.cfg.Target); err != nil {
		return err
	}
	a.enter(StepICE, "")
	signalling, stop := context.WithCancel(context.WithoutCancel(ctx)) // as long as the tunnel, not as the attempt
	t.stop = stop
	t.wg.Go(func() { t.guard(func() { t.signal(signalling) }) })
	if err := t.peer.Accept(t.remote.Answer); err != nil {
		return err
	}
	select {
	case t.session = <-t.sessions:
	case <-t.peer.Done():
		return t.peer.Err()
	case <-ctx.Done():
		return gaveUp(ctx)
	}
	select {
	case <-t.session.Ready():
		return nil
	case <-t.session.Done():
		return t.lossError()
	case <-ctx.Done():
		return gaveUp(ctx)
	}
}

// gaveUp is the error of a wait that its context ended.
func gaveUp(ctx context.Context) error {
	return &tunnel.Error{Code: tunnel.CodeOf(ctx.Err()), Text: "not done in time", Err: ctx.Err()}
}

// handler is told by the peer connection. It must return at once.
func (t *Tunnel) handler(a *attempt) rtc.Handler {
	return rtc.Handler{
		OnPath: func(p *rtc.Peer, up bool) {
			t.pathUp.Store(up)
			if up {
				a.enter(StepDTLS, p.Stats().CandidatePair)
			} else {
				token(t.disturbed)
			}
		},
		OnConnected: func(p *rtc.Peer) { a.reach(p, StepChannel) },
		OnChannel:   func(_ *rtc.Peer, c *rtc.Channel) { t.adopt(a, c) },
		OnCandidate: func(_ *rtc.Peer, line string) {
			t.mu.Lock()
			t.candidates = append(t.candidates, line)
			t.mu.Unlock()
			token(t.found)
		},
	}
}

// adopt makes the session of the channel that the offer asked for, and gives it
// the one for datagrams. The gateway opens none.
func (t *Tunnel) adopt(a *attempt, c *rtc.Channel) {
	if c.Protocol() == protocolDatagrams && t.asked.Load() {
		t.session.AttachDatagrams(c)
		t.asked.Store(false) // behind it: who asks again finds one of both
		return
	}
	if t.channels.Add(1) > 1 {
		_ = c.Close(framecodec.CodeProtocolError)
		return
	}
	a.reach(c.Peer(), StepHello)
	cfg := tunnel.Config{
		Dialect: t.cfg.Dialect, Role: tunnel.RoleClient, Observer: t.cfg.Observer,
		Budget:       tunnel.NewBudget(t.cfg.Budget, t.cfg.TunnelMemory),
		WriteTimeout: t.cfg.WriteTimeout, IdleTimeout: t.cfg.IdleTimeout, FlowIdleTimeout: t.cfg.UDPIdleTimeout,
	}
	if len(t.cfg.Services) > 0 {
		t.services.server = t.cfg.Serve()
		cfg.Accept = t.services.server.Accept
	}
	t.sessions <- tunnel.NewSession(c, cfg)
}

// token puts a token into a channel that has room for one.
func token(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Open opens a stream to what users call a target: a name of the gateway's, or
// an address such as tcp/10.0.0.5:22. The error is a *tunnel.Error.
func (t *Tunnel) Open(ctx context.Context, target string) (net.Conn, error) {
	parsed, err := tunnel.ParseTarget(target)
	if err != nil {
		return nil, err
	}
	return t.open(ctx, parsed)
}

// OpenDatagrams opens a flow to a datagram target: a name of the gateway's, or an
// address such as udp/10.0.0.53:53. The connection is a *tunnel.DatagramConn; the
// error is a *tunnel.Error.
func (t *Tunnel) OpenDatagrams(ctx context.Context, target string) (net.Conn, error) {
	parsed, err := parseDatagrams(target)
	if err != nil {
		return nil, err
	}
	return t.open(ctx, parsed)
}

// parseDatagrams reads what users call a datagram target.
func parseDatagrams(s string) (tunnel.Target, error) {
	target, err := tunnel.ParseTarget(s)
	switch {
	case err != nil:
		return target, err
	case target.Kind == tunnel.KindNamed:
		target.Kind = tunnel.KindNamedDatagram
	case target.Kind == tunnel.KindTCP:
		return target, tunnel.Errorf(framecodec.CodeUnknownTarget, "%q takes no datagrams: use udp/host:port or a target's name", s)
	}
	return target, nil
}

// DialContext opens a stream to a TCP address that the gateway dials, or a flow to
// a UDP address, where its policy allows that. Host names are resolved there.
func (t *Tunnel) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	target, err := parseDial(ctx, network, address)
	if err != nil {
		return nil, err
	}
	return t.open(ctx, target)
}

func (t *Tunnel) open(ctx context.Context, target tunnel.Target) (net.Conn, error) {
	local, remote := tunnel.Addr{Net: "webrtc", Text: "local"}, tunnel.Addr{Net: "webrtc", Text: target.String()}
	var conn net.Conn
	var ep tunnel.Endpoint
	if target.Datagrams() {
		conn, ep = tunnel.NewDatagramConn(local, remote)
	} else {
		conn, ep = tunnel.NewConn(local, remote)
	}
	if _, err := t.OpenEndpoint(ctx, target, ep); err != nil {
		return nil, err
	}
	return conn, nil
}

// protocolDatagrams is that of the channel for datagrams; SPEC.md, first table.
const protocolDatagrams = "culvert.2.datagrams"

// wantDatagrams has the channel for datagrams opened, which most tunnels never
// need. It does not wait: what flows have to say until it is open waits in them.
func (t *Tunnel) wantDatagrams() error {
	if t.cfg.Dialect == tunnel.Dialect1 || t.asked.Load() || t.session.HasDatagrams() || !t.asked.CompareAndSwap(false, true) {
		return nil // the session says what dialect 1 lacks
	}
	if t.session.HasDatagrams() { // it came between the two looks
		t.asked.Store(false)
		return nil
	}
	err := t.peer.OpenChannel(rtc.ChannelSpec{Label: "culvert datagrams", Protocol: protocolDatagrams, Unordered: true})
	if err != nil {
		t.asked.Store(false)
	}
	return err
}

// OpenEndpoint opens a stream and joins ep to it: what ep has to say follows the
// request at once. On error ep has been closed. With a nil ep the caller joins
// one later by Stream.Attach; what arrives meanwhile waits within the window.
// Config.DialTimeout bounds it besides ctx.
func (t *Tunnel) OpenEndpoint(ctx context.Context, target tunnel.Target, ep tunnel.Endpoint) (*tunnel.Stream, error) {
	if err := t.check(target); err != nil {
		if ep != nil {
			ep.Close(err.Code)
		}
		return nil, err
	}
	if target.Datagrams() {
		if err := t.wantDatagrams(); err != nil {
			if ep != nil {
				ep.Close(tunnel.CodeOf(err))
			}
			return nil, err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, t.cfg.DialTimeout)
	defer cancel()
	return t.session.OpenWith(ctx, target, ep, tunnel.OpenOptions{Trace: traceOf(ctx)})
}

// check refuses what cannot be asked for in this dialect, before something else
// is reached instead: dialect 1 has no names on the wire.
func (t *Tunnel) check(target tunnel.Target) *tunnel.Error {
	if t.cfg.Dialect == tunnel.Dialect1 && target.Named() && target.Host != t.cfg.Target && t.cfg.Target != "" {
		return tunnel.Errorf(framecodec.CodeUnknownTarget, "this tunnel leads to %s only: dialect 1 can name no other target", t.cfg.Target)
	}
	return nil
}

// parseDial reads the arguments of DialContext.
func parseDial(ctx context.Context, network, address string) (tunnel.Target, error) {
	kind := tunnel.KindTCP
	switch network {
	case "tcp", "tcp4", "tcp6":
	case "udp", "udp4", "udp6":
		kind = tunnel.KindUDP
	default:
		return tunnel.Target{}, &net.OpError{Op: "dial", Net: network, Err: tunnel.Errorf(framecodec.CodeNotAllowed, "a tunnel carries tcp and udp, not %q", network)}
	}
	host, service, err := net.SplitHostPort(address)
	if err != nil || host == "" {
		return tunnel.Target{}, &net.OpError{Op: "dial", Net: network, Err: tunnel.Errorf(framecodec.CodeUnknownTarget, "address %q: want host:port", address)}
	}
	port, err := net.DefaultResolver.LookupPort(ctx, network, service)
	if err != nil || port == 0 {
		return tunnel.Target{}, &net.OpError{Op: "dial", Net: network, Err: tunnel.Errorf(framecodec.CodeUnknownTarget, "address %q: unknown port", address)}
	}
	return tunnel.Target{Kind: kind, Host: host, Port: uint16(port)}, nil
}

// Targets returns what the gateway's target list says, JSON as sent.
func (t *Tunnel) Targets(ctx context.Context) ([]byte, error) { return t.client.Targets(ctx) }

// URL returns the gateway's URL, without query.
func (t *Tunnel) URL() string { return t.url }

// Since returns when the tunnel was up.
func (t *Tunnel) Since() time.Time { return t.since }

// Session returns the engine's session: streams and counters.
func (t *Tunnel) Session() *tunnel.Session { return t.session }

// Peer returns the peer connection: path and counters.
func (t *Tunnel) Peer() *rtc.Peer { return t.peer }

// Stats are the counters of a tunnel.
type Stats struct {
	Peer    rtc.PeerStats
	Session tunnel.SessionStats
}

// Stats returns the counters.
func (t *Tunnel) Stats() Stats {
	return Stats{Peer: t.peer.Stats(), Session: t.session.Stats()}
}

// usable reports whether new streams can be had.
func (t *Tunnel) usable() bool {
	select {
	case <-t.done:
	case <-t.session.Done():
	case <-t.session.Away():
	default:
		return true
	}
	return false
}

// Done is closed when the tunnel has ended.
func (t *Tunnel) Done() <-chan struct{} { return t.done }

// Err returns why the tunnel has ended, a *tunnel.Error, or nil while it is up.
func (t *Tunnel) Err() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.err
}

// Close ends the tunnel and its streams and returns when nothing of it is left,
// within about ten seconds. It returns nil; a second call waits as well.
func (t *Tunnel) Close() error {
	t.shut(framecodec.CodeTunnelClosed, "closed by the client")
	<-t.gone
	return nil
}

// shut begins the end and does not wait.
func (t *Tunnel) shut(code tunnel.Code, text string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.shutErr == nil {
		t.shutErr = &tunnel.Error{Code: code, Text: text}
		close(t.closing)
	}
}
