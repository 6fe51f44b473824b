package rtc

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/culvertgate/culvert/internal/faultpoint"
	"github.com/culvertgate/culvert/tunnel/udp"
)

const (
	maxPacket    = 8192             // bytes; pion reads no more
	pairLife     = 30 * time.Second // without an answered check a pair is no longer a living one
	requestLife  = 10 * time.Second // how long a check may be answered
	maxRequests  = 256              // checks of one conn that wait for an answer
	readPause    = 5 * time.Millisecond
	maxReadPause = time.Second
)

// mux lets many ICE agents share one socket (it is an ice.UDPMux). It differs
// from pion's own in what a stranger can do to it:
//
//   - a request goes to the agent whose user name fragment it bears, a response
//     to the agent that sent the transaction, everything else to the agent for
//     which its source is a checked pair. What fits nowhere is dropped;
//   - an address becomes a checked pair when it answers one of our own requests
//     (so it does receive what is sent to it), and stays one for 30 s;
//   - an agent has a bounded queue, and a bounded number of addresses to which
//     it ever sends, so that its peer can make neither memory nor a scanner of it.
//
// A client's mux has one agent; two muxes that face each other are fine, because
// nothing is found by source address before it was found by name.
type mux struct {
	socket *udp.Socket
	listen func() []net.Addr // addresses for local candidates, one a family
	limit  int               // addresses to which one agent may send
	log    func() *zap.Logger
	done   chan struct{} // the reader has ended
	drops  atomic.Uint64

	mu       sync.RWMutex
	conns    map[muxKey]*muxConn
	pairs    map[netip.AddrPort]*muxConn
	requests map[transaction]request
	closed   bool
}

type muxKey struct {
	ufrag string
	v6    bool
}

type request struct {
	conn *muxConn
	to   netip.AddrPort
	at   time.Time
}

// newMux starts to read socket, which it closes with itself.
func newMux(socket *udp.Socket, limit int, listen func() []net.Addr, log func() *zap.Logger) *mux {
	m := &mux{
		socket: socket, limit: limit, listen: listen, log: log, done: make(chan struct{}),
		conns: make(map[muxKey]*muxConn), pairs: make(map[netip.AddrPort]*muxConn), requests: make(map[transaction]request),
	}
	go m.read()
	return m
}

// GetListenAddresses says for which addresses pion makes local candidates.
func (m *mux) GetListenAddresses() []net.Addr { return m.listen() }

// GetConn makes the conn of an agent, for one family.
func (m *mux) GetConn(ufrag string, addr net.Addr) (net.PacketConn, error) {
	local, ok := addr.(*net.UDPAddr)
	if !ok {
		return nil, fmt.Errorf("%v is not a UDP address", addr)
	}
	key := muxKey{ufrag, local.IP.To4() == nil}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return nil, net.ErrClosed
	}
	if m.conns[key] != nil {
		return nil, errors.New("there is an agent of this name on the socket")
	}
	c := newMuxConn(m, key, local)
	m.conns[key] = c
	return c, nil
}

// RemoveConnByUfrag ends what an agent has here.
func (m *mux) RemoveConnByUfrag(ufrag string) {
	m.mu.RLock()
	v4, v6 := m.conns[muxKey{ufrag, false}], m.conns[muxKey{ufrag, true}]
	m.mu.RUnlock()
	for _, c := range []*muxConn{v4, v6} {
		if c != nil {
			_ = c.Close()
		}
	}
}

// Close closes the socket and all conns, and waits for the reader.
func (m *mux) Close() error {
	m.mu.Lock()
	already := m.closed
	m.closed = true
	conns := make([]*muxConn, 0, len(m.conns))
	for _, c := range m.conns {
		conns = append(conns, c)
	}
	m.mu.Unlock()
	for _, c := range conns {
		_ = c.Close()
	}
	var err error
	if !already {
		err = m.socket.Close()
	}
	<-m.done
	return err
}

