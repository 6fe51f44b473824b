package tunnel_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"runtime/debug"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/culvertgate/culvert/framecodec"
	"github.com/culvertgate/culvert/tunnel"
)

var udpTarget = tunnel.Target{Kind: tunnel.KindUDP, Host: "dns.example", Port: 53}

// flowPair is two sessions with a carrier for datagrams. Streams come out at
// accepted, flows at flows.
type flowPair struct {
	client, gateway *tunnel.Session
	a, b            *wire // of the datagrams: the client's end, the gateway's
	accepted        chan net.Conn
	flows           chan *tunnel.DatagramConn
}

func newFlowPair(t *testing.T, change func(client, gateway *tunnel.Config)) *flowPair {
	t.Helper()
	t.Cleanup(func() { goleak.VerifyNone(t) })
	p := &flowPair{accepted: make(chan net.Conn, 16), flows: make(chan *tunnel.DatagramConn, 16)}
	client := tunnel.Config{Dialect: tunnel.Dialect2, Role: tunnel.RoleClient}
	gateway := tunnel.Config{Dialect: tunnel.Dialect2, Role: tunnel.RoleGateway,
		Accept: func(in *tunnel.Incoming) {
			if in.Target().Datagrams() {
				conn, ep := newDatagramConn()
				if in.Attach(ep, "192.0.2.1:53") == nil {
					p.flows <- conn
				}
				return
			}
			conn, ep := newConn()
			if in.Attach(ep, "192.0.2.1:80") == nil {
				p.accepted <- conn
			}
		}}
	if change != nil {
		change(&client, &gateway)
	}
	a, b := newWires()
	p.gateway, p.client = tunnel.NewSession(b, gateway), tunnel.NewSession(a, client)
	p.attach(t)
	t.Cleanup(func() {
		p.client.Close(0, "")
		p.client.Wait()
		p.gateway.Wait()
	})
	return p
}

func (p *flowPair) attach(t *testing.T) {
	t.Helper()
	p.a, p.b = newWires()
	if !p.client.AttachDatagrams(p.a) || !p.gateway.AttachDatagrams(p.b) {
		t.Fatal("the carrier for datagrams was not taken")
	}
}

func newDatagramConn() (*tunnel.DatagramConn, tunnel.Endpoint) {
	return tunnel.NewDatagramConn(someAddr, someAddr)
}

func (p *flowPair) open(t *testing.T) (entry, exit *tunnel.DatagramConn) {
	t.Helper()
	conn, ep := newDatagramConn()
	openFlow(t, p.client, ep)
	return conn, <-p.flows
}

func openFlow(t *testing.T, s *tunnel.Session, ep tunnel.Endpoint) *tunnel.Stream {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	st, err := s.Open(ctx, udpTarget, ep)
	if err != nil {
		t.Fatal("opening:", err)
	}
	return st
}

// receive reads one datagram.
func receive(t *testing.T, c net.Conn) []byte {
	t.Helper()
	_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
	buf := make([]byte, 65536)
	n, err := c.Read(buf)
	if err != nil {
		t.Fatal("no datagram:", err)
	}
	return buf[:n]
}

// ended waits for the end of a connection and returns its code.
func ended(t *testing.T, c net.Conn) tunnel.Code {
	t.Helper()
	_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
	for buf := make([]byte, 1); ; {
		if _, err := c.Read(buf); err != nil {
			return tunnel.CodeOf(err)
		}
	}
}

