package tunnel_test

import (
	"net"
	"testing"

	"github.com/culvertgate/culvert/framecodec"
	"github.com/culvertgate/culvert/tunnel"
)

// bridged is a stream of one tunnel joined to one of another: near opened it, far
// serves it.
type bridged struct {
	near, far *reversePair
	budget    *tunnel.Budget
}

// newBridged is two tunnels of one gateway, which joins every stream of the first
// client to a service of the second.
func newBridged(t *testing.T) *bridged {
	t.Helper()
	b := &bridged{budget: tunnel.NewBudget(nil, 1<<30)}
	b.far = newReversePair(t, nil)
	b.near = newReversePair(t, func(_, gateway *tunnel.Config) {
		gateway.Accept = func(in *tunnel.Incoming) {
			bridge := tunnel.NewBridge
			if in.Target().Datagrams() {
				bridge = tunnel.NewDatagramBridge
			}
			a, far := bridge(b.budget)
			go func() {
				if err := openBy(t, b.far.gateway, in.Target(), far); err != nil {
					a.Close(tunnel.CodeOf(err))
					in.Refuse(tunnel.CodeOf(err), "")
					return
				}
				_ = in.Attach(a, "")
			}()
		}
	})
	t.Cleanup(func() { // before each pair looks for what the other left
		for _, s := range []*tunnel.Session{b.near.client, b.far.client} {
			s.Close(0, "")
			s.Wait()
		}
		b.near.gateway.Wait()
		b.far.gateway.Wait()
	})
	b.far.expose(t, "x")
	return b
}

func (b *bridged) open(t *testing.T, kind tunnel.Kind) (near, far net.Conn) {
	t.Helper()
	var conn net.Conn
	var ep tunnel.Endpoint
	if kind == tunnel.KindNamed {
		conn, ep = newConn()
	} else {
		conn, ep = newDatagramConn()
	}
	if err := openBy(t, b.near.client, tunnel.Target{Kind: kind, Host: "x"}, ep); err != nil {
		t.Fatal(err)
	}
	return conn, <-b.far.served
}

func (b *bridged) empty() bool {
	return b.near.client.Stats().Streams+b.near.gateway.Stats().Streams+b.far.client.Stats().Streams+b.far.gateway.Stats().Streams == 0 &&
		b.budget.Used() == 0
}

func TestBridgeCarries(t *testing.T) {
	b := newBridged(t)
	data := randomBytes(6 << 20)
	const streams = 4
	results := make(chan error, streams)
	for range streams {
		near, far := b.open(t, tunnel.KindNamed)
		go echo(far)
		go func() { results <- exchangeAll(near, data) }()
	}
	for range streams {
		if err := <-results; err != nil {
			t.Error(err)
		}
	}
	waitFor(t, b.empty)
}

func TestBridgeCarriesDatagrams(t *testing.T) {
	b := newBridged(t)
	if _, err := exposeBy(t, b.far.client, tunnel.KindNamedDatagram, "d"); err != nil {
		t.Fatal(err)
	}
	near, far := b.open(t, tunnel.KindNamedDatagram)
	for range 200 {
		for _, way := range [][2]net.Conn{{near, far}, {far, near}} {
			if _, err := way[0].Write([]byte("x")); err != nil {
				t.Fatal(err)
			}
			if got := receive(t, way[1]); string(got) != "x" {
				t.Fatalf("%q came", got)
			}
		}
	}
	_ = near.Close()
	if code := ended(t, far); code != framecodec.CodeCancelled {
		t.Errorf("the flow ended with %v", code)
	}
	waitFor(t, b.empty)
}

// TestBridgeEnds: an abrupt end passes through with its code, also to a stream that
// has neither credit nor anything to say.
func TestBridgeEnds(t *testing.T) {
	const cancelled, lost = framecodec.CodeCancelled, framecodec.CodeTunnelLost
	for name, test := range map[string]struct {
		act       func(b *bridged, near, far net.Conn)
		near, far tunnel.Code
	}{
		"the server resets": {func(b *bridged, _, _ net.Conn) {
			b.far.client.EachStream(func(st *tunnel.Stream) { st.Reset(framecodec.CodeTargetClosed, "") })
		}, framecodec.CodeTargetClosed, framecodec.CodeTargetClosed},
		"the opener resets": {func(b *bridged, _, _ net.Conn) {
			b.near.client.EachStream(func(st *tunnel.Stream) { st.Reset(cancelled, "") })
		}, cancelled, cancelled},
		"the server's tunnel is closed": {func(b *bridged, _, _ net.Conn) { b.far.client.Close(framecodec.CodeTunnelClosed, "") }, lost, framecodec.CodeTunnelClosed},
		"the opener's tunnel is closed": {func(b *bridged, _, _ net.Conn) { b.near.client.Close(framecodec.CodeTunnelClosed, "") }, framecodec.CodeTunnelClosed, lost},
		"an admin ends the server's":    {func(b *bridged, _, _ net.Conn) { b.far.gateway.Close(framecodec.CodeClosedByAdmin, "") }, framecodec.CodeClosedByAdmin, framecodec.CodeClosedByAdmin},
	} {
		for _, full := range []bool{false, true} {
			t.Run(name, func(t *testing.T) {
				b := newBridged(t)
				near, far := b.open(t, tunnel.KindNamed)
				if full { // nobody reads: all windows are full, and the bridge is half full or more
					for _, c := range []net.Conn{near, far} {
						go func() { _, _ = c.Write(make([]byte, 64<<20)) }()
					}
					waitFor(t, func() bool { return b.budget.Used() >= 64<<10 })
				}
				test.act(b, near, far)
				if got := ended(t, far); got != test.far {
					t.Errorf("at the server: %v, want %v", got, test.far)
				}
				if got := ended(t, near); got != test.near {
					t.Errorf("at the opener: %v, want %v", got, test.near)
				}
				waitFor(t, func() bool { return b.budget.Used() == 0 })
			})
		}
	}
}
