package culvert

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"strconv"
	"sync"

	"github.com/culvertgate/culvert/internal/faultpoint"
	"github.com/culvertgate/culvert/socks5"
	"github.com/culvertgate/culvert/tunnel"
)

// maxAssociated is how many destinations a client may have in one association.
const maxAssociated = 256

// association is a UDP ASSOCIATE (RFC 1928 section 7): a UDP socket for one
// client, and a flow for each destination that it names. It lives as long as the
// TCP connection that asked for it, which end closes. One goroutine reads the socket.
type association struct {
	socket *net.UDPConn
	flows  flowTable[string] // by destination as the client writes it
	end    func()            // closes the TCP connection; nil: nobody ends it but that
	wg     sync.WaitGroup

	mu   sync.Mutex
	from netip.AddrPort // the client; port 0 until its first datagram, if it did not say; guarded by mu
}

// newAssociation returns one that serve runs; open, failed and guard are those of
// its flows.
func newAssociation(socket *net.UDPConn, open func(context.Context, tunnel.Target, tunnel.Endpoint) error,
	failed func(tunnel.Target, error), guard func(func())) *association {
	a := &association{socket: socket, flows: flowTable[string]{
		room: make(flowRoom, maxAssociated), open: open, failed: func(_ string, t tunnel.Target, err error) { failed(t, err) }, guard: guard,
	}}
	a.flows.init()
	return a
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
	// An address that the client says is its own is not looked at: behind NAT it
	// cannot know, and it must be the one of the TCP connection.
	a.from = netip.AddrPortFrom(addressOf(control.RemoteAddr()), request.Port)
	a.wg.Go(func() {
		defer control.Close() // behind a panic: nobody reads the socket, and the client is told
		a.flows.guard(a.receive)
	})
	_, _ = io.Copy(io.Discard, control)
	_ = a.socket.Close()
	a.flows.close()
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
		faultpoint.Here(faultpoint.Association)
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
	a.flows.mu.Lock()
	conn := a.flows.flows[string(d.Address)] // find would copy the key of each datagram
	a.flows.mu.Unlock()
	if conn != nil {
		return conn
	}
	key := string(d.Address)
	target := tunnel.Target{Kind: tunnel.KindUDP, Host: d.Host(), Port: d.Port()}
	return a.flows.add(key, target, func(p []byte) { a.answer(key, p) })
}

// answer hands a datagram from a destination to the client.
func (a *association) answer(key string, p []byte) {
	a.mu.Lock()
	to := a.from
	a.mu.Unlock()
	buf := answers.Get().(*[]byte)
	*buf = append(socks5.AppendDatagramHeader((*buf)[:0], []byte(key)), p...)
	_, _ = a.socket.WriteToUDPAddrPort(*buf, to)
	answers.Put(buf)
}

// answers are buffers for what goes to SOCKS clients, header included.
var answers = sync.Pool{New: func() any { return new([]byte) }}

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
