package culvert

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/mholt/caddy-l4/layer4"
	"go.uber.org/zap"
	"golang.org/x/time/rate"

	"github.com/culvertgate/culvert/framecodec"
	"github.com/culvertgate/culvert/socks5"
	"github.com/culvertgate/culvert/tunnel"
)

// errNotLoopback refuses SOCKS clients of other machines: a server without users
// would lend our identity to whoever reaches it.
var errNotLoopback = errors.New("SOCKS5 without users serves this machine only")

// serveSOCKS reads a SOCKS5 request, opens the stream, and replies before the
// first byte of data.
func (e *Entry) serveSOCKS(cx *layer4.Connection) error {
	if len(e.SOCKS5.Users) == 0 && !fromLoopback(cx) {
		e.hub.warnClient("remote "+e.Remote, "SOCKS5 client refused", zap.String("remote", e.Remote), zap.Stringer("client", cx.RemoteAddr()), zap.NamedError("reason", errNotLoopback))
		return nil
	}
	if err := cx.SetDeadline(time.Now().Add(socks5.HandshakeTimeout)); err != nil {
		return err
	}
	request, err := e.SOCKS5.options.ReadRequest(cx)
	if err != nil {
		e.handshakeFailed(cx, err)
		return nil // the client has been told
	}
	if err := cx.SetDeadline(time.Time{}); err != nil {
		return err
	}
	if request.Command == socks5.Associate {
		return e.serveAssociate(cx, request)
	}
	return e.serveRequest(cx, tunnel.Target{Kind: tunnel.KindTCP, Host: request.Host, Port: request.Port})
}

// handshakeFailed says why a client did not come to its request: to the operator,
// if it is the wrong client or a wrong password.
func (e *Entry) handshakeFailed(cx *layer4.Connection, err error) {
	fields := []zap.Field{zap.String("remote", e.Remote), zap.Stringer("client", cx.RemoteAddr()), zap.Error(err)}
	if _, ok := errors.AsType[*socks5.AuthError](err); ok {
		processMetrics.socksAuthFailures.Inc()
		e.hub.warnClient("remote "+e.Remote, "SOCKS5 client not authenticated", fields...)
		return
	}
	if _, ok := errors.AsType[*socks5.NotSOCKS5Error](err); ok || errors.Is(err, socks5.ErrNoMethod) {
		e.hub.warnClient("remote "+e.Remote, "SOCKS5 client refused", fields...)
		return
	}
	e.hub.logger().Debug("SOCKS5 handshake failed", fields...)
}

// A wrong password is answered after a second, and more of them than twenty a
// second at this entry wait in line, up to most of the handshake's time.
const (
	failureDelay     = time.Second
	failuresAtOnce   = 20
	longestFailDelay = 8 * time.Second
)

// provision reads the users' passwords. None is shown in an error.
func (s *SOCKS5) provision(ctx context.Context) error {
	var err error
	if s.bind, err = parseAssociate(s.UDP); err != nil {
		return err
	}
	s.options = socks5.Options{AllowAssociate: true}
	if len(s.Users) == 0 {
		return nil
	}
	repl := caddy.NewReplacer()
	passwords := make(map[string]string, len(s.Users))
	s.hashes = make(map[string][sha256.Size]byte, len(s.Users))
	for user, password := range s.Users {
		if passwords[user], err = repl.ReplaceOrErr(password, true, true); err != nil {
			return fmt.Errorf("socks5 user %q: %w", user, err)
		}
		s.hashes[user] = sha256.Sum256([]byte(passwords[user]))
	}
	users, err := socks5.NewUsers(passwords)
	if err != nil {
		return err
	}
	s.failures = rate.NewLimiter(failuresAtOnce, failuresAtOnce)
	s.options.Authenticate = func(user, password string) bool {
		if users.Check(user, password) {
			return true
		}
		pause(ctx, min(failureDelay+s.failures.Reserve().Delay(), longestFailDelay))
		return false
	}
	return nil
}

// grants lists what lets clients of the entry associate.
func (e *Entry) grants() []socksGrant {
	if len(e.SOCKS5.Users) == 0 {
		return []socksGrant{{remote: e.Remote}}
	}
	var list []socksGrant
	for user, password := range e.SOCKS5.hashes {
		list = append(list, socksGrant{e.Remote, user, password})
	}
	return list
}

