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

func (*Reactor) adoptSocket(net.Conn, []byte, chan struct{}) (tunnel.Endpoint, bool, error) {
	return nil, false, nil
}
