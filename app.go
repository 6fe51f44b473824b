package culvert

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyevents"

	"github.com/culvertgate/culvert/tunnel/policy"
	"github.com/culvertgate/culvert/tunnel/rtc"
)

const appName = "webrtc_tunnel"

// App is the shared part of Culvert: the UDP socket that WebRTC peers of this
// gateway meet, the tunnels, the remotes that entries of this Caddy use, and the
// limits of them all. It needs no configuration: it starts when a handler needs
// it. Tunnels survive a configuration reload; changing `listen` ends them,
// nothing else does.
//
// Events: `tunnel_opened`, `tunnel_closed`, `tunnel_rejected`, `stream_denied`, `breaker_opened`, `breaker_closed`.
type App struct {
	// Listen is the UDP address for all peer connections. Default: udp/:3478.
	Listen string `json:"listen,omitempty"`
	// ExternalAddress is how clients reach us from outside: addresses, addr:port, or DNS names that are looked up
	// again. They replace private host addresses in answers.
	ExternalAddress []string `json:"external_address,omitempty"`
	// Candidates says which of our addresses answers show: all, public, or a list of CIDRs. Default: all; with
	// external_address, that.
	Candidates []string `json:"candidates,omitempty"`
	// KeepPrivate shows private host addresses besides external_address.
	KeepPrivate bool `json:"keep_private,omitempty"`
	// Loopback offers loopback candidates. It is on when listen is a loopback address, and an error when it is not.
	Loopback bool `json:"loopback,omitempty"`
	// RemoteCandidates uses the clients' public candidates too, for a gateway that must punch holes. Default: off.
	RemoteCandidates bool `json:"remote_candidates,omitempty"`
	// ICEServer lists STUN and TURN servers.
	ICEServer []*ICEServer `json:"ice_server,omitempty"`
	// Limits of all tunnels together.
	Limits *Limits `json:"limits,omitempty"`
	// Timeouts of the phases of tunnels and streams.
	Timeouts *Timeouts `json:"timeouts,omitempty"`
	// Remote has the gateways that entries use, by name.
	Remote map[string]*Remote `json:"remote,omitempty"`

	hub *hub // held from Provision to Cleanup; nil before
	env *environment
}

// CaddyModule returns the Caddy module information.
func (*App) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: appName, New: func() caddy.Module { return new(App) }}
}

// Provision applies defaults, expands placeholders and takes a reference on the
// hub. It does no I/O beyond reading files: `caddy validate` runs it too.
func (a *App) Provision(ctx caddy.Context) error {
	// First, because after a failed load Caddy's admin endpoint shows the failed
	// configuration's metrics.
	if err := processMetrics.register(ctx.GetMetricsRegistry()); err != nil {
		return fmt.Errorf("registering metrics: %w", err)
	}
	a.applyDefaults()
	listen, err := a.listenAddress()
	if err != nil {
		return err
	}
	env := newEnvironment(ctx, a)
	if err := a.provisionICEServers(env); err != nil {
		return err
	}
	if err := a.provisionRemotes(ctx, env); err != nil {
		return err
	}
	if env.gateway, err = a.gatewayOptions(listen); err != nil {
		return err
	}
	events, err := ctx.App("events")
	if err != nil {
		return err
	}
	env.events = events.(*caddyevents.App)
	env.admin = adminListeners(ctx)
	h, err := acquireHub(listen)
	if err != nil {
		return err
	}
	a.hub, a.env = h, env
	return nil
}

func (a *App) applyDefaults() {
	orDefault(&a.Listen, defaultListen)
	if a.Limits == nil {
		a.Limits = new(Limits)
	}
	if a.Timeouts == nil {
		a.Timeouts = new(Timeouts)
	}
	a.Limits.applyDefaults()
	a.Timeouts.applyDefaults()
	for _, r := range a.Remote {
		orDefault(&r.Dialect, 2)
		if len(r.Expose) > 0 {
			orDefault(&r.Connect, connectEager)
		}
		orDefault(&r.Connect, connectLazy)
	}
}

