package culvert

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/culvertgate/culvert/framecodec"
	"github.com/culvertgate/culvert/tunnel"
)

// ProxyTransport carries the requests of Caddy's reverse_proxy through tunnels: to
// targets of a remote, or to services that clients of this gateway expose. Each
// connection is a stream, which is kept open and used again as any other
// connection to an upstream; health checks, load balancing and retries are Caddy's.
//
//	reverse_proxy web:80 {
//		transport webrtc_tunnel office web
//	}
//
// An upstream's address is what the Host header and Caddy's bookkeeping need. Where
// it leads: with one target, there, whatever the address; with targets by upstream,
// to that of the address's host; with neither, it is a TCP address that the remote's
// gateway dials.
//
// It takes the options of Caddy's own transport `http` too, but those that choose how
// to connect from here.
type ProxyTransport struct {
	// Remote is the name of a remote of the app webrtc_tunnel, or local for services that clients of this gateway
	// expose. Required.
	Remote string `json:"remote,omitempty"`
	// Target is where all requests go: the name of a target, client:IDENTITY/NAME or tcp/host:port.
	Target string `json:"target,omitempty"`
	// Targets are where requests go by the host of the upstream's address, instead of target.
	Targets map[string]string `json:"targets,omitempty"`
	// Endpoint, with the remote local, is the endpoint whose clients are meant. Default: the only one with expose.
	Endpoint string `json:"endpoint,omitempty"`

	*reverseproxy.HTTPTransport

	hub         *hub
	env         *environment
	fixed       *tunnel.Target
	byHost      map[string]tunnel.Target
	dialTimeout time.Duration // 0: that of streams
}

// CaddyModule returns the Caddy module information.
func (*ProxyTransport) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.reverse_proxy.transport.webrtc_tunnel", New: func() caddy.Module {
		return &ProxyTransport{HTTPTransport: new(reverseproxy.HTTPTransport)}
	}}
}

// Provision checks the options, finds the remote, and makes Caddy's own transport
// with streams for connections.
func (t *ProxyTransport) Provision(ctx caddy.Context) error {
	app, err := loadApp(ctx)
	if err != nil {
		return err
	}
	switch {
	case t.Remote == "":
		return errors.New("remote is missing: name one of the app webrtc_tunnel")
	case t.Remote != localRemote && app.Remote[t.Remote] == nil:
		return fmt.Errorf("there is no remote %q: add `remote %s https://...` to the global option webrtc_tunnel", t.Remote, t.Remote)
	case t.Endpoint != "" && t.Remote != localRemote:
		return errors.New("endpoint belongs to the remote local: which of this gateway's endpoints")
	}
	if err := t.readTargets(); err != nil {
		return err
	}
	if err := t.checkHTTP(); err != nil {
		return err
	}
	if t.Remote == localRemote {
		app.addLocal(t.Endpoint)
	}
	t.hub, t.env, t.dialTimeout = app.hub, app.env, time.Duration(t.DialTimeout)
	if err := t.HTTPTransport.Provision(ctx); err != nil {
		return err
	}
	t.Transport.DialContext = t.dial
	t.Transport.Proxy = nil // that of the environment is for connections from here
	return nil
}

// readTargets parses where requests go.
func (t *ProxyTransport) readTargets() error {
	if t.Target != "" && len(t.Targets) > 0 {
		return errors.New("give one target for all upstreams, or one for each, not both")
	}
	if t.Target != "" {
		target, err := t.parseTarget(t.Target)
		t.fixed = &target
		return err
	}
	t.byHost = make(map[string]tunnel.Target, len(t.Targets))
	for host, text := range t.Targets {
		target, err := t.parseTarget(text)
		if err != nil {
			return fmt.Errorf("upstream %q: %w", host, err)
		}
		t.byHost[strings.ToLower(host)] = target
	}
	if t.Remote == localRemote && len(t.byHost) == 0 {
		return errors.New("the remote local leads to services that clients expose: give client:IDENTITY/NAME")
	}
	return nil
}

func (t *ProxyTransport) parseTarget(text string) (tunnel.Target, error) {
	target, err := tunnel.ParseTarget(text)
	_, _, service := target.Service()
	switch {
	case err != nil:
		return target, err
	case target.Datagrams():
		return target, fmt.Errorf("%s: HTTP goes by streams: use tcp/host:port or the name of a stream target", text)
	case t.Remote == localRemote && !service:
		return target, fmt.Errorf("%s: the remote local leads to services that clients expose: give client:IDENTITY/NAME", text)
	}
	return target, nil
}

// checkHTTP refuses options that say how to connect from here, which nothing does.
func (t *ProxyTransport) checkHTTP() error {
	for option, set := range map[string]bool{
		"resolvers":           t.Resolver != nil,
		"local_address":       t.LocalAddress != "",
		"forward_proxy_url":   t.ForwardProxyURL != "",
		"network_proxy":       len(t.NetworkProxyRaw) > 0,
		"dial_fallback_delay": t.FallbackDelay != 0,
	} {
		if set {
			return fmt.Errorf("%s: the tunnel's other side connects, this option has no meaning here", option)
		}
	}
	switch {
	case t.ProxyProtocol != "":
		return errors.New("proxy_protocol belongs to the target at the gateway, which connects to it")
	case t.TLS != nil && strings.Contains(t.TLS.ServerName, "{"):
		return errors.New("tls_server_name: a placeholder cannot be used here, write the name")
	}
	if slices.Contains(t.Versions, "3") {
		return errors.New("versions 3: HTTP/3 needs UDP; through a tunnel use 1.1, 2 or h2c")
	}
	return nil
}

