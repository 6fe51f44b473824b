package culvert

import (
	"cmp"
	"crypto/sha256"
	"slices"
	"sync"

	"github.com/culvertgate/culvert/framecodec"
	"github.com/culvertgate/culvert/tunnel"
	"github.com/culvertgate/culvert/tunnel/signal"
)

// tunnelTable holds the gateway's tunnels by public id and by secret. The zero
// value is empty and ready; all methods are safe for concurrent use.
type tunnelTable struct {
	mu       sync.Mutex
	byID     map[string]*gatewayTunnel            // guarded by mu
	bySecret map[[sha256.Size]byte]*gatewayTunnel // keyed by hash, so that the look-up tells nothing by its time; guarded by mu
	closed   bool                                 // no more tunnels; guarded by mu
}

// add admits a tunnel unless there are limit of them already.
func (t *tunnelTable) add(g *gatewayTunnel, limit int) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case t.closed:
		return &tunnel.Error{Code: framecodec.CodeDraining, Text: "the gateway is ending"}
	case len(t.byID) >= limit:
		return &tunnel.Error{Code: framecodec.CodeOverloaded, Text: "the gateway has as many tunnels as it may"}
	}
	if t.byID == nil {
		t.byID, t.bySecret = map[string]*gatewayTunnel{}, map[[sha256.Size]byte]*gatewayTunnel{}
	}
	t.byID[g.id] = g
	t.bySecret[sha256.Sum256([]byte(g.secret))] = g
	return nil
}

// remove forgets a tunnel.
func (t *tunnelTable) remove(g *gatewayTunnel) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.byID, g.id)
	delete(t.bySecret, sha256.Sum256([]byte(g.secret)))
}

// hide makes a tunnel's URL lead nowhere; the tunnel itself is there until its
// end.
func (t *tunnelTable) hide(g *gatewayTunnel) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.bySecret, sha256.Sum256([]byte(g.secret)))
}

// withSecret returns the tunnel with that secret, nil if there is none.
func (t *tunnelTable) withSecret(secret string) *gatewayTunnel {
	t.mu.Lock()
	g := t.bySecret[sha256.Sum256([]byte(secret))]
	t.mu.Unlock()
	if g == nil || !signal.SecretEqual(g.secret, secret) {
		return nil
	}
	return g
}

// all returns the tunnels, oldest first.
func (t *tunnelTable) all() []*gatewayTunnel {
	t.mu.Lock()
	list := make([]*gatewayTunnel, 0, len(t.byID))
	for _, g := range t.byID {
		list = append(list, g)
	}
	t.mu.Unlock()
	slices.SortFunc(list, func(a, b *gatewayTunnel) int {
		return cmp.Or(a.since.Compare(b.since), cmp.Compare(a.id, b.id))
	})
	return list
}

// closeAll admits no more tunnels, ends those that are there, saying why, and
// returns when they are gone.
func (t *tunnelTable) closeAll(code tunnel.Code, text string) {
	t.mu.Lock()
	t.closed = true
	t.mu.Unlock()
	list := t.all()
	for _, g := range list {
		g.close(code, text)
	}
	for _, g := range list {
		<-g.gone
	}
}
