package culvert

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"

	"github.com/culvertgate/culvert/framecodec"
	"github.com/culvertgate/culvert/tunnel/policy"
	"github.com/culvertgate/culvert/tunnel/signal"
)

// Endpoint is the gateway's place in a site: clients make tunnels with an offer
// and answer over HTTP below its base path (in the manner of RFC 9725), and open
// streams to what it allows. Put it behind any of Caddy's authentication; its
// user is the identity that targets and limits are for.
//
//	webrtc_tunnel /tunnel* {
//		target ssh tcp/10.0.0.5:22
//	}
//
// Errors are answered here as application/problem+json, so handle_errors does
// not see them, and requests are left out of the site's access log, because it
// would write the sessions' secret URLs; they are logged by this handler with
// the tunnel's public id.
type Endpoint struct {
	// Name in the admin API, metrics and explain. Tunnels stay with their name over a reload. Default: host and
	// base path.
	Name string `json:"name,omitempty"`
	// BasePath is where the endpoint is: it answers this path and everything below. It is the path as clients write
	// it: below handle_path or a rewrite, the one before that. Default: /.
	BasePath string `json:"base_path,omitempty"`
	// Identity says who a request is from. Placeholders work; empty means nobody. Default: {http.auth.user.id}.
	Identity string `json:"identity,omitempty"`
	// AllowAnonymous admits requests without identity.
	AllowAnonymous bool `json:"allow_anonymous,omitempty"`
	// Groups of the identity, separated by commas or spaces. Placeholders work. Default: none.
	Groups string `json:"groups,omitempty"`
	// MaxAge is how long an identity holds without a renewal. Default: 0, as long as the tunnel.
	MaxAge caddy.Duration `json:"max_age,omitempty"`
	// Expires is when the identity's credential ends: seconds since 1970 or RFC 3339. Placeholders work. Default: never.
	Expires string `json:"expires,omitempty"`
	// Origin lists browser origins admitted besides the request's own.
	Origin []string `json:"origin,omitempty"`
	// AllowHTTP admits plain HTTP from other machines, which anybody on the way can read and change.
	AllowHTTP bool `json:"allow_http,omitempty"`
	// Dialects of peers: 2, and 1 for peers of the reference system. Default: 2.
	Dialects []int `json:"dialects,omitempty"`
	// Target has the named targets.
	Target map[string]*Target `json:"target,omitempty"`
	// Dynamic lets clients name addresses. Default: they may not.
	Dynamic *Dynamic `json:"dynamic,omitempty"`
	// Expose lets clients publish services of their own. Default: they may not.
	Expose *Expose `json:"expose,omitempty"`
	// DefaultTarget is the stream target of peers that cannot name one (dialect 1).
	DefaultTarget string `json:"default_target,omitempty"`
	// Tickets admits links to one target. Default: none are taken.
	Tickets *Tickets `json:"tickets,omitempty"`
	// OnReload is what becomes of running streams that the policy of a new configuration refuses: keep (they go on),
	// drain (they have timeouts drain to finish) or cut. Default: cut.
	OnReload string `json:"on_reload,omitempty"`
	// Health is a path below the base path, such as /health, that says whether new tunnels can be had: 200 or 503,
	// without reasons. Default: none.
	Health string `json:"health,omitempty"`
	// Limits of one client.
	Limits *EndpointLimits `json:"limits,omitempty"`

	hub    *hub
	signal *signal.Endpoint
}

// CaddyModule returns the Caddy module information.
func (*Endpoint) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.webrtc_tunnel", New: func() caddy.Module { return new(Endpoint) }}
}

// Provision applies defaults, compiles the policy and tells the app of the
// endpoint.
func (e *Endpoint) Provision(ctx caddy.Context) error {
	app, err := loadApp(ctx)
	if err != nil {
		return err
	}
	e.applyDefaults(ctx)
	if err := e.validate(); err != nil {
		return err
	}
	if e.Tickets != nil {
		if err := e.Tickets.provision(); err != nil {
			return err
		}
	}
	compiled, err := policy.New(e.policyConfig(app.env))
	if err != nil {
		return err
	}
	fingerprint, err := json.Marshal(e)
	if err != nil {
		return fmt.Errorf("encoding configuration: %w", err)
	}
	e.warnOfCuts(ctx)
	if constant(e.Identity) {
		ctx.Logger().Warn("identity has no placeholder: every client is the same identity, whoever it is",
			zap.String("endpoint", e.Name), zap.String("identity", e.Identity), zap.String("write", "identity "+defaultIdentity))
	}
	for _, w := range compiled.Warnings() {
		ctx.Logger().Warn("the policy allows more than its author may have meant", zap.String("endpoint", e.Name), zap.String("warning", w))
	}
	if err := app.addEndpoint(&endpointState{
		name: e.Name, fingerprint: string(fingerprint), policy: compiled, limits: *e.Limits, maxAge: e.MaxAge,
		dialects: e.Dialects, allowAnonymous: e.AllowAnonymous, dynamic: e.Dynamic != nil, exposes: e.Expose != nil, tickets: e.Tickets, onReload: e.OnReload,
	}); err != nil {
		return err
	}
	if server, ok := ctx.Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server); ok {
		app.addServer(server)
	}
	e.hub = app.hub
	e.signal, err = signal.NewEndpoint(signal.EndpointConfig{
		BasePath: e.BasePath, Origins: e.Origin, AllowHTTP: e.AllowHTTP,
		Backend: &backend{hub: app.hub, name: e.Name, env: app.env},
	})
	return err
}

