package culvert

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/mholt/caddy-l4/layer4"
	"go.uber.org/zap"
	"golang.org/x/time/rate"

	"github.com/culvertgate/culvert/framecodec"
	"github.com/culvertgate/culvert/internal/faultpoint"
	"github.com/culvertgate/culvert/socks5"
	"github.com/culvertgate/culvert/tunnel"
)

// socks5Word is what stands in place of a target.
const socks5Word = "socks5"

// Entry is the way into a tunnel: it hands each TCP connection to a stream of a
// remote, to a fixed target or to what the client asks for by SOCKS5 (RFC 1928),
// and on a UDP listener the datagrams of each client address to a flow.
//
//	webrtc_tunnel office ssh
//	webrtc_tunnel office tcp/10.0.0.7:5432
//	webrtc_tunnel office socks5
//	webrtc_tunnel office dns
//	webrtc_tunnel local client:bob/sshd
//
// The remote local is this gateway itself: the target is a service that one of its
// clients exposes.
//
// Host names are sent to the gateway as names. If the remote can't be reached,
// a SOCKS5 client is told why, any other connection is reset.
type Entry struct {
	// Remote is the name of a remote of the app webrtc_tunnel, or local for a service that a client of this gateway
	// exposes. Required.
	Remote string `json:"remote,omitempty"`
	// Target is the name of one of the gateway's targets, tcp/host:port or, for UDP listeners, udp/host:port. Either
	// this or socks5 is required.
	Target string `json:"target,omitempty"`
	// Endpoint, with the remote local, is the endpoint whose clients are meant. Default: the only one with expose.
	Endpoint string `json:"endpoint,omitempty"`
	// SOCKS5 lets the client name the target.
	SOCKS5 *SOCKS5 `json:"socks5,omitempty"`

	hub    *hub
	env    *environment // of its own configuration: only to wait for its Start
	target tunnel.Target
}

// SOCKS5 is a SOCKS server (RFC 1928): CONNECT and UDP ASSOCIATE. Without users it
// serves peers on this machine only.
type SOCKS5 struct {
	// Users are passwords (RFC 1929) by user name. Placeholders are read once, as the configuration is loaded.
	Users map[string]string `json:"users,omitempty"`
	// UDP is the address that the sockets of UDP ASSOCIATE are bound to, with port 0. Default: the one that the client has
	// connected to.
	UDP string `json:"udp,omitempty"`

	options  socks5.Options
	hashes   map[string][sha256.Size]byte // of the users' passwords
	bind     netip.AddrPort               // not valid: the default
	failures *rate.Limiter                // of passwords
}

// CaddyModule returns the Caddy module information.
func (*Entry) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "layer4.handlers.webrtc_tunnel", New: func() caddy.Module { return new(Entry) }}
}

// Provision checks the handler and finds its remote.
func (e *Entry) Provision(ctx caddy.Context) error {
	app, err := loadApp(ctx)
	if err != nil {
		return err
	}
	switch {
	case e.Remote == "":
		return errors.New("remote is missing: name one of the app webrtc_tunnel")
	case e.Remote != localRemote && app.Remote[e.Remote] == nil:
		return fmt.Errorf("there is no remote %q: add `remote %s https://...` to the global option webrtc_tunnel", e.Remote, e.Remote)
	case (e.Target == "") == (e.SOCKS5 == nil):
		return errors.New("give either a target or socks5")
	case e.Endpoint != "" && e.Remote != localRemote:
		return errors.New("endpoint belongs to the remote local: which of this gateway's endpoints")
	}
	if e.Target != "" {
		if e.target, err = tunnel.ParseTarget(e.Target); err != nil {
			return err
		}
	}
	if e.Remote == localRemote {
		if _, _, ok := e.target.Service(); !ok {
			return errors.New("the remote local leads to services that clients expose: give client:IDENTITY/NAME")
		}
		app.addLocal(e.Endpoint)
	}
	if e.SOCKS5 != nil {
		if err := e.SOCKS5.provision(ctx); err != nil {
			return err
		}
		app.addGrants(e.grants())
	}
	listen := entryListeners(ctx)
	app.addListeners(listen)
	if server, ok := ctx.Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server); ok { // inside of HTTP's listener_wrappers
		app.addServer(server)
		listen = append(listen, server.Listen...)
	}
	e.hub, e.env = app.hub, app.env
	return e.checkNetworks(networksOf(listen))
}

