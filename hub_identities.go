package culvert

import (
	"sync"

	"github.com/culvertgate/culvert/tunnel"
)

// identities counts what each identity uses: its tunnels and their memory. An
// entry exists as long as one of its tunnels does. The zero value is empty and
// ready; all methods are safe for concurrent use.
type identities struct {
	mu sync.Mutex
	m  map[clientKey]*identityUse // guarded by mu
}

type identityUse struct {
	tunnels int
	budget  *tunnel.Budget
}

// add counts a tunnel of an identity and returns the budget that its tunnels
// share, or false when it has limit of them already.
func (t *identities) add(k clientKey, limit int, process *tunnel.Budget, memory int64) (*tunnel.Budget, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.m == nil {
		t.m = map[clientKey]*identityUse{}
	}
	use := t.m[k]
	if use == nil {
		use = &identityUse{budget: tunnel.NewBudget(process, memory)}
	}
	if use.tunnels >= limit {
		return nil, false
	}
	use.tunnels++
	t.m[k] = use
	return use.budget, true
}

// remove takes a tunnel off an identity's count.
func (t *identities) remove(k clientKey) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if use := t.m[k]; use != nil {
		if use.tunnels--; use.tunnels <= 0 {
			delete(t.m, k)
		}
	}
}

// has reports whether an identity has a tunnel.
func (t *identities) has(k clientKey) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.m[k] != nil
}

// setLimit changes the memory limit of all, after a reload.
func (t *identities) setLimit(memory int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, use := range t.m {
		use.budget.SetLimit(memory)
	}
}
