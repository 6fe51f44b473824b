//go:build !linux

package reactor

import (
	"net"

	"github.com/culvertgate/culvert/tunnel"
)

// poller is Linux's; elsewhere every Endpoint is portable.
type poller struct{}

func newPoller(*Reactor) (*poller, error) { return nil, nil }

func (*poller) close() error { return nil }

func (r *Reactor) adoptDatagrams(c *net.UDPConn, watch chan struct{}) (tunnel.Endpoint, error) {
	return r.adoptPortableFlow(c, watch)
}

func (*Reactor) adoptSocket(net.Conn, []byte, chan struct{}) (tunnel.Endpoint, bool, error) {
	return nil, false, nil
}