// Handle takes a connection over. A plain TCP connection belongs to the reactor
// when it returns; for any other, and for the datagrams of a client address, it
// returns at the stream's end.
func (e *Entry) Handle(cx *layer4.Connection, _ layer4.Handler) error {
	defer e.hub.recoverEntry() // layer4 recovers nothing, and closes the connection when this returns
	udp := isUDP(cx.LocalAddr().Network())
	if err := e.checkNetworks(networks{tcp: !udp, udp: udp}); err != nil {
		return err
	}
	if udp {
		return e.serveDatagrams(cx)
	}
	if descriptorsShort(cx) {
		e.refuseShort(cx)
		return nil
	}
	if e.SOCKS5 != nil {
		return e.serveSOCKS(cx)
	}
	faultpoint.Here(faultpoint.EntryStream)
	ctx, cancel := e.hub.openContext()
	defer cancel()
	if err := e.env.wait(ctx); err != nil {
		e.logFailure(cx, e.target, err)
		resetOnClose(cx)
		return nil
	}
	local, err := e.adopt(cx, cx)
	if err != nil {
		return err
	}
	if _, err := e.open(ctx, e.target, local.endpoint); err != nil {
		e.logFailure(cx, e.target, err) // the endpoint has been closed: the connection was reset
		return nil
	}
	local.wait()
	return nil
}

// open opens a stream of the remote and joins ep to it; with an error ep has been
// closed.
func (e *Entry) open(ctx context.Context, target tunnel.Target, ep tunnel.Endpoint) (*tunnel.Stream, error) {
	if e.Remote == localRemote {
		return e.hub.openLocal(ctx, e.Endpoint, target, ep)
	}
	return e.hub.openStream(ctx, e.Remote, target, ep)
}

// localEnd is a connection that the reactor has.
type localEnd struct {
	endpoint tunnel.Endpoint
	released <-chan struct{} // nil: Handle need not wait
}

// wait returns when the connection is no longer used.
func (l localEnd) wait() {
	if l.released != nil {
		<-l.released
	}
}

// adopt gives a connection to the reactor: the descriptor itself where it is a
// plain TCP connection of which nothing has been read, else conn, which has to
// stay with the caller until it is released.
func (e *Entry) adopt(cx *layer4.Connection, conn net.Conn) (localEnd, error) {
	if tcp, ok := cx.Conn.(*net.TCPConn); ok && conn == net.Conn(cx) && len(cx.MatchingBytes()) == 0 {
		ep, err := e.hub.reactor.Adopt(tcp, nil)
		return localEnd{endpoint: ep}, err
	}
	if conn == net.Conn(cx) {
		conn = &wrapped{cx}
	}
	ep, released, err := e.hub.reactor.AdoptWatch(conn, nil)
	return localEnd{ep, released}, err
}

// wrapped shows the reactor what a layer4 connection wraps, so that it can end
// one direction.
type wrapped struct{ *layer4.Connection }

// NetConn returns the connection inside.
func (w *wrapped) NetConn() net.Conn {
	if inner, ok := w.Connection.Conn.(*layer4.Connection); ok {
		return &wrapped{inner}
	}
	return w.Connection.Conn
}

// refuseShort resets a connection for which there is no room.
func (e *Entry) refuseShort(cx *layer4.Connection) {
	kind := e.target.Kind
	if e.SOCKS5 != nil {
		kind = tunnel.KindTCP // what its client would have asked for
	}
	processMetrics.streamsOpened.WithLabelValues(sideClient, kindLabel(kind), framecodec.CodeOverloaded.String()).Inc()
	e.logFailure(cx, e.target, tunnel.Errorf(framecodec.CodeOverloaded, "this process is short of descriptors: raise its limit (ulimit -n, LimitNOFILE=)"))
	resetOnClose(cx)
}

// resetOnClose makes a reset of layer4's close: an end in order would look like an
// answer.
func resetOnClose(conn net.Conn) {
	for ; conn != nil; conn = insideOf(conn) {
		if tcp, ok := conn.(*net.TCPConn); ok {
			_ = tcp.SetLinger(0)
		}
	}
}

// insideOf returns the connection that another one is made of; nil: none that can be
// seen.
func insideOf(conn net.Conn) net.Conn {
	switch conn := conn.(type) {
	case *layer4.Connection:
		return conn.Conn
	case interface{ NetConn() net.Conn }: // TLS, for one
		return conn.NetConn()
	case interface{ Raw() net.Conn }: // PROXY protocol
		return conn.Raw()
	default:
		return nil
	}
}

// logFailure says why a connection got no stream. Refusals by the gateway are
// the client's affair; that it can't be reached is the operator's.
func (e *Entry) logFailure(cx *layer4.Connection, target tunnel.Target, err error) {
	logger, code := e.hub.logger(), tunnel.CodeOf(err)
	fields := []zap.Field{
		zap.String("remote", e.Remote), zap.String("target", safeTarget(target)), zap.Stringer("client", cx.RemoteAddr()),
		zap.Stringer("code", code), zap.Error(err),
	}
	if code == framecodec.CodeCancelled || errors.Is(err, context.Canceled) {
		logger.Debug("stream not opened", fields...)
		return
	}
	if suppressed, ok := e.hub.warnings.allow("remote " + e.Remote); ok {
		logger.Warn("stream not opened", append(fields, zap.Int("suppressed_before", suppressed))...)
	}
}

var (
	_ caddy.Provisioner  = (*Entry)(nil)
	_ layer4.NextHandler = (*Entry)(nil)
)
