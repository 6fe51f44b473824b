package culvert

import (
	"context"
	"io/fs"
	"strings"
	"sync"
	"testing"

	"github.com/caddyserver/certmagic"

	"github.com/culvertgate/culvert/framecodec"
	"github.com/culvertgate/culvert/tunnel/signal"
)

// slowStorage is memory whose next Load of a record is held up behind its read.
type slowStorage struct {
	certmagic.Storage
	locked sync.Mutex

	mu   sync.Mutex
	m    map[string][]byte // guarded by mu
	held chan struct{}     // nil: none is held up; guarded by mu
	read chan struct{}     // closed by the Load that is
}

func (s *slowStorage) Lock(context.Context, string) error {
	s.locked.Lock()
	return nil
}

func (s *slowStorage) Unlock(context.Context, string) error {
	s.locked.Unlock()
	return nil
}

func (s *slowStorage) Store(_ context.Context, key string, value []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.m[key] = value
	return nil
}

func (s *slowStorage) Load(_ context.Context, key string) ([]byte, error) {
	s.mu.Lock()
	value, ok := s.m[key]
	held := s.held
	s.held = nil
	s.mu.Unlock()
	if held != nil {
		close(s.read)
		<-held
	}
	if !ok {
		return nil, fs.ErrNotExist
	}
	return value, nil
}

// TestBlockBesideALook: a block that was told of holds, also where a look at storage
// that began before it comes to its end behind it.
func TestBlockBesideALook(t *testing.T) {
	s := serve(t, nil)
	held := make(chan struct{})
	st := &slowStorage{m: map[string][]byte{}, held: held, read: make(chan struct{})}
	s.env.storage = st
	l := &s.hub.ledger
	look := make(chan error)
	go func() { look <- l.readBlocks(t.Context()) }()
	<-st.read
	if err := l.addBlock(t.Context(), identityBlock{Endpoint: "gw", Identity: "mallory"}); err != nil {
		t.Fatal(err)
	}
	close(held)
	if err := <-look; err != nil {
		t.Fatal(err)
	}
	if !l.blocks.blocked("gw", "mallory") {
		t.Error("the look has let mallory in again")
	}
	// What other gateways write is still heard of.
	st.mu.Lock()
	st.m[ledgerPrefix+blocksKey] = []byte(`[{"endpoint":"gw","identity":"trent"}]`)
	st.mu.Unlock()
	if err := l.readBlocks(t.Context()); err != nil {
		t.Fatal(err)
	}
	if l.blocks.blocked("gw", "mallory") || !l.blocks.blocked("gw", "trent") {
		t.Errorf("behind another look: %+v", l.blocks.all())
	}
}

// TestBlocksOfTwoHubs: while a reload changes `listen` there are two hubs with one
// storage: what both know is listed once, taken back in both, and made in both.
func TestBlocksOfTwoHubs(t *testing.T) {
	st := &slowStorage{m: map[string][]byte{ledgerPrefix + blocksKey: []byte(`[{"endpoint":"gw","identity":"mallory"}]`)}}
	var hubs []*hub
	for _, address := range []string{"127.0.0.1:0", "127.0.0.2:0"} {
		h := hubAt(t, listenAddress{"udp", address}, map[string]*endpointState{"gw": {name: "gw", policy: denyAll}}, st)
		if !h.ledger.blocks.blocked("gw", "mallory") {
			t.Fatal("the hub does not know of the block")
		}
		hubs = append(hubs, h)
	}
	if status, body := adminCall(t, "GET", "/webrtc_tunnel/blocks", ""); status != 200 || strings.Count(body, "mallory") != 1 {
		t.Errorf("listed: %d %s", status, body)
	}
	if status, body := adminCall(t, "DELETE", "/webrtc_tunnel/blocks?endpoint=gw&identity=mallory", ""); status != 204 {
		t.Errorf("taken back: %d %s", status, body)
	}
	for i, h := range hubs {
		if h.ledger.blocks.blocked("gw", "mallory") {
			t.Errorf("hub %d keeps mallory out", i)
		}
	}
	if status, body := adminCall(t, "POST", "/webrtc_tunnel/blocks", `{"endpoint":"gw","identity":"trent"}`); status != 201 {
		t.Errorf("made: %d %s", status, body)
	}
	for i, h := range hubs {
		if !h.ledger.blocks.blocked("gw", "trent") {
			t.Errorf("hub %d lets trent in", i)
		}
	}
}

// TestRevocationInTwoHubs: it ends the tunnels of both.
func TestRevocationInTwoHubs(t *testing.T) {
	const id = "abcdefgh"
	st := &slowStorage{m: map[string][]byte{ledgerPrefix + ticketKey(id): []byte(`{"id":"` + id + `","endpoint":"gw","target":"ssh","uses":2}`)}}
	state := &endpointState{name: "gw", policy: denyAll}
	var tunnels []*gatewayTunnel
	for _, address := range []string{"127.0.0.1:0", "127.0.0.2:0"} {
		h := hubAt(t, listenAddress{"udp", address}, map[string]*endpointState{"gw": state}, st)
		g := h.newTunnel(state, signal.Caller{Identity: ticketPrefix + id}, signal.Offer{})
		g.ticket = "ssh"
		if err := h.tunnels.add(g, 1); err != nil {
			t.Fatal(err)
		}
		tunnels = append(tunnels, g)
		go func() { // as run does
			<-g.closing
			close(g.gone)
		}()
	}
	if status, body := adminCall(t, "DELETE", "/webrtc_tunnel/tickets/"+id, ""); status != 204 {
		t.Errorf("%d %s", status, body)
	}
	for i, g := range tunnels {
		g.mu.Lock()
		if !g.isClosing || g.closeCode != framecodec.CodeClosedByAdmin {
			t.Errorf("the tunnel of hub %d goes on, or ends with %v", i, g.closeCode)
		}
		g.mu.Unlock()
	}
}