func TestFlowCarriesDatagrams(t *testing.T) {
	p := newFlowPair(t, nil)
	entry, exit := p.open(t)
	for _, size := range []int{0, 1, 512, 1472, 16 << 10, 16<<10 + 1, tunnel.MaxDatagram} {
		data := randomBytes(size)
		for _, dir := range []struct{ from, to net.Conn }{{entry, exit}, {exit, entry}} {
			if n, err := dir.from.Write(data); n != size || err != nil {
				t.Fatalf("writing %d bytes: %d, %v", size, n, err)
			}
			if got := receive(t, dir.to); !bytes.Equal(got, data) {
				t.Errorf("%d bytes arrived as %d", size, len(got))
			}
		}
	}
	if _, err := entry.Write(make([]byte, tunnel.MaxDatagram+1)); !errors.Is(err, syscall.EMSGSIZE) {
		t.Errorf("a datagram that is too large: %v", err)
	}
	for _, s := range []*tunnel.Session{p.client, p.gateway} {
		if n := s.Stats(); n.DatagramsIn != 7 || n.DatagramsOut != 7 || n.DatagramsDropped != 0 || n.Stray != 0 {
			t.Errorf("counted: %+v", n)
		}
		info := s.Streams()[0]
		if f := info.Flow; f == nil || f.DatagramsIn != 7 || f.DatagramsOut != 7 || f.Lost != 0 || info.Window != 0 || info.Credit != 0 {
			t.Errorf("the flow says %+v, %+v", info, f)
		}
	}
	// A Close comes behind what was written, at least on a path that keeps order.
	_, _ = entry.Write([]byte("last"))
	if got := receive(t, exit); string(got) != "last" {
		t.Errorf("got %q", got)
	}
	_ = entry.Close()
	if code := ended(t, exit); code != framecodec.CodeCancelled {
		t.Errorf("the exit heard %v", code)
	}
	if _, err := exit.Write([]byte("x")); err == nil {
		t.Error("an ended flow takes datagrams")
	}
	waitFor(t, func() bool { return p.client.Stats().Streams+p.gateway.Stats().Streams == 0 })
}

// What stands still in a stream does not hold up a flow, and the other way round.
func TestFlowBesideStalledStream(t *testing.T) {
	p := newFlowPair(t, nil)
	conn, ep := newConn()
	if _, err := p.client.Open(t.Context(), duoTarget, ep); err != nil {
		t.Fatal(err)
	}
	stalled := <-p.accepted // never read
	go func() { _, _ = conn.Write(make([]byte, 8<<20)) }()
	waitFor(t, func() bool { return p.gateway.Stats().Queued > 200<<10 })
	entry, exit := p.open(t)
	for i := range 1000 {
		_, _ = entry.Write(fmt.Append(nil, i))
		if got := receive(t, exit); string(got) != fmt.Sprint(i) {
			t.Fatalf("got %q, want %d", got, i)
		}
	}
	_, _ = conn.Close(), stalled.Close()
}

// heldEnd is the Endpoint of a target that takes nothing until it is let.
type heldEnd struct {
	ready tunnel.Readiness
	open  atomic.Bool
	took  chan string
}

func (e *heldEnd) Bind(r tunnel.Readiness)     { e.ready = r }
func (e *heldEnd) TryRead([]byte) (int, error) { return 0, tunnel.ErrWouldBlock }
func (e *heldEnd) CloseWrite() error           { return nil }
func (e *heldEnd) Close(tunnel.Code)           {}
func (e *heldEnd) TryWrite(p []byte) (int, error) {
	if !e.open.Load() {
		return 0, tunnel.ErrWouldBlock
	}
	e.took <- string(p)
	return len(p), nil
}

// recordHead is what a queue takes for each datagram besides its payload.
const recordHead = 6

// fullAt64 is the payload of which a queue's 64 KiB are 64 datagrams, so that as
// many stay whatever their age.
const fullAt64 = 1<<10 - recordHead

