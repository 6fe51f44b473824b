package acceptance

import (
	"fmt"
	"io"
	"net"
	"time"
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

// socksError is a refusal.
type socksError byte

func (e socksError) Error() string { return fmt.Sprintf("SOCKS reply %d", byte(e)) }

// socks asks the server behind c for host (a name or an IPv4 literal, which is
// sent as an address) and port. Its error is a socksError when the server has
// refused.
func socks(c *net.TCPConn, host string, port int, timeout time.Duration) error {
	_ = c.SetDeadline(time.Now().Add(timeout))
	request := []byte{5, 1, 0, 5, 1, 0}
	if ip := net.ParseIP(host).To4(); ip != nil {
		request = append(append(request, 1), ip...)
	} else {
		request = append(append(request, 3, byte(len(host))), host...)
	}
	request = append(request, byte(port>>8), byte(port))
	if _, err := c.Write(request[:3]); err != nil {
		return err
	}
	var reply [10]byte
	if _, err := io.ReadFull(c, reply[:2]); err != nil {
		return fmt.Errorf("method: %w", err)
	}
	if reply[0] != 5 || reply[1] != 0 {
		return fmt.Errorf("method: % x", reply[:2])
	}
	if _, err := c.Write(request[3:]); err != nil {
		return err
	}
	if _, err := io.ReadFull(c, reply[:]); err != nil {
		return fmt.Errorf("reply: %w", err)
	}
	if reply[1] != replySucceeded {
		return socksError(reply[1])
	}
	return c.SetDeadline(time.Time{})
}

// openBySOCKS opens a stream to a host and port by a SOCKS entry.
func (p *pair) openBySOCKS(entry int, host string, port int, timeout time.Duration) (*net.TCPConn, error) {
	c, err := p.dial(entry)
	if err != nil {
		return nil, err
	}
	if err := socks(c, host, port, timeout); err != nil {
		_ = c.Close() // refused
		return nil, err
	}
	return c, nil
}