// dial opens a stream for one connection.
func (t *ProxyTransport) dial(ctx context.Context, _, address string) (net.Conn, error) {
	if info, ok := reverseproxy.GetDialInfo(ctx); ok {
		address = info.Address
	}
	conn, err := t.open(ctx, address)
	if err != nil {
		return nil, reverseproxy.NewDialError(err) // another upstream may be tried
	}
	if t.ReadTimeout > 0 || t.WriteTimeout > 0 {
		return &timedConn{Conn: conn, read: time.Duration(t.ReadTimeout), write: time.Duration(t.WriteTimeout)}, nil
	}
	return conn, nil
}

// timedConn gives each Read and each Write a deadline of its own, as Caddy's transport
// does with the connections that it dials itself.
type timedConn struct {
	*tunnel.Conn
	read, write time.Duration // 0: none
}

func (c *timedConn) Read(p []byte) (int, error) {
	if c.read > 0 {
		if err := c.SetReadDeadline(time.Now().Add(c.read)); err != nil {
			return 0, err
		}
	}
	return c.Conn.Read(p)
}

func (c *timedConn) Write(p []byte) (int, error) {
	if c.write > 0 {
		if err := c.SetWriteDeadline(time.Now().Add(c.write)); err != nil {
			return 0, err
		}
	}
	return c.Conn.Write(p)
}

func (t *ProxyTransport) open(ctx context.Context, address string) (*tunnel.Conn, error) {
	target, err := t.targetOf(address)
	if err != nil {
		return nil, err
	}
	ctx, cancel := t.hub.bounded(ctx)
	defer cancel()
	if t.dialTimeout > 0 {
		ctx, cancel = context.WithTimeout(ctx, t.dialTimeout)
		defer cancel()
	}
	if err := t.env.wait(ctx); err != nil {
		return nil, err
	}
	conn, ep := tunnel.NewConn(tunnel.Addr{Net: "webrtc", Text: "reverse_proxy"}, tunnel.Addr{Net: "webrtc", Text: target.String()})
	if t.Remote == localRemote {
		_, err = t.hub.openLocal(ctx, t.Endpoint, target, ep)
	} else {
		_, err = t.hub.openStream(ctx, t.Remote, target, ep)
	}
	if err != nil {
		return nil, fmt.Errorf("opening a stream to %s of remote %s: %w", target, t.Remote, err)
	}
	return conn, nil
}

// targetOf is where an upstream's address leads.
func (t *ProxyTransport) targetOf(address string) (tunnel.Target, error) {
	if t.fixed != nil {
		return *t.fixed, nil
	}
	if len(t.byHost) == 0 {
		return tunnel.ParseTarget("tcp/" + address)
	}
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		host = address
	}
	target, ok := t.byHost[strings.ToLower(host)]
	if !ok {
		return target, tunnel.Errorf(framecodec.CodeUnknownTarget, "transport webrtc_tunnel has no target for the upstream %s: add `target %s NAME`", address, host)
	}
	return target, nil
}

// UnmarshalCaddyfile reads the transport. Syntax:
//
//	transport webrtc_tunnel <remote>|local [<target>] {
//		target <upstream-host> <target>
//		endpoint <name>
//		<options of transport http>
//	}
func (t *ProxyTransport) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // the transport's name
	name := d.Token()
	args := d.RemainingArgs()
	if len(args) < 1 || len(args) > 2 {
		return d.ArgErr()
	}
	t.Remote = args[0]
	if len(args) == 2 {
		t.Target = args[1]
	}
	name.Text = "http"
	brace := name
	brace.Text = "{"
	rest := []caddyfile.Token{name, brace} // what is Caddy's to read
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		switch d.Val() {
		case "target":
			var host, target string
			if !d.AllArgs(&host, &target) {
				return d.Errf("target needs an upstream's host and where it leads, such as target web1 client:bob/web")
			}
			if _, twice := t.Targets[host]; twice {
				return d.Errf("there is a target for %q already", host)
			}
			if t.Targets == nil {
				t.Targets = map[string]string{}
			}
			t.Targets[host] = target
		case "endpoint":
			if t.Endpoint != "" {
				return d.Errf("duplicate option %q", "endpoint")
			}
			if !d.AllArgs(&t.Endpoint) {
				return d.ArgErr()
			}
		default:
			rest = append(rest, d.NextSegment()...)
		}
	}
	if len(rest) == 2 {
		return nil
	}
	last := rest[len(rest)-1]
	last.Line++
	last.Text = "}"
	return t.HTTPTransport.UnmarshalCaddyfile(caddyfile.NewDispenser(append(rest, last)))
}

var (
	_ caddy.Provisioner                                = (*ProxyTransport)(nil)
	_ caddy.CleanerUpper                               = (*ProxyTransport)(nil)
	_ http.RoundTripper                                = (*ProxyTransport)(nil)
	_ caddyfile.Unmarshaler                            = (*ProxyTransport)(nil)
	_ reverseproxy.TLSTransport                        = (*ProxyTransport)(nil)
	_ reverseproxy.H2CTransport                        = (*ProxyTransport)(nil)
	_ reverseproxy.HealthCheckSchemeOverriderTransport = (*ProxyTransport)(nil)
	_ reverseproxy.RequestHeaderOpsTransport           = (*ProxyTransport)(nil)
)