// Whoever takes too slowly loses the oldest; see TestDatagramQueue for how many
// stay.
func TestFlowDropsTheOldest(t *testing.T) {
	for _, tc := range []struct {
		name       string
		size, stay int
	}{{"small ones", fullAt64, 64}, {"large ones", 3000, 21}} {
		t.Run(tc.name, func(t *testing.T) {
			end := &heldEnd{took: make(chan string, 1000)}
			budget := tunnel.NewBudget(nil, 64<<20)
			p := newFlowPair(t, func(_, gateway *tunnel.Config) {
				gateway.Budget = budget
				gateway.Accept = func(in *tunnel.Incoming) { _ = in.Attach(end, "") }
			})
			conn, ep := newDatagramConn()
			openFlow(t, p.client, ep)
			const all = 200
			for i := range all {
				_, _ = conn.Write(binary.BigEndian.AppendUint32(make([]byte, tc.size-4), uint32(i)))
				waitFor(t, func() bool { return p.gateway.Stats().DatagramsIn == uint64(i+1) })
			}
			dropped := uint64(all - tc.stay)
			if n := p.gateway.Stats().DatagramsDropped; n != dropped {
				t.Errorf("%d dropped, want %d", n, dropped)
			}
			if used := budget.Used() - tunnel.MinSessionMemory; used != int64((tc.size+recordHead)*tc.stay) {
				t.Errorf("%d bytes are accounted for", used)
			}
			end.open.Store(true)
			end.ready.Writable()
			for i := all - tc.stay; i < all; i++ {
				got := <-end.took
				if n := binary.BigEndian.Uint32([]byte(got)[tc.size-4:]); n != uint32(i) || len(got) != tc.size {
					t.Fatalf("datagram %d of %d bytes, want %d", n, len(got), i)
				}
			}
			waitFor(t, func() bool { return budget.Used() == tunnel.MinSessionMemory })
			if f := p.gateway.Streams()[0].Flow; f.Dropped != dropped {
				t.Errorf("the flow says %+v", f)
			}
		})
	}
}

// A connection that drops because the flow, or its reader, is too slow says so in
// the flow's figures: entries have such connections.
func TestFlowCountsWhatItsConnectionDrops(t *testing.T) {
	p := newFlowPair(t, nil)
	conn, ep := newDatagramConn()
	packet := make([]byte, fullAt64)
	for range 100 {
		_, _ = conn.Write(packet) // the flow is not open yet: 64 stay
	}
	openFlow(t, p.client, ep)
	if f := p.client.Streams()[0].Flow; f.Dropped != 36 {
		t.Errorf("written too early: %+v, want 36 dropped", f)
	}
	waitFor(t, func() bool { return p.gateway.Stats().DatagramsIn == 64 })
	for i := range 100 {
		_, _ = conn.Write(packet) // nobody reads them there: 64 stay of all 164
		waitFor(t, func() bool { return p.gateway.Stats().DatagramsIn == uint64(64+i+1) })
	}
	if f := p.gateway.Streams()[0].Flow; f.Dropped != 100 {
		t.Errorf("not read: %+v, want 100 dropped", f)
	}
}

// What a peer sends before the exit has dialled waits for it; what still waits at
// the flow's end gives its memory back.
func TestFlowWaitsForItsTarget(t *testing.T) {
	asked := make(chan *tunnel.Incoming, 2)
	r := newRaw(t, tunnel.Dialect2, tunnel.RoleGateway, func(cfg *tunnel.Config) {
		cfg.Accept = func(in *tunnel.Incoming) { asked <- in }
	})
	r.send(flowHello)
	r.await(framecodec.MsgHello)
	a, d := newWires()
	if !r.s.AttachDatagrams(a) {
		t.Fatal("not taken")
	}
	for _, n := range []uint32{1, 3} {
		r.send(framecodec.Open{Conn: n, Kind: framecodec.KindUDP, Host: []byte("x"), Port: 53})
	}
	first, second := <-asked, <-asked
	for _, n := range []uint32{1, 3} {
		_ = d.WriteMessage(framecodec.AppendFrame(nil, n, 0, []byte("early")))
	}
	waitFor(t, func() bool { return r.s.Stats().DatagramsIn == 2 })
	used := func() int64 { return r.budget.Used() - tunnel.MinSessionMemory }
	if used() != 2*(5+recordHead) {
		t.Errorf("%d bytes wait", used())
	}
	exit, ep := newDatagramConn()
	if err := first.Attach(ep, "192.0.2.1:53"); err != nil {
		t.Fatal(err)
	}
	if got := receive(t, exit); string(got) != "early" {
		t.Errorf("got %q", got)
	}
	waitFor(t, func() bool { return used() == 5+recordHead })
	second.Refuse(framecodec.CodeRefused, "")
	waitFor(t, func() bool { return used() == 0 })
	if n := r.s.Stats().DatagramsDropped; n != 1 {
		t.Errorf("%d dropped", n)
	}
}

