package acceptance

import (
	"net"
	"time"

	"github.com/culvertgate/culvert/internal/testkit"
)

// The replies of a SOCKS5 server that these tests wait for (RFC 1928 section 6,
// wire.md 3.4).
const (
	replySucceeded   = 0
	replyNotAllowed  = 2
	replyUnreachable = 4
	replyRefused     = 5
	replyTimeout     = 6
)

type socksError = testkit.SOCKSError

// openBySOCKS opens a stream to a host and port by a SOCKS entry.
func (p *pair) openBySOCKS(entry int, host string, port int, timeout time.Duration) (*net.TCPConn, error) {
	c, err := p.dial(entry)
	if err != nil {
		return nil, err
	}
	if err := testkit.SOCKSConnect(c, host, port, timeout); err != nil {
		_ = c.Close() // refused
		return nil, err
	}
	return c, nil
}