// serveAssociate gives the client a UDP socket for as long as its TCP connection
// lives, and its entry and user are configured.
func (e *Entry) serveAssociate(cx *layer4.Connection, request socks5.Request) error {
	if err := e.waitForStart(); err != nil {
		e.reply(cx, socks5.Reply(tunnel.CodeOf(err).SOCKSReply()), netip.AddrPort{})
		return nil
	}
	socket, bound, err := bindAssociation(cx, e.SOCKS5.bind)
	if err != nil {
		e.hub.logger().Error("no socket for UDP ASSOCIATE", zap.Error(err))
		e.reply(cx, socks5.GeneralFailure, netip.AddrPort{})
		return nil
	}
	defer socket.Close()
	a := newAssociation(socket,
		func(ctx context.Context, target tunnel.Target, ep tunnel.Endpoint) error {
			ctx, cancel := e.hub.bounded(ctx)
			defer cancel()
			_, err := e.hub.openStream(ctx, e.Remote, target, ep)
			return err
		},
		func(target tunnel.Target, err error) { e.logFailure(cx, target, err) },
		func(f func()) {
			defer e.hub.recoverEntry()
			f()
		})
	defer a.flows.close()
	a.flows.memory = e.hub.memory
	a.end = func() { _ = cx.Close() } // it reads nothing more, and the client is told
	by := socksGrant{e.Remote, request.User, e.SOCKS5.hashes[request.User]}
	if !e.hub.associations.add(a, by) {
		e.reply(cx, socks5.GeneralFailure, netip.AddrPort{})
		return nil
	}
	defer e.hub.associations.remove(a)
	if env := e.hub.current(); env == nil || !env.socks[by] { // a reload in between has not seen it
		e.reply(cx, socks5.NotAllowed, netip.AddrPort{})
		return nil
	}
	if e.reply(cx, socks5.Succeeded, bound) {
		a.serve(cx, request)
	}
	return nil
}

// waitForStart waits for the Start of the entry's configuration, within the time that
// an open has.
func (e *Entry) waitForStart() error {
	ctx, cancel := e.hub.openContext()
	defer cancel()
	return e.env.wait(ctx)
}

// serveRequest opens a stream without an end on this side, replies with the
// outcome, and then joins the connection to it. Data that comes first from the
// target waits in the stream's window.
func (e *Entry) serveRequest(cx *layer4.Connection, target tunnel.Target) error {
	ctx, cancel := e.hub.openContext()
	defer cancel()
	var stream *tunnel.Stream
	err := e.env.wait(ctx)
	if err == nil {
		stream, err = e.hub.openStream(ctx, e.Remote, target, nil)
	}
	if err != nil {
		e.logFailure(cx, target, err)
		e.reply(cx, socks5.Reply(tunnel.CodeOf(err).SOCKSReply()), netip.AddrPort{})
		return nil
	}
	// The bound address is left unspecified: the gateway's own are nobody's business.
	if !e.reply(cx, socks5.Succeeded, netip.AddrPort{}) {
		stream.Reset(framecodec.CodeCancelled, "the client is gone")
		return nil
	}
	local, err := e.adopt(cx, cx)
	if err != nil {
		stream.Reset(framecodec.CodeInternal, "")
		return err
	}
	if err := stream.Attach(local.endpoint); err != nil {
		e.logFailure(cx, target, err)
		return nil
	}
	local.wait()
	return nil
}

// replyTimeout is how long a SOCKS client may take to take ten bytes.
const replyTimeout = 10 * time.Second

// reply tells the client the outcome.
func (e *Entry) reply(cx *layer4.Connection, r socks5.Reply, bound netip.AddrPort) bool {
	_ = cx.SetWriteDeadline(time.Now().Add(replyTimeout)) // a conn without deadlines blocks no longer than its peer
	_, err := cx.Write(socks5.AppendReply(nil, r, bound))
	_ = cx.SetWriteDeadline(time.Time{})
	return err == nil
}

// fromLoopback reports whether a connection comes from this machine, at every
// layer that can be seen: a PROXY header is what its sender says of itself.
func fromLoopback(c net.Conn) bool {
	for ; c != nil; c = insideOf(c) {
		if !isLoopback(c.RemoteAddr()) {
			return false
		}
	}
	return true
}

// isLoopback reports whether a peer is on this machine.
func isLoopback(a net.Addr) bool {
	switch a := a.(type) {
	case *net.TCPAddr:
		return a.IP.IsLoopback()
	case *net.UnixAddr:
		return true
	}
	ap, err := netip.ParseAddrPort(a.String())
	return err == nil && ap.Addr().Unmap().IsLoopback()
}