func (e *Endpoint) applyDefaults(ctx caddy.Context) {
	orDefault(&e.BasePath, "/")
	orDefault(&e.Identity, defaultIdentity)
	orDefault(&e.OnReload, reloadCut)
	if e.Name == "" {
		e.Name = hostOf(ctx) + e.BasePath
	}
	if len(e.Dialects) == 0 {
		e.Dialects = []int{2}
	}
	if e.Limits == nil {
		e.Limits = new(EndpointLimits)
	}
	e.Limits.applyDefaults()
}

// policyConfig translates the configuration. Targets come in the order of their
// names, since JSON objects have none.
func (e *Endpoint) policyConfig(env *environment) policy.Config {
	cfg := policy.Config{Endpoint: e.Name, DefaultTarget: e.DefaultTarget, Forbidden: env.forbidden}
	for _, name := range slices.Sorted(maps.Keys(e.Target)) {
		t := e.Target[name]
		cfg.Targets = append(cfg.Targets, policy.NamedTarget{
			Name: name, Addresses: t.Addresses, Users: t.Users, Groups: t.Groups, Title: t.Title, App: t.App,
			ProxyProtocol: t.ProxyProtocol, Breaker: t.Breaker, Position: t.Position,
		})
	}
	if e.Expose != nil {
		for _, r := range e.Expose.Rules {
			cfg.Expose = append(cfg.Expose, policy.ExposeRule{
				Names: r.Allow, Users: r.Users, Groups: r.Groups,
				ReachableBy: r.ReachableBy, ReachableByGroups: r.ReachableByGroups, Position: r.Position,
			})
		}
	}
	if e.Dynamic == nil {
		return cfg
	}
	cfg.Dynamic = &policy.Dynamic{Resolver: e.Dynamic.Resolver}
	for _, r := range e.Dynamic.Rules {
		text := r.Allow
		if r.Deny != "" {
			text = r.Deny
		}
		cfg.Dynamic.Rules = append(cfg.Dynamic.Rules, policy.Rule{
			Text: text, Deny: r.Deny != "", Private: r.Private, Users: r.Users, Groups: r.Groups, Position: r.Position,
		})
	}
	return cfg
}

// ServeHTTP answers what is below the base path; everything else is the next
// handler's.
func (e *Endpoint) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	caller := e.caller(r)
	if e.isHealth(caller.Path) {
		caddyhttp.SetVar(r.Context(), caddyhttp.LogSkipVar, true)
		return e.serveHealth(w, r)
	}
	started := time.Now()
	result := e.signal.ServeHTTP(w, r, caller)
	if !result.Handled || result.Status == http.StatusNotFound && result.Kind == signal.KindUnknown {
		e.warnStripped(caller.Path, r.URL.Path)
	}
	if !result.Handled {
		return next.ServeHTTP(w, r)
	}
	caddyhttp.SetVar(r.Context(), caddyhttp.LogSkipVar, true)
	e.logAccess(r, caller, result, time.Since(started))
	return nil
}

// warnStripped tells the operator when a request missed the endpoint because
// something like handle_path has cut its path: base_path is the path as clients
// write it.
func (e *Endpoint) warnStripped(original, path string) {
	cut := cutPrefix(original, path)
	if cut == "" || strings.HasPrefix(e.BasePath+"/", cut+"/") {
		return
	}
	e.hub.warnClient(e.Name, "a request missed the endpoint: its path was cut before it came here (handle_path, uri strip_prefix), and base_path is the path before that",
		zap.String("endpoint", e.Name), zap.String("base_path", e.BasePath), zap.String("cut", framecodec.SafeText([]byte(cut))),
		zap.String("write", "base_path "+framecodec.SafeText([]byte(strings.TrimSuffix(cut+e.BasePath, "/")))))
}