// flowHello is the Hello of a peer that carries datagrams.
var flowHello = hello(func(h *framecodec.Hello) { h.Features = framecodec.FeatureDatagrams })

// A carrier without room loses the oldest datagrams, of each flow its own, and
// goes on with the newest when there is room, also where that is used up before
// they have all gone.
func TestFlowWithoutRoom(t *testing.T) {
	for name, pause := range map[string]time.Duration{"room for all": 0, "room for a few at a time": time.Millisecond} {
		t.Run(name, func(t *testing.T) { flowWithoutRoom(t, pause) })
	}
}

func flowWithoutRoom(t *testing.T, pause time.Duration) {
	client, gateway := newWires()
	budget := tunnel.NewBudget(nil, 64<<20)
	accept := make(chan *tunnel.Incoming, 2)
	g := tunnel.NewSession(gateway, tunnel.Config{Dialect: tunnel.Dialect2, Role: tunnel.RoleGateway,
		Accept: func(in *tunnel.Incoming) { accept <- in }})
	s := tunnel.NewSession(client, tunnel.Config{Dialect: tunnel.Dialect2, Role: tunnel.RoleClient, Budget: budget})
	a, b := newWires() // nobody reads b
	if !s.AttachDatagrams(a) {
		t.Fatal("not taken")
	}
	defer func() {
		s.Close(0, "")
		s.Wait()
		g.Wait()
		goleak.VerifyNone(t)
	}()
	conns := make([]*tunnel.DatagramConn, 2)
	for i := range conns {
		conn, ep := newDatagramConn()
		conns[i] = conn
		go func() { _ = (<-accept).Attach(stuckEnd{}, "") }()
		openFlow(t, s, ep)
	}
	filler := bytes.Repeat([]byte{0xff}, 32<<10)
	waitFor(t, func() bool {
		_, _ = conns[0].Write(filler)
		return conns[0].Unsent() == 0 && s.Stats().DatagramsDropped > 0
	})
	before := s.Stats().DatagramsOut
	for i := range 300 {
		for _, c := range conns {
			_, _ = c.Write(binary.BigEndian.AppendUint32(make([]byte, fullAt64-4), uint32(i)))
		}
		// None waits in the connection, where it would be dropped too.
		waitFor(t, func() bool { return conns[0].Unsent()+conns[1].Unsent() == 0 })
	}
	if n := s.Stats().DatagramsOut; n != before {
		t.Errorf("%d datagrams were sent without room", n-before)
	}
	// Now somebody reads.
	var got [2][]uint32
	ids := map[uint32]int{1: 0, 3: 1}
	buf := make([]byte, 65536)
	stuck := time.AfterFunc(10*time.Second, func() { _ = b.Close(0) })
	defer stuck.Stop()
	for len(got[0]) < 64 || len(got[1]) < 64 {
		time.Sleep(pause) // the sender fills the room meanwhile
		if err := b.Wait(); err != nil {
			t.Fatalf("%d and %d datagrams came, then: %v", len(got[0]), len(got[1]), err)
		}
		n, err := b.ReadMessage(buf)
		if err != nil {
			t.Fatal(err)
		}
		var f framecodec.Frame
		if used, err := f.Parse(buf[:n], framecodec.MaxPayload2); err != nil || used != n {
			t.Fatalf("%d of %d bytes: %v", used, n, err)
		}
		if len(f.Payload) == fullAt64 {
			i := ids[f.Conn]
			got[i] = append(got[i], binary.BigEndian.Uint32(f.Payload[fullAt64-4:]))
		}
	}
	for i, list := range got {
		if len(list) != 64 || list[0] != 236 || list[63] != 299 {
			t.Errorf("flow %d: %d arrived, from %d to %d", i, len(list), list[0], list[len(list)-1])
		}
	}
	waitFor(t, func() bool { return budget.Used() == tunnel.MinSessionMemory })
}

