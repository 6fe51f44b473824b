package rtc

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/culvertgate/culvert/framecodec"
	"github.com/culvertgate/culvert/tunnel/udp"
)

func testMux(t *testing.T, limit int) *mux {
	t.Helper()
	socket, err := udp.Listen(context.Background(), "udp", anyPort, udp.Config{})
	if err != nil {
		t.Fatal(err)
	}
	m := newMux(socket, limit, func() []net.Addr { return families(socket, nil) }, func() *zap.Logger { return zap.NewNop() })
	t.Cleanup(func() { _ = m.Close() })
	return m
}

func muxConnOf(t *testing.T, m *mux, ufrag string) *muxConn {
	t.Helper()
	c, err := m.GetConn(ufrag, m.socket.LocalAddr())
	if err != nil {
		t.Fatal(err)
	}
	return c.(*muxConn)
}

// stunMessage is a Binding message with a user name.
func stunMessage(class stunClass, id byte, username string) []byte {
	p := make([]byte, stunHeader)
	p[0], p[1] = byte(class>>1), byte(class&1)<<4|1
	copy(p[4:], []byte{0x21, 0x12, 0xa4, 0x42})
	for i := 8; i < stunHeader; i++ {
		p[i] = id
	}
	if username != "" {
		p = append(p, 0, 0x22, 0, 1, 'x', 0, 0, 0) // another attribute first
		p = binary.BigEndian.AppendUint16(p, attrUsername)
		p = binary.BigEndian.AppendUint16(p, uint16(len(username)))
		p = append(p, username...)
		p = append(p, make([]byte, (4-len(username)%4)%4)...)
	}
	binary.BigEndian.PutUint16(p[2:], uint16(len(p)-stunHeader))
	return p
}

// outside is a socket that plays a peer or an attacker.
type outside struct {
	t    *testing.T
	conn *net.UDPConn
	to   *udp.Socket
}

func newOutside(t *testing.T, to *udp.Socket) *outside {
	t.Helper()
	conn, err := net.ListenUDP("udp4", &net.UDPAddr{IP: home})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return &outside{t, conn, to}
}

func (o *outside) addr() netip.AddrPort { return o.conn.LocalAddr().(*net.UDPAddr).AddrPort() }

func (o *outside) send(p []byte) {
	o.t.Helper()
	if _, err := o.conn.WriteToUDPAddrPort(p, o.to.AddrPort()); err != nil {
		o.t.Fatal(err)
	}
}

// next returns the conn's next packet; what was dropped before it is not seen.
func next(t *testing.T, c *muxConn) (string, netip.AddrPort) {
	t.Helper()
	type result struct {
		p    string
		from netip.AddrPort
	}
	got := make(chan result, 1)
	go func() {
		buf := make([]byte, maxPacket)
		n, from, err := c.ReadFromAddrPort(buf)
		if err == nil {
			got <- result{string(buf[:n]), from}
		}
	}()
	select {
	case r := <-got:
		return r.p, r.from
	case <-time.After(5 * time.Second):
		t.Fatal("no packet")
		return "", netip.AddrPort{}
	}
}

var clientHello = string([]byte{22, 0xfe, 0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1})

