package rtc

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/culvertgate/culvert/tunnel/udp"
)

const (
	queuedPackets = 2048 // at most, of one conn: what the socket's buffer holds too
	slabSize      = 2048 // bytes of a pooled buffer
)

var errAddresses = errors.New("the peer uses too many addresses")

// slabs are the buffers of queued packets.
var slabs = sync.Pool{New: func() any { return new([slabSize]byte) }}

// muxConn is what one agent has of the shared socket, for one family. One
// goroutine of pion reads it, several write.
type muxConn struct {
	mux   *mux
	key   muxKey
	local *net.UDPAddr

	// guarded by mux.mu
	asked []transaction                // in the order of sending
	pairs map[netip.AddrPort]time.Time // checked, and when last

	mu     sync.Mutex
	heard  map[netip.AddrPort]struct{} // addresses that were ever sent to
	limit  int                         // of heard
	queue  []packet                    // a ring, grown as needed
	first  int
	length int
	closed bool
	wake   chan struct{}
	gone   chan struct{}
}

type packet struct {
	slab *[slabSize]byte // nil for a long one
	long []byte
	n    int
	from netip.AddrPort
}

func newMuxConn(m *mux, key muxKey, local *net.UDPAddr) *muxConn {
	return &muxConn{
		mux: m, key: key, local: local,
		pairs: make(map[netip.AddrPort]time.Time),
		heard: make(map[netip.AddrPort]struct{}), limit: m.limit,
		wake: make(chan struct{}, 1), gone: make(chan struct{}),
	}
}

// mayHear reports whether a request of addr may reach the agent: it is known
// already, or there is room for another peer-reflexive candidate.
func (c *muxConn) mayHear(addr netip.AddrPort) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, known := c.heard[addr]
	return known || len(c.heard) < c.limit
}

// maySend is mayHear for what the agent sends; it makes the address known. The
// agent answers only requests whose integrity it has checked, so strangers do
// not use the room up.
func (c *muxConn) maySend(addr netip.AddrPort) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, known := c.heard[addr]; known {
		return true
	}
	if c.closed || len(c.heard) >= c.limit {
		return false
	}
	c.heard[addr] = struct{}{}
	return true
}

// push queues a copy of p. It reports false when there is no room.
func (c *muxConn) push(p []byte, from netip.AddrPort) bool {
	k := packet{n: len(p), from: from}
	if len(p) <= slabSize {
		k.slab = slabs.Get().(*[slabSize]byte)
		copy(k.slab[:], p)
	} else {
		k.long = append([]byte(nil), p...)
	}
	if !c.enqueue(k) {
		k.release()
		return false
	}
	select {
	case c.wake <- struct{}{}:
	default:
	}
	return true
}

func (c *muxConn) enqueue(k packet) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed || c.length == queuedPackets {
		return false
	}
	if c.length == len(c.queue) {
		grown := make([]packet, max(8, 2*len(c.queue)))
		for i := range c.length {
			grown[i] = c.queue[(c.first+i)%len(c.queue)]
		}
		c.queue, c.first = grown, 0
	}
	c.queue[(c.first+c.length)%len(c.queue)] = k
	c.length++
	return true
}

func (c *muxConn) dequeue() (packet, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.length == 0 {
		return packet{}, false
	}
	k := c.queue[c.first]
	c.queue[c.first] = packet{}
	c.first = (c.first + 1) % len(c.queue)
	if c.length--; c.length == 0 && len(c.queue) > 64 {
		c.queue, c.first = nil, 0 // what a burst needed is not kept
	}
	return k, true
}

func (k packet) release() {
	if k.slab != nil {
		slabs.Put(k.slab)
	}
}

// ReadFromAddrPort returns the next packet, or io.EOF when the conn is closed.
func (c *muxConn) ReadFromAddrPort(p []byte) (int, netip.AddrPort, error) {
	for {
		if k, ok := c.dequeue(); ok {
			data := k.long
			if k.slab != nil {
				data = k.slab[:k.n]
			}
			n := copy(p, data)
			k.release()
			return n, k.from, nil
		}
		select {
		case <-c.wake:
		case <-c.gone:
			return 0, netip.AddrPort{}, io.EOF
		}
	}
}

// WriteToAddrPort sends a packet. STUN goes only to addresses for which there is
// room, and requests are noted so that their answers find back.
//
// After Close the error is not io.ErrClosedPipe, the one that pion takes for the
// agent's end: an ICE restart closes this conn before the agent gives up the
// pair, and a packet that DTLS sends in between must be lost, not end the tunnel.
func (c *muxConn) WriteToAddrPort(p []byte, to netip.AddrPort) (int, error) {
	select {
	case <-c.gone:
		return 0, net.ErrClosed
	default:
	}
	to = netip.AddrPortFrom(to.Addr().Unmap(), to.Port())
	if udp.IsSTUN(p) {
		if !c.maySend(to) {
			return 0, errAddresses
		}
		if class, id := stunParts(p); class == stunRequest {
			c.mux.asked(c, id, to)
		}
	}
	return c.mux.socket.WriteToAddrPort(p, to)
}

// ReadFrom is ReadFromAddrPort for net.PacketConn.
func (c *muxConn) ReadFrom(p []byte) (int, net.Addr, error) {
	n, from, err := c.ReadFromAddrPort(p)
	if err != nil {
		return 0, nil, err
	}
	return n, net.UDPAddrFromAddrPort(from), nil
}

// WriteTo is WriteToAddrPort for net.PacketConn.
func (c *muxConn) WriteTo(p []byte, addr net.Addr) (int, error) {
	to, ok := addr.(*net.UDPAddr)
	if !ok {
		return 0, fmt.Errorf("%v is not a UDP address", addr)
	}
	return c.WriteToAddrPort(p, to.AddrPort())
}

// LocalAddr returns the address of the local candidate.
func (c *muxConn) LocalAddr() net.Addr { return c.local }

// SetDeadline does nothing: pion closes the conn to unblock it.
func (c *muxConn) SetDeadline(time.Time) error { return nil }

// SetReadDeadline does nothing.
func (c *muxConn) SetReadDeadline(time.Time) error { return nil }

// SetWriteDeadline does nothing: writes to a UDP socket do not block for long.
func (c *muxConn) SetWriteDeadline(time.Time) error { return nil }

// Close forgets the conn with its pairs and queue; it may be called again.
func (c *muxConn) Close() error {
	c.mu.Lock()
	already := c.closed
	c.closed = true
	queue := c.queue
	c.queue, c.first, c.length = nil, 0, 0
	c.mu.Unlock()
	if already {
		return nil
	}
	close(c.gone)
	for _, k := range queue {
		k.release()
	}
	c.mux.remove(c)
	return nil
}