// Each flow ends when nothing has moved for long enough; streams do not.
func TestFlowIdle(t *testing.T) {
	p := newFlowPair(t, func(client, _ *tunnel.Config) { client.FlowIdleTimeout = 300 * time.Millisecond })
	conn, ep := newConn()
	if _, err := p.client.Open(t.Context(), duoTarget, ep); err != nil {
		t.Fatal(err)
	}
	entry, exit := p.open(t)
	if code := ended(t, entry); code != framecodec.CodeIdleTimeout {
		t.Errorf("the entry heard %v", code)
	}
	if code := ended(t, exit); code != framecodec.CodeIdleTimeout {
		t.Errorf("the exit heard %v", code)
	}
	_ = conn.Close()
	_ = (<-p.accepted).Close()
}

// A carrier that ends takes the flows along, nothing else, and another may come.
func TestFlowsEndWithTheirCarrier(t *testing.T) {
	p := newFlowPair(t, nil)
	conn, ep := newConn()
	if _, err := p.client.Open(t.Context(), duoTarget, ep); err != nil {
		t.Fatal(err)
	}
	other := <-p.accepted
	entry, exit := p.open(t)
	spare, end := newWires()
	if p.client.AttachDatagrams(spare) {
		t.Error("a second carrier was taken")
	}
	if end.Wait() == nil {
		t.Error("and is not closed")
	}
	_ = p.a.Close(0)
	for _, c := range []net.Conn{entry, exit} {
		if code := ended(t, c); code != framecodec.CodeTunnelClosed {
			t.Errorf("ended with %v", code)
		}
	}
	waitFor(t, func() bool { return !p.client.HasDatagrams() && !p.gateway.HasDatagrams() })
	p.attach(t)
	entry, exit = p.open(t)
	_, _ = entry.Write([]byte("again"))
	if got := receive(t, exit); string(got) != "again" {
		t.Errorf("got %q", got)
	}
	_, _ = conn.Write([]byte("still"))
	_ = conn.CloseWrite()
	readAll(t, other, "still")
	_ = other.Close()
}

// Memory of the process that is used up costs datagrams, not flows.
func TestFlowWithoutMemory(t *testing.T) {
	end := &heldEnd{took: make(chan string, 10)}
	budget := tunnel.NewBudget(nil, 64<<20)
	p := newFlowPair(t, func(_, gateway *tunnel.Config) {
		gateway.Budget = budget
		gateway.Accept = func(in *tunnel.Incoming) { _ = in.Attach(end, "") }
	})
	conn, ep := newDatagramConn()
	openFlow(t, p.client, ep)
	budget.SetLimit(budget.Used() + 4 + 1 + 2*recordHead)
	for i, text := range []string{"four", "more", "x"} {
		_, _ = conn.Write([]byte(text))
		waitFor(t, func() bool { return p.gateway.Stats().DatagramsIn == uint64(i+1) })
	}
	end.open.Store(true)
	end.ready.Writable()
	if a, b := <-end.took, <-end.took; a != "four" || b != "x" {
		t.Errorf("%q and %q stayed", a, b)
	}
}

func TestFlowRefused(t *testing.T) {
	t.Run("dialect 1", func(t *testing.T) {
		p := newPair(t, tunnel.Dialect1)
		a, b := newWires()
		if p.client.AttachDatagrams(a) || b.Wait() == nil {
			t.Error("a carrier for datagrams was taken")
		}
		flowRefused(t, p.client)
	})
	t.Run("the peer carries none", func(t *testing.T) {
		r := newRaw(t, tunnel.Dialect2, tunnel.RoleClient, nil)
		greeted := make(chan struct{})
		go func() {
			defer close(greeted)
			r.greet()
		}()
		flowRefused(t, r.s)
		<-greeted
	})
	t.Run("a peer that did not say so asks for one", func(t *testing.T) {
		r := newRaw(t, tunnel.Dialect2, tunnel.RoleGateway, nil)
		r.greet()
		r.send(framecodec.Open{Conn: 1, Kind: framecodec.KindUDP, Host: []byte("x"), Port: 53})
		m, err := framecodec.ParseReset(r.await(framecodec.MsgReset))
		if err != nil || m.Conn != 1 || m.Code != framecodec.CodeNotAllowed {
			t.Errorf("%+v, %v", m, err)
		}
		r.open(3)
	})
	t.Run("the session has ended", func(t *testing.T) {
		p := newFlowPair(t, nil)
		p.client.Close(framecodec.CodeDraining, "")
		p.client.Wait()
		conn, ep := newDatagramConn()
		if _, err := p.client.Open(t.Context(), udpTarget, ep); tunnel.CodeOf(err) != framecodec.CodeDraining {
			t.Errorf("opening: %v", err)
		}
		if code := ended(t, conn); code != framecodec.CodeDraining {
			t.Errorf("the connection heard %v", code)
		}
	})
}