// cutPrefix returns what was cut off the front of a request's path, "" if that
// is not how it was changed.
func cutPrefix(original, path string) string {
	if path == "/" || path == "" {
		return strings.TrimSuffix(original, "/")
	}
	cut, ok := strings.CutSuffix(original, path)
	if !ok {
		return ""
	}
	return strings.TrimSuffix(cut, "/")
}

// caller collects who asks, from what Caddy established.
func (e *Endpoint) caller(r *http.Request) signal.Caller {
	repl := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	c := signal.Caller{
		Identity:  strings.TrimSpace(repl.ReplaceAll(e.Identity, "")),
		Groups:    splitGroups(repl.ReplaceAll(e.Groups, "")),
		Anonymous: e.AllowAnonymous,
		Path:      r.URL.Path,
	}
	if ip, ok := caddyhttp.GetVar(r.Context(), caddyhttp.ClientIPVarKey).(string); ok {
		c.ClientIP, _ = netip.ParseAddr(ip) // the zero address counts as one client
	}
	if e.Expires != "" {
		c.Expires = parseExpiry(repl.ReplaceAll(e.Expires, ""))
	}
	if original, ok := r.Context().Value(caddyhttp.OriginalRequestCtxKey).(http.Request); ok && original.URL != nil {
		c.Path = original.URL.Path
	}
	e.showTicket(r, &c)
	e.transport(r, &c)
	return c
}

// transport notes how the request came: over TLS, by a proxy that is trusted to
// say so, or from this machine.
func (e *Endpoint) transport(r *http.Request, c *signal.Caller) {
	if r.TLS != nil {
		c.Secure, c.TLSServerName = true, r.TLS.ServerName
		return
	}
	peer, err := netip.ParseAddrPort(r.RemoteAddr)
	trusted, _ := caddyhttp.GetVar(r.Context(), caddyhttp.TrustedProxyVarKey).(bool)
	if trusted {
		// A proxy on this machine speaks for others: loopback says nothing then.
		c.Secure = strings.EqualFold(strings.TrimSpace(strings.Join(r.Header.Values("X-Forwarded-Proto"), ",")), "https")
	}
	forwarded := slices.ContainsFunc(forwardingHeaders, func(name string) bool { return r.Header.Get(name) != "" })
	c.Loopback = err == nil && peer.Addr().Unmap().IsLoopback() && !forwarded
}

// forwardingHeaders tell that a request from this machine is somebody else's.
var forwardingHeaders = []string{"X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host", "X-Real-Ip", "Forwarded", "Via"}

// splitGroups reads a list separated by commas or white space.
func splitGroups(s string) []string {
	return strings.FieldsFunc(strings.Trim(s, "[]"), func(r rune) bool { return r == ',' || unicode.IsSpace(r) })
}

// methodLabel bounds what a client can put into a label.
func methodLabel(method string) string {
	switch method {
	case http.MethodPost, http.MethodGet, http.MethodHead, http.MethodPatch, http.MethodDelete, http.MethodOptions:
		return method
	}
	return "other"
}

// logAccess writes the access line of a signalling request. It has the public id
// and never the URL, which holds the secret.
func (e *Endpoint) logAccess(r *http.Request, c signal.Caller, res signal.Result, took time.Duration) {
	processMetrics.signalling.WithLabelValues(methodLabel(r.Method), strconv.Itoa(res.Status)).Inc()
	fields := []zap.Field{
		zap.String("endpoint", e.Name), zap.String("request", string(res.Kind)), zap.Int("status", res.Status),
		zap.Stringer("code", res.Code), zap.String("identity", c.Identity), zap.Stringer("client_ip", c.ClientIP),
		zap.Int64("duration_ms", took.Milliseconds()),
	}
	t := e.hub.tunnels.withSecret(res.Secret)
	if t != nil {
		fields = append(fields, zap.String("id", t.id))
	}
	if res.Code == framecodec.CodeNormal {
		e.hub.logger().Debug("signalling", fields...)
		return
	}
	fields = append(fields, zap.NamedError("reason", res.Err))
	if t == nil && res.Kind == signal.KindDelete && res.Status == http.StatusNotFound {
		e.hub.logger().Debug("signalling refused", fields...) // the tunnel ended here first, as after a handshake in vain
		return
	}
	e.hub.warnClient(e.Name, "signalling refused", fields...)
	if res.Kind == signal.KindOffer {
		processMetrics.tunnelOpened(sideGateway, codeLabel(res.Code))
		e.hub.emit(eventTunnelRejected, map[string]any{
			"endpoint": e.Name, "identity": c.Identity, "client_ip": c.ClientIP.String(), "code": res.Code.String(),
		})
	}
}

var (
	_ caddy.Provisioner           = (*Endpoint)(nil)
	_ caddyhttp.MiddlewareHandler = (*Endpoint)(nil)
)