// listenAddress returns the socket's address, which is also the hub's key: what
// survives a reload depends on nothing else.
func (a *App) listenAddress() (listenAddress, error) {
	expanded, err := caddy.NewReplacer().ReplaceOrErr(a.Listen, true, true)
	if err != nil {
		return listenAddress{}, fmt.Errorf("listen: %w", err)
	}
	na, err := caddy.ParseNetworkAddressWithDefaults(expanded, "udp", 3478)
	if err != nil {
		return listenAddress{}, fmt.Errorf("listen: %w", err)
	}
	switch {
	case na.Network != "udp" && na.Network != "udp4" && na.Network != "udp6":
		return listenAddress{}, fmt.Errorf("listen %q: the network must be udp, udp4 or udp6", expanded)
	case na.Host != "" && strings.Trim(na.Host, "0123456789") == "":
		return listenAddress{}, fmt.Errorf("listen %q: %s stands where the address does; for the port write %s/:%s", expanded, na.Host, na.Network, na.Host)
	case na.PortRangeSize() != 1:
		return listenAddress{}, fmt.Errorf("listen %q: one port serves all tunnels, a range is not possible", expanded)
	}
	return listenAddress{network: na.Network, address: na.JoinHostPort(0)}, nil
}

// Validate checks values; nothing is changed.
func (a *App) Validate() error {
	if err := a.Limits.validate(); err != nil {
		return fmt.Errorf("limits: %w", err)
	}
	if err := a.Timeouts.validate(); err != nil {
		return fmt.Errorf("timeouts: %w", err)
	}
	return nil
}

// Start opens the socket, if this configuration has an endpoint, and attaches
// the environment last: what can fail has succeeded by then. It judges no
// running stream, because another app's Start may still fail.
func (a *App) Start() error {
	for _, name := range a.env.local {
		if _, err := a.env.exposingEndpoint(name); err != nil {
			return fmt.Errorf("webrtc_tunnel local: %w", err)
		}
	}
	if len(a.env.endpoints) > 0 {
		if err := a.hub.open(a.env); err != nil {
			return err
		}
	}
	return a.hub.attach(a.env)
}

// Stop detaches the environment. When it is the last one (exit, removal of the
// app, another listen address) the hub's tunnels end here, while there still is
// somebody to tell.
func (a *App) Stop() error {
	if a.hub.last(a.env) {
		a.hub.shutDown(caddy.Exiting())
	}
	a.hub.detach(a.env)
	return nil
}

// Cleanup gives the hub back. Provision may have stopped half-way, and Stop may
// not have been called (a failure after all Starts).
func (a *App) Cleanup() error {
	if a.hub == nil {
		return nil
	}
	a.hub.detach(a.env)
	close(a.env.released)
	_, err := hubPool.Delete(a.hub.listen)
	a.hub = nil
	return err
}

// gatewayOptions reads what answers show of our addresses. The gateway checks
// them again when it starts; validate should tell a mistake, too.
func (a *App) gatewayOptions(listen listenAddress) (rtc.Options, error) {
	o := rtc.Options{
		ConnectTimeout:    time.Duration(a.Timeouts.Connect),
		ExternalAddresses: a.ExternalAddress,
		KeepPrivate:       a.KeepPrivate,
		Candidates:        a.Candidates,
		Loopback:          listen.loopback(),
		RemoteCandidates:  a.RemoteCandidates,
		RemoteAllowed:     remoteAllowed(listen),
	}
	if a.Loopback && !listen.loopback() {
		return o, fmt.Errorf("loopback: listen %s is not a loopback address", listen)
	}
	if a.KeepPrivate && len(a.ExternalAddress) == 0 {
		return o, errors.New("keep_private belongs to external_address")
	}
	for _, c := range a.Candidates {
		switch {
		case (c == "all" || c == "public") && len(a.Candidates) > 1:
			return o, fmt.Errorf("candidates: %s stands alone", c)
		case c == "all" || c == "public":
		default:
			if _, err := netip.ParsePrefix(c); err != nil {
				return o, fmt.Errorf("candidates: %q is neither all, public nor a CIDR", c)
			}
		}
	}
	for _, x := range a.ExternalAddress {
		if err := rtc.CheckExternalAddress(x); err != nil {
			return o, err
		}
	}
	return o, nil
}

