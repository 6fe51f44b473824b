package culvert

import (
	"net/netip"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/culvertgate/culvert/tunnel"
	"github.com/culvertgate/culvert/tunnel/signal"
)

func shake(identity, ip string) *handshake {
	a := netip.MustParseAddr(ip)
	return &handshake{keys: [2]clientKey{identityKey("gw", identity, a), addressKey(a)}, since: time.Now()}
}

func TestHandshakesPerClient(t *testing.T) {
	for name, test := range map[string]struct {
		first, second [2]string // identity, address
		admitted      bool
	}{
		"same identity":                {[2]string{"alice", "192.0.2.1"}, [2]string{"alice", "192.0.2.2"}, false},
		"same address":                 {[2]string{"alice", "192.0.2.1"}, [2]string{"bob", "192.0.2.1"}, false},
		"same address, mapped":         {[2]string{"alice", "192.0.2.1"}, [2]string{"bob", "::ffff:192.0.2.1"}, false},
		"same /64":                     {[2]string{"alice", "2001:db8::1"}, [2]string{"bob", "2001:db8::ffff:2"}, false},
		"another /64":                  {[2]string{"alice", "2001:db8::1"}, [2]string{"bob", "2001:db8:0:1::1"}, true},
		"anonymous, another address":   {[2]string{"", "192.0.2.1"}, [2]string{"", "192.0.2.2"}, true},
		"another identity and address": {[2]string{"alice", "192.0.2.1"}, [2]string{"bob", "192.0.2.2"}, true},
	} {
		t.Run(name, func(t *testing.T) {
			var table handshakes
			a, b := shake(test.first[0], test.first[1]), shake(test.second[0], test.second[1])
			if _, ok := table.add(a, 10, 1); !ok {
				t.Fatal("the first was refused")
			}
			if _, ok := table.add(b, 10, 1); ok != test.admitted {
				t.Errorf("second admitted: %v, want %v", ok, test.admitted)
			}
			table.remove(a)
			table.remove(a) // again: counts nothing twice
			if _, ok := table.add(shake(test.second[0], test.second[1]), 10, 2); !ok {
				t.Error("refused although the first is over")
			}
		})
	}
}

// TestHandshakesEvict: when all are in use the oldest of the busiest client goes,
// so that a flood from one address can't keep others out.
func TestHandshakesEvict(t *testing.T) {
	var table handshakes
	quiet := shake("quiet", "192.0.2.9")
	table.add(quiet, 4, 8)
	var flood []*handshake
	for range 3 {
		h := shake("", "192.0.2.1")
		flood = append(flood, h)
		table.add(h, 4, 8)
	}
	evicted, ok := table.add(shake("new", "192.0.2.2"), 4, 8)
	if !ok || evicted != flood[0] {
		t.Fatalf("evicted %p, admitted %v; want the oldest of the flood %p", evicted, ok, flood[0])
	}
	if got := table.len(); got != 4 {
		t.Errorf("%d in flight, want 4", got)
	}
	table.remove(evicted) // its end comes later
	if got := table.len(); got != 4 {
		t.Errorf("%d in flight after the end of the evicted one, want 4", got)
	}
}

func TestIdentities(t *testing.T) {
	process := tunnel.NewBudget(nil, 100)
	var table identities
	alice := clientKey{endpoint: "gw", identity: "alice"}
	aliceElsewhere := clientKey{endpoint: "other", identity: "alice"}
	first, ok := table.add(alice, 2, process, 60)
	if !ok {
		t.Fatal("refused")
	}
	second, ok := table.add(alice, 2, process, 60)
	if !ok || first != second {
		t.Fatal("the tunnels of one identity do not share a budget")
	}
	if _, ok := table.add(alice, 2, process, 60); ok {
		t.Error("a third tunnel was admitted, the limit is 2")
	}
	elsewhere, ok := table.add(aliceElsewhere, 2, process, 60)
	if !ok || elsewhere == first {
		t.Error("alice of another endpoint is somebody else")
	}
	if !first.Reserve(60) || first.Reserve(1) {
		t.Error("the identity's limit of 60 is not held")
	}
	if elsewhere.Reserve(41) {
		t.Error("the process's limit of 100 is not held")
	}
	table.setLimit(10)
	if first.Limit() != 10 {
		t.Error("a new limit does not reach running identities")
	}
	table.remove(alice)
	table.remove(alice)
	if again, _ := table.add(alice, 2, process, 60); again == first {
		t.Error("an identity without tunnels is still remembered")
	}
}

// TestRefusedOffersEvictNobody: only who is admitted takes another's place, and
// who is not leaves nothing behind.
func TestRefusedOffersEvictNobody(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	env := testEnvironment(t, "gw")
	env.limits.Handshakes = 1
	state := env.endpoints["gw"]
	state.limits.applyDefaults()
	h := newHub(listenAddress{})
	if err := h.attach(env); err != nil {
		t.Fatal(err)
	}
	offer := func(identity string) *gatewayTunnel {
		return h.newTunnel(state, signal.Caller{Identity: identity, ClientIP: netip.MustParseAddr("192.0.2.1")}, signal.Offer{})
	}
	victim := offer("victim")
	if err := h.admit(victim, env, state); err != nil {
		t.Fatal(err)
	}
	used := h.memory.Used()
	evicted := func() bool {
		select {
		case <-victim.closing:
			return true
		default:
			return false
		}
	}
	for name, limit := range map[string]func() (restore func()){
		"tunnels of the identity": func() func() {
			state.limits.TunnelsPerIdentity = 0
			return func() { state.limits.TunnelsPerIdentity = 8 }
		},
		"tunnels": func() func() { env.limits.Tunnels = 1; return func() { env.limits.Tunnels = 1000 } },
		"memory":  func() func() { env.limits.TunnelMemory = 1; return func() { env.limits.TunnelMemory = 64 << 20 } },
		"handshakes of the client": func() func() {
			env.limits.HandshakesPerClient = 1
			return func() { env.limits.HandshakesPerClient = 8 }
		},
	} {
		restore := limit()
		if err := h.admit(offer("mallory"), env, state); err == nil {
			t.Errorf("%s: admitted", name)
		}
		restore()
		if evicted() {
			t.Fatalf("%s: an offer that was refused evicted another's", name)
		}
		if n := len(h.tunnels.all()); n != 1 || h.handshakes.len() != 1 || h.memory.Used() != used {
			t.Errorf("%s: %d tunnels, %d handshakes and %d bytes are counted, want those from before", name, n, h.handshakes.len(), h.memory.Used())
		}
	}
	admitted := offer("bob")
	if err := h.admit(admitted, env, state); err != nil || !evicted() {
		t.Errorf("%v; evicted %v, want bob in place of the other", err, evicted())
	}
	for _, g := range []*gatewayTunnel{victim, admitted} {
		g.exit.Close()
		g.forget()
		close(g.gone)
	}
	if h.memory.Used() != 0 || h.handshakes.len() != 0 {
		t.Error("something stays counted")
	}
	h.detach(env)
	if err := h.Destruct(); err != nil {
		t.Error(err)
	}
}

// len returns how many are in flight.
func (t *handshakes) len() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.inFlight)
}
