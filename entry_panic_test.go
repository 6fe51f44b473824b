package culvert

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/mholt/caddy-l4/layer4"
	"go.uber.org/goleak"
	"go.uber.org/zap"

	"github.com/culvertgate/culvert/internal/testkit"
	"github.com/culvertgate/culvert/socks5"
	"github.com/culvertgate/culvert/tunnel"
)

// survive runs f as an entry does: its panic ends what it served.
func survive(f func()) {
	defer func() { _ = recover() }()
	f()
}

// TestPanicGivesFlowsMemoryBack: what a client has said in a flow that panics before
// it is open counts no longer, in a table and at an entry.
func TestPanicGivesFlowsMemoryBack(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	t.Run("table", func(t *testing.T) {
		said := make(chan struct{})
		table := flowTable[string]{
			room: make(flowRoom, 1), guard: survive, memory: tunnel.NewBudget(nil, 1<<20),
			open: func(context.Context, tunnel.Target, tunnel.Endpoint) error {
				<-said
				panic("a test")
			},
		}
		table.init()
		conn := table.add("a", tunnel.Target{Kind: tunnel.KindNamedDatagram, Host: "dns"}, nil)
		if _, err := conn.Write([]byte("hello")); err != nil || table.memory.Used() == 0 {
			t.Errorf("%d bytes count (%v), want some", table.memory.Used(), err)
		}
		close(said)
		table.close()
		if used := table.memory.Used(); used != 0 {
			t.Errorf("%d bytes count for ever", used)
		}
	})
	t.Run("entry", func(t *testing.T) {
		h := newHub(listenAddress{"udp", "127.0.0.1:0"})
		h.memory.SetLimit(1 << 20)
		starting, broken := testEnvironment(t), testEnvironment(t)
		broken.running = map[string]*pooledRemote{"office": {}} // panics when it is asked for a client
		h.newest.Store(broken)
		e := &Entry{Remote: "office", hub: h, env: starting, target: tunnel.Target{Kind: tunnel.KindNamed, Host: "dns"}}
		peer, err := net.ListenPacket("udp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer peer.Close()
		conn, err := net.Dial("udp", peer.LocalAddr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		done := make(chan error, 1)
		go func() { done <- e.Handle(layer4.WrapConnection(conn, nil, zap.NewNop()), nil) }()
		if _, err := peer.WriteTo([]byte("hello"), conn.LocalAddr()); err != nil {
			t.Fatal(err)
		}
		testkit.Eventually(t, 10*time.Second, func() error {
			if h.memory.Used() == 0 {
				return errors.New("nothing counts")
			}
			return nil
		})
		close(starting.attached)
		if err := <-done; err != nil {
			t.Error(err)
		}
		if used := h.memory.Used(); used != 0 {
			t.Errorf("%d bytes count for ever", used)
		}
	})
}

// TestPanicEndsAssociation: an association whose socket nobody reads any more ends the
// client's connection, so that it asks for another.
func TestPanicEndsAssociation(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	client, control := accepted(t)
	socket, _, err := bindAssociation(control, netip.AddrPort{})
	if err != nil {
		t.Fatal(err)
	}
	a := newAssociation(socket, nil, nil, func(func()) {
		survive(func() { panic("a test") })
	})
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		a.serve(control, socks5.Request{})
	}()
	_ = client.SetReadDeadline(time.Now().Add(10 * time.Second))
	if _, err := client.Read(make([]byte, 1)); errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error("the client's connection goes on")
	}
	_ = client.Close()
	<-ended
}