// remoteAllowed says to which addresses that a client names ICE may send its
// checks: public ones, or the gateway could be made to look around in its own
// networks. A gateway for this machine alone finds its clients on loopback.
func remoteAllowed(listen listenAddress) func(netip.Addr) bool {
	if listen.loopback() {
		return netip.Addr.IsLoopback
	}
	return policy.Public
}

// provisionICEServers expands secrets. One that turns out empty is an error: a
// gateway that looks protected and is not would be worse than none.
func (a *App) provisionICEServers(env *environment) error {
	repl := caddy.NewReplacer()
	for i, s := range a.ICEServer {
		if err := s.validate(); err != nil {
			return fmt.Errorf("ice_server %d: %w", i, err)
		}
		expanded := *s
		for _, field := range []*string{&expanded.Secret, &expanded.Username, &expanded.Credential} {
			if *field == "" {
				continue
			}
			v, err := repl.ReplaceOrErr(*field, true, true)
			if err != nil {
				return fmt.Errorf("ice_server %d: %w", i, err)
			}
			*field = v
		}
		env.iceServers = append(env.iceServers, expanded)
	}
	return nil
}

// addEndpoint is called by the endpoints of this configuration while they are
// provisioned. The same endpoint may exist twice (a site served by http and
// https); two different ones of one name may not.
func (a *App) addEndpoint(s *endpointState) error {
	if old, ok := a.env.endpoints[s.name]; ok && old.fingerprint != s.fingerprint {
		return fmt.Errorf("two different webrtc_tunnel endpoints are called %q: give each a name of its own (option name)", s.name)
	}
	a.env.endpoints[s.name] = s
	return nil
}

// addLocal notes that a handler wants services that clients of an endpoint
// publish; empty: of the only endpoint that has any. Start knows the endpoints.
func (a *App) addLocal(endpoint string) { a.env.local = append(a.env.local, endpoint) }

// addGrants notes who may associate at a SOCKS entry.
func (a *App) addGrants(grants []socksGrant) {
	for _, g := range grants {
		a.env.socks[g] = true
	}
}

// addListeners notes where endpoints and entries listen: no stream may go there.
func (a *App) addListeners(addresses []string) {
	for _, addr := range addresses {
		if !slices.Contains(a.env.listeners, addr) {
			a.env.listeners = append(a.env.listeners, addr)
		}
	}
}

// loadApp returns the configuration's App, starting it when nothing configured it.
func loadApp(ctx caddy.Context) (*App, error) {
	module, err := ctx.App(appName)
	if err != nil {
		return nil, err
	}
	app, ok := module.(*App)
	if !ok {
		return nil, errors.New("app webrtc_tunnel is of another kind")
	}
	return app, nil
}

func newEnvironment(ctx caddy.Context, a *App) *environment {
	return &environment{
		ctx:       ctx,
		logger:    ctx.Logger(),
		storage:   ctx.Storage(),
		limits:    *a.Limits,
		timeouts:  *a.Timeouts,
		endpoints: map[string]*endpointState{},
		remotes:   map[string]*remoteSpec{},
		socks:     map[socksGrant]bool{},
		attached:  make(chan struct{}),
		released:  make(chan struct{}),
	}
}

var (
	_ caddy.App          = (*App)(nil)
	_ caddy.Provisioner  = (*App)(nil)
	_ caddy.Validator    = (*App)(nil)
	_ caddy.CleanerUpper = (*App)(nil)
)
