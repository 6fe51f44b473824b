package culvert

import (
	"context"
	"errors"
	"fmt"
	"net"
	"runtime/debug"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/mholt/caddy-l4/layer4"

	"github.com/culvertgate/culvert/internal/faultpoint"
	"github.com/culvertgate/culvert/tunnel"
)

// networks are the kinds of listeners that an entry has.
type networks struct{ tcp, udp bool }

// networksOf sorts listeners; unix sockets count as TCP.
func networksOf(listen []string) (n networks) {
	for _, address := range listen {
		if na, err := caddy.ParseNetworkAddress(address); err == nil && isUDP(na.Network) {
			n.udp = true
		} else {
			n.tcp = true
		}
	}
	return n
}

func isUDP(network string) bool { return strings.HasPrefix(network, "udp") }

// checkNetworks refuses at load what could never open a stream: n is what all
// entries listen on, of which one is not told what is its own. Handle asks again,
// with the listener that a connection came from.
func (e *Entry) checkNetworks(n networks) error {
	switch {
	case !n.tcp && e.SOCKS5 != nil:
		return errors.New("socks5 needs a TCP listener")
	case !n.tcp && e.target.Kind == tunnel.KindTCP:
		return fmt.Errorf("a UDP listener cannot lead to %s: use udp/host:port or the name of a datagram target", e.Target)
	case !n.udp && e.target.Kind == tunnel.KindUDP:
		return fmt.Errorf("a TCP listener cannot lead to %s: use tcp/host:port or the name of a stream target", e.Target)
	}
	return nil
}

// datagramsOf is a target as datagrams go to it: a name says nothing of that.
func datagramsOf(t tunnel.Target) tunnel.Target {
	if t.Kind == tunnel.KindNamed {
		t.Kind = tunnel.KindNamedDatagram
	}
	return t
}

// maxUDP is the largest datagram that layer4 receives, in bytes.
const maxUDP = 9000

// serveDatagrams carries the datagrams of one client address in a flow. Layer4's
// UDP server waits for its slowest handler with all others, so this reads on
// whatever becomes of the flow; what the flow does not take, drops its oldest.
// Layer4 has a goroutine for each client address; the one that answers is ours:
// a socket that takes nothing may hold up nobody else's flow. Both end when the
// flow does, or after layer4's idle_timeout.
func (e *Entry) serveDatagrams(cx *layer4.Connection) error {
	conn, ep := tunnel.NewDatagramConnWithin(e.hub.memory, cx.LocalAddr(), cx.RemoteAddr())
	_ = cx.SetReadDeadline(time.Time{}) // layer4's UDP connection counts from 1970 until it is set once
	ctx, cancel := e.hub.openContext()
	defer cancel()
	answered := make(chan struct{})
	go func() {
		defer close(answered)
		defer func() { _ = cx.SetReadDeadline(time.Now().Add(-time.Minute)) }() // layer4 counts in seconds
		carried := false
		defer func() {
			if !carried {
				abandon(conn, ep)
			}
		}()
		defer e.hub.recoverEntry()
		faultpoint.Here(faultpoint.EntryDatagrams)
		e.answerDatagrams(ctx, cx, conn, ep)
		carried = true
	}()
	buf := make([]byte, maxUDP)
	for {
		n, err := cx.Read(buf)
		if err != nil {
			break // an empty datagram reads as an end here: the next one begins anew
		}
		if _, err = conn.Write(buf[:n]); err != nil {
			break
		}
	}
	cancel()
	_ = conn.Close()
	<-answered
	return nil
}

// answerDatagrams opens the flow and hands its datagrams to the client until it
// ends.
func (e *Entry) answerDatagrams(ctx context.Context, cx *layer4.Connection, conn *tunnel.DatagramConn, ep tunnel.Endpoint) {
	target := datagramsOf(e.target)
	err := e.env.wait(ctx)
	if err != nil {
		ep.Close(tunnel.CodeOf(err))
	} else {
		_, err = e.open(ctx, target, ep)
	}
	if err != nil {
		e.logFailure(cx, target, err)
		return
	}
	_ = conn.Each(func(p []byte) {
		if _, err := cx.Write(p); errors.Is(err, net.ErrClosed) {
			_ = conn.Close() // the listener is gone; anything else is the loss of one datagram
		}
	})
}

// recoverEntry is deferred in goroutines of an entry: a panic ends what it served.
func (h *hub) recoverEntry() {
	if v := recover(); v != nil {
		h.panicked(v, debug.Stack())
	}
}
