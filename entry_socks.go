package culvert

import (
	"errors"
	"net"
	"net/netip"
	"time"

	"github.com/mholt/caddy-l4/layer4"
	"go.uber.org/zap"

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
	if !fromLoopback(cx) {
		e.hub.warnClient("remote "+e.Remote, "SOCKS5 client refused", zap.String("remote", e.Remote), zap.Stringer("client", cx.RemoteAddr()), zap.NamedError("reason", errNotLoopback))
		return nil
	}
	if err := cx.SetDeadline(time.Now().Add(socks5.HandshakeTimeout)); err != nil {
		return err
	}
	request, err := socks5.ReadRequest(cx)
	if err != nil {
		e.hub.logger().Debug("SOCKS5 handshake failed", zap.Stringer("client", cx.RemoteAddr()), zap.Error(err))
		return nil // the client has been told
	}
	if err := cx.SetDeadline(time.Time{}); err != nil {
		return err
	}
	return e.serveRequest(cx, tunnel.Target{Kind: tunnel.KindTCP, Host: request.Host, Port: request.Port})
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
		e.reply(cx, socks5.Reply(tunnel.CodeOf(err).SOCKSReply()))
		return nil
	}
	if !e.reply(cx, socks5.Succeeded) {
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

// reply tells the client the outcome. The bound address is left unspecified:
// the gateway's own addresses are nobody's business.
func (e *Entry) reply(cx *layer4.Connection, r socks5.Reply) bool {
	_ = cx.SetWriteDeadline(time.Now().Add(replyTimeout)) // a conn without deadlines blocks no longer than its peer
	_, err := cx.Write(socks5.AppendReply(nil, r, netip.AddrPort{}))
	_ = cx.SetWriteDeadline(time.Time{})
	return err == nil
}

// fromLoopback reports whether a connection comes from this machine, at every
// layer that can be seen: a PROXY header is what its sender says of itself.
func fromLoopback(c net.Conn) bool {
	for c != nil {
		if !isLoopback(c.RemoteAddr()) {
			return false
		}
		switch inner := c.(type) {
		case *layer4.Connection:
			c = inner.Conn
		case interface{ NetConn() net.Conn }: // TLS, for one
			c = inner.NetConn()
		case interface{ Raw() net.Conn }: // PROXY protocol
			c = inner.Raw()
		default:
			return true
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