// TestMuxStrangers: requests find their agent by name, other packets only from
// an address that has answered one of the agent's own checks.
func TestMuxStrangers(t *testing.T) {
	checkLeaks(t)
	m := testMux(t, 4)
	a, b := muxConnOf(t, m, "alice"), muxConnOf(t, m, "bobby")
	peer, attacker := newOutside(t, m.socket), newOutside(t, m.socket)
	dropped := func() uint64 { return m.dropped() + m.socket.Stats().Dropped }
	drop := func(name string, o *outside, p []byte) {
		t.Helper()
		before := dropped()
		o.send(p)
		eventually(t, 2*time.Second, name+" is dropped", func() bool { return dropped() == before+1 })
	}
	arrive := func(name string, o *outside, c *muxConn, p []byte) {
		t.Helper()
		o.send(p)
		if got, from := next(t, c); got != string(p) || from != o.addr() {
			t.Fatalf("%s: %d bytes from %v arrived", name, len(got), from)
		}
	}

	drop("a request without a name", attacker, stunMessage(stunRequest, 1, ""))
	drop("a request with an unknown name", attacker, stunMessage(stunRequest, 1, "carol:x"))
	drop("a request with half a name", attacker, stunMessage(stunRequest, 1, "alice"))
	drop("an answer to nothing", attacker, stunMessage(stunSuccess, 1, ""))
	drop("an indication", attacker, stunMessage(stunIndication, 1, "alice:x"))
	arrive("a request for alice", peer, a, stunMessage(stunRequest, 1, "alice:x"))
	arrive("a request for bobby", peer, b, stunMessage(stunRequest, 2, "bobby:x"))

	drop("DTLS before there is a pair", peer, []byte(clientHello))
	ask := func(c *muxConn, id byte, to netip.AddrPort) {
		t.Helper()
		if _, err := c.WriteToAddrPort(stunMessage(stunRequest, id, "x:alice"), to); err != nil {
			t.Fatal(err)
		}
	}
	ask(a, 7, peer.addr())
	drop("DTLS of an address that was only asked", peer, []byte(clientHello))
	drop("an answer from elsewhere", attacker, stunMessage(stunSuccess, 7, ""))
	arrive("a failure", peer, a, stunMessage(stunFailure, 7, ""))
	drop("DTLS after a failure", peer, []byte(clientHello))
	ask(a, 8, peer.addr())
	arrive("the answer", peer, a, stunMessage(stunSuccess, 8, ""))
	drop("the same answer again", peer, stunMessage(stunSuccess, 8, ""))
	arrive("DTLS of a checked pair", peer, a, []byte(clientHello))
	drop("DTLS of a stranger", attacker, []byte(clientHello))

	// The pair goes to the agent that checks it next, as after a NAT's change.
	ask(b, 9, peer.addr())
	arrive("the answer for bobby", peer, b, stunMessage(stunSuccess, 9, ""))
	arrive("DTLS for bobby", peer, b, []byte(clientHello))
	_ = a.Close()
	arrive("DTLS for bobby without alice", peer, b, []byte(clientHello))
	m.RemoveConnByUfrag("bobby")
	drop("DTLS after the agent's end", peer, []byte(clientHello))
	if m.socket.Pairs() != 0 || len(m.pairs) != 0 || len(m.conns) != 0 || len(m.requests) != 0 {
		t.Errorf("left behind: %d and %d pairs, %d conns, %d requests", m.socket.Pairs(), len(m.pairs), len(m.conns), len(m.requests))
	}
	if _, _, err := b.ReadFromAddrPort(make([]byte, 10)); !errors.Is(err, io.EOF) {
		t.Errorf("reading a closed conn: %v", err)
	}
}

// TestMuxNames: what a stranger writes as a user name costs no memory.
func TestMuxNames(t *testing.T) {
	for username, want := range map[string]string{
		"alice:bobby": "alice", "alice": "", ":bobby": "", strings.Repeat("a", 256) + ":x": strings.Repeat("a", 256), strings.Repeat("a", 257) + ":x": "",
	} {
		if got := stunUfrag(stunMessage(stunRequest, 1, username)); got != want {
			t.Errorf("%.20q: %.20q", username, got)
		}
	}
	long := stunMessage(stunRequest, 1, strings.Repeat("a", 4000)+":x")
	if n := testing.AllocsPerRun(100, func() { stunUfrag(long) }); n != 0 {
		t.Errorf("%v allocations for a name that is too long", n)
	}
}

// TestMuxLivingPairs: a pair that answers no more is forgotten.
func TestMuxLivingPairs(t *testing.T) {
	checkLeaks(t)
	m := testMux(t, 4)
	c := muxConnOf(t, m, "alice")
	old, young := netip.MustParseAddrPort("192.0.2.1:1"), netip.MustParseAddrPort("192.0.2.1:2")
	m.mu.Lock()
	m.addPairLocked(c, old)
	c.pairs[old] = time.Now().Add(-pairLife - time.Second)
	m.addPairLocked(c, young)
	m.mu.Unlock()
	if len(c.pairs) != 1 || m.pairs[young] != c || m.socket.Pairs() != 1 {
		t.Errorf("pairs %v", c.pairs)
	}
}

// TestMuxAddresses: one agent talks with a bounded number of addresses, so that
// its peer cannot have it scan.
func TestMuxAddresses(t *testing.T) {
	checkLeaks(t)
	m := testMux(t, 2)
	c := muxConnOf(t, m, "alice")
	var known []*outside
	for range 2 {
		o := newOutside(t, m.socket)
		o.send(stunMessage(stunRequest, 1, "alice:x"))
		next(t, c)
		if _, err := c.WriteToAddrPort(stunMessage(stunSuccess, 1, ""), o.addr()); err != nil {
			t.Fatal(err)
		}
		known = append(known, o)
	}
	third := newOutside(t, m.socket)
	third.send(stunMessage(stunRequest, 1, "alice:x"))
	eventually(t, 2*time.Second, "a third address is dropped", func() bool { return m.dropped() == 1 })
	if _, err := c.WriteToAddrPort(stunMessage(stunRequest, 2, "x:alice"), third.addr()); err == nil {
		t.Error("a check went to a third address")
	}
	known[0].send(stunMessage(stunRequest, 3, "alice:x"))
	if _, from := next(t, c); from != known[0].addr() {
		t.Errorf("from %v", from)
	}
}

