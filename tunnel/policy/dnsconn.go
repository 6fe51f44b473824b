package policy

import (
	"context"
	"net"
	"time"
)

// dialDNS connects Go's resolver to a server. The resolver sets a deadline of
// its own and does not look at its context again before that, five seconds and
// two sockets after everybody has given up the look-up; so the context is bound
// to the connection here.
func dialDNS(ctx context.Context, network, server string) (net.Conn, error) {
	var dialer net.Dialer
	c, err := dialer.DialContext(ctx, network, server)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) }) // closed already is as good
	if udp, ok := c.(*net.UDPConn); ok {
		return &dnsPacketConn{udp, stop}, nil // still a net.PacketConn: the resolver tells datagrams by that
	}
	return &dnsConn{c, stop}, nil
}

type dnsConn struct {
	net.Conn
	stop func() bool
}

func (c *dnsConn) Close() error {
	c.stop()
	return c.Conn.Close()
}

type dnsPacketConn struct {
	*net.UDPConn
	stop func() bool
}

func (c *dnsPacketConn) Close() error {
	c.stop()
	return c.UDPConn.Close()
}
