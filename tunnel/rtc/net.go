package rtc

import (
	"net"

	"github.com/pion/transport/v5"
	"github.com/pion/transport/v5/stdnet"

	"github.com/culvertgate/culvert/tunnel/udp"
)

// network is what pion has of the system. It sees no interfaces (the local
// candidates come from the mux), and the sockets that it opens itself, for STUN
// and TURN servers of a client, get large buffers.
type network struct {
	transport.Net
}

func newNetwork() (network, error) {
	std, err := stdnet.NewNet()
	return network{std}, err
}

// Interfaces returns none.
func (n network) Interfaces() ([]*transport.Interface, error) { return nil, nil }

// ListenUDP opens a socket with large buffers.
func (n network) ListenUDP(name string, local *net.UDPAddr) (transport.UDPConn, error) {
	conn, err := n.Net.ListenUDP(name, local)
	if err == nil {
		_ = conn.SetReadBuffer(udp.DefaultBuffer)
		_ = conn.SetWriteBuffer(udp.DefaultBuffer)
	}
	return conn, err
}

// ListenPacket opens a socket with large buffers.
func (n network) ListenPacket(name, address string) (net.PacketConn, error) {
	conn, err := n.Net.ListenPacket(name, address)
	if c, ok := conn.(*net.UDPConn); ok && err == nil {
		_ = c.SetReadBuffer(udp.DefaultBuffer)
		_ = c.SetWriteBuffer(udp.DefaultBuffer)
	}
	return conn, err
}