func flowRefused(t *testing.T, s *tunnel.Session) {
	t.Helper()
	conn, ep := newDatagramConn()
	if _, err := s.Open(t.Context(), udpTarget, ep); tunnel.CodeOf(err) != framecodec.CodeNotAllowed {
		t.Errorf("opening: %v", err)
	}
	if code := ended(t, conn); code != framecodec.CodeNotAllowed {
		t.Errorf("the connection heard %v", code)
	}
}

// What breaks the rules of datagrams ends the stream or the session that it
// concerns; what only came at the wrong time is dropped.
func TestFlowViolations(t *testing.T) {
	frame := func(n uint32, word uint64, p string) []byte { return framecodec.AppendFrame(nil, n, word, []byte(p)) }
	for _, tc := range []struct {
		name   string
		act    func(r *raw, d *wire) // stream 1 and flow 3 are open
		stream uint32                // that ends of it
		all    bool                  // the session ends
		stray  uint64
	}{
		{name: "number 0", act: func(_ *raw, d *wire) { _ = d.WriteMessage(frame(0, 0, "x")) }, all: true},
		{name: "garbage", act: func(_ *raw, d *wire) { _ = d.WriteMessage([]byte("garbage")) }, all: true},
		{name: "a frame that is cut", act: func(_ *raw, d *wire) { _ = d.WriteMessage(frame(3, 0, "cut")[:18]) }, all: true},
		{name: "a wrong terminator", act: func(_ *raw, d *wire) { _ = d.WriteMessage(append(frame(3, 0, "x")[:17], 'x')) }, all: true},
		{name: "of a stream", act: func(_ *raw, d *wire) { _ = d.WriteMessage(frame(1, 0, "x")) }, stream: 1},
		{name: "on the streams' channel", act: func(r *raw, _ *wire) { r.write(frame(3, 0, "x")) }, stream: 3},
		{name: "larger than UDP has", act: func(_ *raw, d *wire) {
			_ = d.WriteMessage(frame(3, 0, string(make([]byte, tunnel.MaxDatagram+1))))
		}, stream: 3},
		{name: "a Finish", act: func(r *raw, _ *wire) { r.send(framecodec.Finish{Conn: 3}) }, stream: 3},
		{name: "before its Open", act: func(_ *raw, d *wire) { _ = d.WriteMessage(frame(5, 0, "x")) }, stray: 1},
		{name: "of the gateway's side", act: func(_ *raw, d *wire) { _ = d.WriteMessage(frame(2, 0, "x")) }, stray: 1},
		{name: "two in a message, one of them lost", act: func(_ *raw, d *wire) {
			_ = d.WriteMessage(append(frame(3, 7, "x"), frame(99, 0, "y")...))
		}, stray: 1},
		{name: "a Window", act: func(r *raw, _ *wire) { r.send(framecodec.Window{Conn: 3, Consumed: 9, Limit: 0}) }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := newRaw(t, tunnel.Dialect2, tunnel.RoleGateway, nil)
			r.send(flowHello)
			r.await(framecodec.MsgHello)
			r.open(1)
			r.send(framecodec.Open{Conn: 3, Kind: framecodec.KindUDP, Host: []byte("x"), Port: 53})
			r.await(framecodec.MsgOpened)
			a, d := newWires()
			if !r.s.AttachDatagrams(a) {
				t.Fatal("not taken")
			}
			tc.act(r, d)
			switch {
			case tc.all:
				m, err := framecodec.ParseClose(r.await(framecodec.MsgClose))
				if err != nil || m.Code != framecodec.CodeProtocolError {
					t.Errorf("%+v, %v", m, err)
				}
				return
			case tc.stream != 0:
				m, err := framecodec.ParseReset(r.await(framecodec.MsgReset))
				if err != nil || m.Conn != tc.stream || m.Code != framecodec.CodeProtocolError {
					t.Errorf("%+v, %v", m, err)
				}
			}
			waitFor(t, func() bool { return r.s.Stats().Stray == tc.stray })
			r.open(5) // it lives
			want := 3
			if tc.stream != 0 {
				want--
			}
			if n := r.s.Stats().Streams; n != want {
				t.Errorf("%d streams are left, want %d", n, want)
			}
		})
	}
}

