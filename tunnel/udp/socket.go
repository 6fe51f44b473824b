// Package udp is the UDP socket below all peer connections: one at a gateway,
// one for each tunnel of a client. It belongs to us and not to the ICE library,
// so that its buffers are large, so that packets can be told apart by their
// first byte before a library sees them (RFC 9443: STUN 0-3, DTLS 20-63, QUIC
// 64-127 and 192-255), and so that what comes from an address without a checked
// candidate pair is dropped here: see pairs.go for what that achieves.
//
// A Socket has no goroutine of its own. It is read by one goroutine (that of
// the ICE demultiplexer); every other method is safe for concurrent use.
package udp

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync/atomic"
	"time"
)

// DefaultBuffer is what is asked of the kernel for each direction, in bytes. It
// equals the receive window of an SCTP association: a smaller one loses bursts,
// and the kernel's default of 208 KiB costs a third of the throughput.
const DefaultBuffer = 4 << 20

// Config is how a Socket is opened. The zero value is good.
type Config struct {
	// ReadBuffer and WriteBuffer are the sizes asked of the kernel, in bytes; 0
	// means DefaultBuffer, negative leaves the kernel's default.
	ReadBuffer, WriteBuffer int
}

// Stats counts since the socket was opened. Dropped are packets that were
// neither STUN nor from an address with a checked pair; they are not in
// PacketsIn. ReceiveErrors are reads that failed, and (on Linux) packets that the
// kernel dropped, mostly because the buffer was full.
type Stats struct {
	PacketsIn, PacketsOut, BytesIn, BytesOut, Dropped, ReceiveErrors uint64
}

// Socket is one UDP socket. It is a net.PacketConn, and it offers the reads and
// writes by netip.AddrPort that the ICE library uses without allocating
// (ice.AddrPortReaderWriter).
type Socket struct {
	conn        *net.UDPConn
	local       netip.AddrPort
	read, write int
	warnings    []string
	pairs       pairs

	packetsIn, packetsOut, bytesIn, bytesOut, dropped, readErrors atomic.Uint64

	lastDrops atomic.Uint64 // of the kernel, as last read: a closed socket tells none
}

// Listen opens a socket on network ("udp", "udp4", "udp6") and address. It sets
// neither SO_REUSEADDR nor SO_REUSEPORT: with them a second process on the same
// port would silently be given half of the packets. The error names the address.
// A buffer that the kernel made smaller is not an error: see Warnings.
func Listen(ctx context.Context, network, address string, cfg Config) (*Socket, error) {
	var lc net.ListenConfig
	pc, err := lc.ListenPacket(ctx, network, address)
	if err != nil {
		return nil, fmt.Errorf("opening the UDP socket %s/%s: %w", network, address, err)
	}
	conn, ok := pc.(*net.UDPConn)
	if !ok {
		return nil, errors.Join(fmt.Errorf("opening %s/%s: not a UDP network", network, address), pc.Close())
	}
	s := &Socket{conn: conn}
	if addr, ok := conn.LocalAddr().(*net.UDPAddr); ok {
		s.local = unmap(addr.AddrPort())
	}
	s.sizeBuffers(cfg)
	return s, nil
}

// LocalAddr returns the address that the socket is bound to.
func (s *Socket) LocalAddr() net.Addr { return s.conn.LocalAddr() }

// AddrPort returns the address that the socket is bound to. A socket of both
// families that is bound to no address shows the IPv6 one, [::]:port.
func (s *Socket) AddrPort() netip.AddrPort { return s.local }

// ReadFromAddrPort reads one packet that may pass: STUN, or of a sender with a
// checked pair. Sender addresses of IPv4 are never in their IPv6-mapped form. A
// packet longer than p is cut (Windows: dropped). An error is the socket's.
func (s *Socket) ReadFromAddrPort(p []byte) (int, netip.AddrPort, error) {
	for {
		n, from, err := s.conn.ReadFromUDPAddrPort(p)
		if err != nil {
			s.countError(err)
			if ofPacket(err) {
				continue
			}
			return n, from, err
		}
		from = unmap(from)
		if !IsSTUN(p[:n]) && !s.pairs.allowed(from) {
			s.dropped.Add(1)
			continue
		}
		s.packetsIn.Add(1)
		s.bytesIn.Add(uint64(n))
		return n, from, nil
	}
}

// WriteToAddrPort sends one packet. A mapped IPv4 address is unmapped first:
// the ICE library hands 16-byte addresses, which an IPv4 socket refuses.
func (s *Socket) WriteToAddrPort(p []byte, to netip.AddrPort) (int, error) {
	n, err := s.conn.WriteToUDPAddrPort(p, unmap(to))
	if err == nil {
		s.packetsOut.Add(1)
		s.bytesOut.Add(uint64(n))
	}
	return n, err
}

// ReadFrom is ReadFromAddrPort for net.PacketConn.
func (s *Socket) ReadFrom(p []byte) (int, net.Addr, error) {
	n, from, err := s.ReadFromAddrPort(p)
	if err != nil {
		return n, nil, err
	}
	return n, net.UDPAddrFromAddrPort(from), nil
}

// WriteTo is WriteToAddrPort for net.PacketConn; addr must be a *net.UDPAddr.
func (s *Socket) WriteTo(p []byte, addr net.Addr) (int, error) {
	to, ok := addr.(*net.UDPAddr)
	if !ok {
		return 0, fmt.Errorf("writing to %v: not a UDP address", addr)
	}
	return s.WriteToAddrPort(p, to.AddrPort())
}

// countError counts a read that failed; a closed socket and a deadline are none.
func (s *Socket) countError(err error) {
	if !errors.Is(err, net.ErrClosed) && !errors.Is(err, os.ErrDeadlineExceeded) {
		s.readErrors.Add(1)
	}
}

// Close closes the socket; a blocked read returns net.ErrClosed.
func (s *Socket) Close() error {
	s.kernelDrops()
	return s.conn.Close()
}

// kernelDrops returns how many packets the kernel dropped at this socket.
func (s *Socket) kernelDrops() uint64 {
	if n, ok := kernelDrops(s.conn); ok {
		s.lastDrops.Store(n)
	}
	return s.lastDrops.Load()
}

// SetDeadline sets both deadlines, as net.PacketConn says.
func (s *Socket) SetDeadline(t time.Time) error { return s.conn.SetDeadline(t) }

// SetReadDeadline sets the deadline of reads.
func (s *Socket) SetReadDeadline(t time.Time) error { return s.conn.SetReadDeadline(t) }

// SetWriteDeadline sets the deadline of writes.
func (s *Socket) SetWriteDeadline(t time.Time) error { return s.conn.SetWriteDeadline(t) }

// Stats returns the counters.
func (s *Socket) Stats() Stats {
	return Stats{
		PacketsIn: s.packetsIn.Load(), PacketsOut: s.packetsOut.Load(),
		BytesIn: s.bytesIn.Load(), BytesOut: s.bytesOut.Load(),
		Dropped: s.dropped.Load(), ReceiveErrors: s.readErrors.Load() + s.kernelDrops(),
	}
}

func unmap(a netip.AddrPort) netip.AddrPort {
	if !a.Addr().Is4In6() {
		return a
	}
	return netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
}
