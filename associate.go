package culvert

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"time"

	"github.com/culvertgate/culvert/socks5"
	"github.com/culvertgate/culvert/tunnel"
)

const (
	// maxAssociated is how many destinations a client may have in one association.
	maxAssociated = 256
	// refusedFor is for how long a destination whose flow was not opened is not
	// asked for again: a client that sends on would ask with each datagram.
	refusedFor = time.Second
)

// association is a UDP ASSOCIATE (RFC 1928 section 7): a UDP socket for one
// client, and a flow for each destination that it names. It lives as long as the
// TCP connection that asked for it, which end closes. One goroutine reads the socket; each flow has
// one that opens it and then hands out its answers.
type association struct {
	socket *net.UDPConn
	from   netip.AddrPort // the client; port 0 until its first datagram, if it did not say
	open   func(context.Context, tunnel.Target, tunnel.Endpoint) error
	failed func(tunnel.Target, error)
	memory *tunnel.Budget // of what waits in all flows
	guard  func(func())   // runs f and survives its panic
	end    func()         // closes the TCP connection
	ctx    context.Context
	wg     sync.WaitGroup

	mu    sync.Mutex
	ended bool                            // guarded by mu
	flows map[string]*tunnel.DatagramConn // by destination as the client writes it; guarded by mu
}

// bindAssociation opens the socket of an association: at bind, or, if that is not
// valid, at the address that the client has connected to.
func bindAssociation(control net.Conn, bind netip.AddrPort) (*net.UDPConn, netip.AddrPort, error) {
	here := addressOf(control.LocalAddr())
	if !bind.IsValid() {
		bind = netip.AddrPortFrom(here, 0)
	}
	socket, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(bind))
	if err != nil {
		return nil, netip.AddrPort{}, err
	}
	bound := socket.LocalAddr().(*net.UDPAddr).AddrPort()
	if bound.Addr().IsUnspecified() { // the client is told one that it can send to
		bound = netip.AddrPortFrom(here, bound.Port())
	}
	return socket, netip.AddrPortFrom(bound.Addr().Unmap(), bound.Port()), nil
}

// addressOf returns the IP address of a TCP or UDP address, the unspecified one if
// there is none.
func addressOf(a net.Addr) netip.Addr {
	ap, err := netip.ParseAddrPort(a.String())
	if err != nil {
		return netip.IPv6Unspecified()
	}
	return ap.Addr().Unmap()
}

// serve carries the client's datagrams until its TCP connection, on which nothing
// more is due, has ended; then all flows have.
func (a *association) serve(control net.Conn, request socks5.Request) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	a.ctx, a.flows = ctx, make(map[string]*tunnel.DatagramConn)
	// An address that the client says is its own is not looked at: behind NAT it
	// cannot know, and it must be the one of the TCP connection.
	a.from = netip.AddrPortFrom(addressOf(control.RemoteAddr()), request.Port)
	a.wg.Go(func() { a.guard(a.receive) })
	_, _ = io.Copy(io.Discard, control)
	_ = a.socket.Close()
	cancel()
	a.mu.Lock()
	a.ended = true
	for _, conn := range a.flows {
		_ = conn.Close()
	}
	a.mu.Unlock()
	a.wg.Wait()
}

// receive reads the socket, and hands each datagram to its flow.
func (a *association) receive() {
	for buf := make([]byte, 65536); ; {
		n, from, err := a.socket.ReadFromUDPAddrPort(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil || !a.isClient(from) {
			continue // an ICMP error of an earlier answer, or a stranger
		}
		d, err := socks5.ParseDatagram(buf[:n])
		if err != nil {
			continue // RFC 1928 section 7: in silence
		}
		if conn := a.flow(d); conn != nil {
			_, _ = conn.Write(d.Data) // a flow that has ended: the loss of one datagram
		}
	}
}

// isClient keeps strangers out: the address is that of the TCP connection, the
// port the client's word or that of its first datagram.
func (a *association) isClient(from netip.AddrPort) bool {
	switch {
	case from.Addr().Unmap().WithZone("") != a.from.Addr().Unmap().WithZone(""):
		return false
	case a.from.Port() == 0:
		a.mu.Lock() // who answers reads it
		a.from = netip.AddrPortFrom(from.Addr(), from.Port())
		a.mu.Unlock()
		return true
	default:
		return from.Port() == a.from.Port()
	}
}

// flow returns the flow of a datagram's destination, opening one if there is none
// and room for it.
func (a *association) flow(d socks5.Datagram) *tunnel.DatagramConn {
	a.mu.Lock()
	defer a.mu.Unlock()
	conn, known := a.flows[string(d.Address)]
	if known || a.ended || len(a.flows) >= maxAssociated {
		return conn
	}
	target := tunnel.Target{Kind: tunnel.KindUDP, Host: d.Host(), Port: d.Port()}
	conn, ep := tunnel.NewDatagramConnWithin(a.memory, tunnel.Addr{Net: "webrtc", Text: "local"}, tunnel.Addr{Net: "webrtc", Text: target.String()})
	key := string(d.Address)
	a.flows[key] = conn
	a.wg.Go(func() {
		defer a.forget(key)
		a.guard(func() { a.carry(key, target, conn, ep) })
	})
	return conn
}

// carry opens a flow and hands its answers to the client until it ends.
func (a *association) carry(key string, target tunnel.Target, conn *tunnel.DatagramConn, ep tunnel.Endpoint) {
	defer conn.Close()
	if err := a.open(a.ctx, target, ep); err != nil {
		if a.ctx.Err() == nil {
			a.failed(target, err)
		}
		pause(a.ctx, refusedFor)
		return
	}
	_ = conn.Each(func(p []byte) {
		a.mu.Lock()
		to := a.from
		a.mu.Unlock()
		buf := answers.Get().(*[]byte)
		*buf = append(socks5.AppendDatagramHeader((*buf)[:0], []byte(key)), p...)
		_, _ = a.socket.WriteToUDPAddrPort(*buf, to)
		answers.Put(buf)
	})
}

// answers are buffers for what goes to SOCKS clients, header included.
var answers = sync.Pool{New: func() any { return new([]byte) }}

func (a *association) forget(key string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.flows, key)
}

// parseAssociate reads where the sockets of UDP ASSOCIATE are bound.
func parseAssociate(s string) (netip.AddrPort, error) {
	if s == "" {
		return netip.AddrPort{}, nil
	}
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		return netip.AddrPort{}, errors.New("socks5 udp " + strconv.Quote(s) + ": write an address and port 0, such as 127.0.0.1:0")
	}
	if host == "" {
		host = "::"
	}
	addr, err := netip.ParseAddr(host)
	switch {
	case err != nil:
		return netip.AddrPort{}, errors.New("socks5 udp " + strconv.Quote(s) + ": the host is an address, such as 127.0.0.1")
	case port != "0":
		return netip.AddrPort{}, errors.New("socks5 udp " + strconv.Quote(s) + ": each association has a socket of its own: write port 0")
	}
	return netip.AddrPortFrom(addr, 0), nil
}