func TestDatagramConnDeadlineAndClose(t *testing.T) {
	conn, _ := newDatagramConn()
	buf := make([]byte, 8)
	_ = conn.SetDeadline(time.Now().Add(20 * time.Millisecond))
	if _, _, err := conn.ReadFrom(buf); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("read: %v", err)
	}
	_ = conn.SetReadDeadline(time.Time{})
	read := make(chan error, 2)
	for range 2 {
		go func() {
			_, err := conn.Read(make([]byte, 8))
			read <- err
		}()
	}
	_ = conn.Close()
	for range 2 {
		if err := <-read; !errors.Is(err, net.ErrClosed) {
			t.Errorf("read: %v", err)
		}
	}
	if _, err := conn.WriteTo([]byte("x"), someAddr); !errors.Is(err, net.ErrClosed) {
		t.Errorf("write: %v", err)
	}
}

// TestDatagramConnGivesBackItsMemory: a connection whose flow was never opened keeps
// nothing of its budget when it is closed, neither what was written before that nor
// what a Bind comes too late for. Behind a flow that was opened, what was written
// still goes out.
func TestDatagramConnGivesBackItsMemory(t *testing.T) {
	for _, c := range []struct {
		name         string
		before, late bool // the flow is opened before Close, after it
		sent         int  // datagrams that go out
	}{
		{"never opened", false, false, 0},
		{"opened too late", false, true, 0},
		{"opened", true, false, 3},
	} {
		t.Run(c.name, func(t *testing.T) {
			budget := tunnel.NewBudget(nil, 1<<20)
			conn, ep := tunnel.NewDatagramConnWithin(budget, someAddr, someAddr)
			if c.before {
				ep.Bind(deafReadiness{})
			}
			for range 3 {
				if _, err := conn.Write(make([]byte, 9000)); err != nil {
					t.Fatal(err)
				}
			}
			if budget.Used() < 27000 {
				t.Fatalf("%d bytes are charged: nothing is tried", budget.Used())
			}
			_ = conn.Close()
			if c.late {
				ep.Bind(deafReadiness{})
			}
			sent := 0
			if c.before || c.late {
				buf := make([]byte, tunnel.MaxDatagram)
				var err error
				for {
					if _, err = ep.TryRead(buf); err != nil {
						break
					}
					sent++
				}
				if tunnel.CodeOf(err) != framecodec.CodeCancelled {
					t.Errorf("the flow ends with %v, want cancelled", err)
				}
			}
			if sent != c.sent {
				t.Errorf("%d datagrams go out, want %d", sent, c.sent)
			}
			if used := budget.Used(); used != 0 {
				t.Errorf("%d bytes stay charged", used)
			}
		})
	}
}

// deafReadiness has no use for signals.
type deafReadiness struct{}

func (deafReadiness) Readable() {}
func (deafReadiness) Writable() {}

// datagramPump is a pump that gives datagrams until it is empty.
type datagramPump struct{ pump }

func (e *datagramPump) TryRead([]byte) (int, error) {
	if e.left.Add(-1) < 0 {
		return 0, tunnel.ErrWouldBlock
	}
	return e.size, nil
}

