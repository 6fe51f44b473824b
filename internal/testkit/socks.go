package testkit

import (
	"fmt"
	"io"
	"net"
	"time"
)

// SOCKSError is the reply of a SOCKS5 server that refuses (RFC 1928 section 6).
type SOCKSError byte

func (e SOCKSError) Error() string { return fmt.Sprintf("SOCKS reply %d", byte(e)) }

// SOCKSConnect asks the server behind c for host (a name or an IPv4 literal, which is
// sent as an address) and port. Its error is a SOCKSError when the server has
// refused.
func SOCKSConnect(c *net.TCPConn, host string, port int, timeout time.Duration) error {
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
	if reply[1] != 0 {
		return SOCKSError(reply[1])
	}
	return c.SetDeadline(time.Time{})
}