// dropped counts packets that fit no agent or that an agent had no room for.
func (m *mux) dropped() uint64 { return m.drops.Load() }

func (m *mux) read() {
	defer close(m.done)
	buf := make([]byte, maxPacket)
	pause := readPause
	for {
		n, from, err := m.socket.ReadFromAddrPort(buf)
		switch {
		case err == nil:
			pause = readPause
			m.dispatch(buf[:n], from)
		case errors.Is(err, net.ErrClosed), errors.Is(err, io.EOF):
			return
		default:
			time.Sleep(pause) // the system is short of something
			pause = min(2*pause, maxReadPause)
		}
	}
}

// dispatch hands one packet on. A panic is one packet's, not the socket's.
func (m *mux) dispatch(p []byte, from netip.AddrPort) {
	defer func() {
		if v := recover(); v != nil {
			m.log().Error("panic while reading a UDP packet", zap.Any("panic", v), zap.ByteString("stack", debug.Stack()))
		}
	}()
	faultpoint.Here(faultpoint.Mux)
	c := m.find(p, from)
	if c == nil || !c.push(p, from) {
		m.drops.Add(1)
	}
}

func (m *mux) find(p []byte, from netip.AddrPort) *muxConn {
	if !udp.IsSTUN(p) {
		m.mu.RLock()
		defer m.mu.RUnlock()
		return m.pairs[from]
	}
	class, id := stunParts(p)
	switch class {
	case stunRequest:
		m.mu.RLock()
		c := m.conns[muxKey{stunUfrag(p), from.Addr().Is6()}]
		m.mu.RUnlock()
		if c != nil && !c.mayHear(from) {
			return nil
		}
		return c
	case stunSuccess, stunFailure:
		return m.answered(id, from, class == stunSuccess)
	default:
		m.mu.RLock()
		defer m.mu.RUnlock()
		return m.pairs[from]
	}
}

// asked notes a request of c, so that its answer is let in.
func (m *mux) asked(c *muxConn, id transaction, to netip.AddrPort) {
	now := time.Now()
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.conns[c.key] != c {
		return
	}
	for len(c.asked) > 0 {
		oldest := c.asked[0]
		if r, waiting := m.requests[oldest]; waiting && len(c.asked) < maxRequests && now.Sub(r.at) < requestLife {
			break
		}
		delete(m.requests, oldest)
		c.asked = c.asked[1:]
	}
	c.asked = append(c.asked, id)
	m.requests[id] = request{c, to, now}
}

// answered returns the conn whose request this is the answer to, and makes a
// pair of the address that a success has come from.
func (m *mux) answered(id transaction, from netip.AddrPort, success bool) *muxConn {
	m.mu.Lock()
	defer m.mu.Unlock()
	r, ok := m.requests[id]
	if !ok || r.to != from {
		return nil
	}
	delete(m.requests, id)
	if success {
		m.addPairLocked(r.conn, from)
	}
	return r.conn
}

func (m *mux) addPairLocked(c *muxConn, addr netip.AddrPort) {
	now := time.Now()
	if c.pairs[addr].IsZero() {
		if old := m.pairs[addr]; old != nil {
			delete(old.pairs, addr)
		}
		m.pairs[addr] = c
		m.socket.AllowPair(addr)
	}
	c.pairs[addr] = now
	for other, at := range c.pairs {
		if now.Sub(at) > pairLife {
			m.removePairLocked(c, other)
		}
	}
}

func (m *mux) removePairLocked(c *muxConn, addr netip.AddrPort) {
	delete(c.pairs, addr)
	if m.pairs[addr] == c {
		delete(m.pairs, addr)
		m.socket.RemovePair(addr)
	}
}

// remove forgets a conn that is closed.
func (m *mux) remove(c *muxConn) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.conns[c.key] != c {
		return
	}
	delete(m.conns, c.key)
	for addr := range c.pairs {
		m.removePairLocked(c, addr)
	}
	for _, id := range c.asked {
		delete(m.requests, id)
	}
	c.asked = nil
}