// TestMuxQueue: what nobody reads is bounded, in packets and in checks.
func TestMuxQueue(t *testing.T) {
	checkLeaks(t)
	m := testMux(t, 4)
	c := muxConnOf(t, m, "alice")
	from := netip.MustParseAddrPort("192.0.2.1:1")
	took := 0
	for range queuedPackets + 100 {
		if c.push([]byte("x"), from) {
			took++
		}
	}
	if took != queuedPackets {
		t.Errorf("%d packets are queued", took)
	}
	for i := range 3 * maxRequests {
		m.asked(c, transaction{byte(i), byte(i >> 8)}, from)
	}
	if len(m.requests) != maxRequests || len(c.asked) != maxRequests {
		t.Errorf("%d and %d checks wait for an answer", len(m.requests), len(c.asked))
	}
}

// TestMuxOrder: the ring keeps the order while it grows and turns.
func TestMuxOrder(t *testing.T) {
	checkLeaks(t)
	c := muxConnOf(t, testMux(t, 1), "alice")
	from := netip.MustParseAddrPort("192.0.2.1:1")
	in, out := 0, 0
	buf := make([]byte, maxPacket)
	long := make([]byte, 5000)
	for round := range 200 {
		for range round % 37 {
			p := []byte{byte(in), byte(in >> 8)}
			if in%50 == 0 {
				p = append(p, long...)
			}
			if !c.push(p, from) {
				t.Fatal("no room")
			}
			in++
		}
		for range min(in-out, round%31) {
			n, _, err := c.ReadFromAddrPort(buf)
			if err != nil || int(buf[0])|int(buf[1])<<8 != out || n != 2+len(long)*b2i(out%50 == 0) {
				t.Fatalf("read packet %d of %d bytes, want %d (%v)", int(buf[0])|int(buf[1])<<8, n, out, err)
			}
			out++
		}
	}
}

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
}

// TestSpoofedClientHello: during and after a handshake, DTLS from an address
// that the client has only named, or that is nobody's, does not come through to
// the peer connection, and the tunnel goes on.
func TestSpoofedClientHello(t *testing.T) {
	checkLeaks(t)
	g := testGateway(t, Options{RemoteCandidates: true})
	attacker := newOutside(t, g.socket)
	e := newEnd()
	clientEnd := newEnd()
	client, offer, err := testDialer(DialerConfig{}).Offer(t.Context(), []ChannelSpec{{}}, nil, clientEnd.handler())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close(framecodec.CodeNormal) })
	// The attack of security.md: the client lists the attacker's address.
	named := hostLines([]netip.AddrPort{attacker.addr()})[0]
	server, answer, err := g.Answer(t.Context(), offer+"a="+named+"\r\n", e.handler())
	if err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 1500)
	if _, err := attacker.conn.Read(buf); err != nil || !udp.IsSTUN(buf) {
		t.Fatalf("the named address was not checked: %v", err)
	}
	attacker.send([]byte(clientHello))
	eventually(t, 2*time.Second, "the early ClientHello is dropped", func() bool { return g.socket.Stats().Dropped == 1 })
	if err := client.Accept(answer); err != nil {
		t.Fatal(err)
	}
	c, s := clientEnd.channel(t), e.channel(t)
	for range 10 {
		attacker.send([]byte(clientHello))
	}
	eventually(t, 2*time.Second, "later ones are dropped", func() bool { return g.socket.Stats().Dropped == 11 })
	write(t, c, "unharmed")
	if got := read(t, s); got != "unharmed" || server.Err() != nil {
		t.Errorf("read %q, %v", got, server.Err())
	}
}

// TestManyBetweenTwoProcesses: eight peer connections between one gateway and
// one client, at once (with pion's own muxes at both ends none would work).
func TestManyBetweenTwoProcesses(t *testing.T) {
	checkLeaks(t)
	g, d := testGateway(t, Options{}), testDialer(DialerConfig{})
	pairs := make([]*pair, 8)
	for i := range pairs {
		pairs[i] = begin(t, g, d)
	}
	var all sync.WaitGroup
	for _, p := range pairs {
		from, to := p.clientEnd.channel(t), p.serverEnd.channel(t)
		all.Go(func() { drink(t, to, 256<<10) })
		all.Go(func() { pour(t, from, 256<<10, 16<<10, 256<<10, 1) })
	}
	all.Wait()
}

// TestWriteOfARestart holds that a packet that meets a conn which an ICE restart
// has just closed is lost like any other: pion hands io.ErrClosedPipe up to SCTP,
// which gives up the whole association.
func TestWriteOfARestart(t *testing.T) {
	checkLeaks(t)
	m := testMux(t, 4)
	c := muxConnOf(t, m, "restarted")
	m.RemoveConnByUfrag("restarted")
	if _, err := c.WriteToAddrPort([]byte{20}, m.socket.AddrPort()); !errors.Is(err, net.ErrClosed) || errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("the write failed with %v", err)
	}
}