// No allocation per datagram on the way Endpoint, Carrier, Endpoint.
func TestGateDatagramAllocations(t *testing.T) {
	if raceEnabled {
		t.Skip("sync.Pool drops values at random under the race detector")
	}
	defer debug.SetGCPercent(debug.SetGCPercent(-1)) // a collection empties the pools
	entry, exit := &datagramPump{pump{size: 200}}, &datagramPump{pump{size: 200}}
	p := newFlowPair(t, func(_, gateway *tunnel.Config) {
		gateway.Accept = func(in *tunnel.Incoming) { _ = in.Attach(exit, "") }
	})
	openFlow(t, p.client, entry)
	give := func(from, to *datagramPump, n int) {
		for range n / 50 {
			want := to.took.Load() + 50*int64(from.size)
			from.left.Store(50)
			from.ready.Readable()
			for to.took.Load() < want {
				runtime.Gosched()
			}
		}
	}
	give(entry, exit, 2000)
	give(exit, entry, 2000)
	const frames = 20_000
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	give(entry, exit, frames/2)
	give(exit, entry, frames/2)
	runtime.ReadMemStats(&after)
	per := float64(after.Mallocs-before.Mallocs) / frames
	t.Logf("%.4f allocations a datagram", per)
	if per > 0.01 {
		t.Errorf("%.4f allocations a datagram", per)
	}
}

// What an opener sends at once waits until the other side knows the flow: the
// carrier for datagrams may overtake the Open.
func TestFlowFirstDatagramsArrive(t *testing.T) {
	asked := make(chan *tunnel.Incoming, 1)
	p := newFlowPair(t, func(_, gateway *tunnel.Config) {
		gateway.Accept = func(in *tunnel.Incoming) { asked <- in }
	})
	for i := range 200 {
		conn, ep := newDatagramConn()
		for range 3 {
			_, _ = conn.Write([]byte("at once"))
		}
		opened := make(chan error, 1)
		go func() {
			_, err := p.client.Open(t.Context(), udpTarget, ep)
			opened <- err
		}()
		in := <-asked
		if i == 0 { // nothing goes out before the answer
			time.Sleep(20 * time.Millisecond)
			if n := p.client.Stats().DatagramsOut; n != 0 {
				t.Fatalf("%d datagrams were sent before the answer", n)
			}
		}
		exit, end := newDatagramConn()
		_ = in.Attach(end, "")
		for range 3 {
			if got := receive(t, exit); string(got) != "at once" {
				t.Fatalf("got %q", got)
			}
		}
		if err := <-opened; err != nil {
			t.Fatal(err)
		}
		_ = conn.Close()
	}
	if n := p.gateway.Stats().Stray; n != 0 {
		t.Errorf("%d datagrams came before their Open", n)
	}
}

// Flows that come and go before there is a carrier for datagrams leave nothing
// behind, and one that had something to say says it when there is.
func TestFlowBeforeItsCarrier(t *testing.T) {
	r := newRaw(t, tunnel.Dialect2, tunnel.RoleGateway, func(cfg *tunnel.Config) {
		cfg.MaxStreams = 4
		cfg.Accept = func(in *tunnel.Incoming) {
			conn, ep := newDatagramConn()
			_, _ = conn.Write([]byte("first"))
			_ = in.Attach(ep, "")
		}
	})
	r.send(flowHello)
	r.await(framecodec.MsgHello)
	const all = 3000 // more than may wait to be forgotten
	for n := uint32(1); n < 2*all; n += 2 {
		r.send(framecodec.Open{Conn: n, Kind: framecodec.KindUDP, Host: []byte("x"), Port: 53})
		r.await(framecodec.MsgOpened)
		r.send(framecodec.Reset{Conn: n, Code: framecodec.CodeCancelled})
	}
	r.send(framecodec.Open{Conn: 2*all + 1, Kind: framecodec.KindUDP, Host: []byte("x"), Port: 53})
	r.await(framecodec.MsgOpened)
	a, d := newWires()
	if !r.s.AttachDatagrams(a) {
		t.Fatal("not taken")
	}
	if err := d.Wait(); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 100)
	n, err := d.ReadMessage(buf)
	if want := framecodec.AppendFrame(nil, 2*all+1, 0, []byte("first")); err != nil || !bytes.Equal(buf[:n], want) {
		t.Errorf("% x, %v; want % x", buf[:n], err, want)
	}
}
