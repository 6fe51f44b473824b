package culvert

import (
	"crypto/sha256"
	"maps"
	"slices"
	"sync"
)

// socksGrant is what lets a client associate: a SOCKS entry to a remote, and a user
// with a password where the entry has users.
type socksGrant struct {
	remote, user string
	password     [sha256.Size]byte // its hash
}

// associationTable holds the running associations (UDP ASSOCIATE) of all entries. Each
// datagram to a new destination opens a flow, so they go on over a reload only while the
// new configuration would let them begin. The zero value is empty and ready; all methods
// are safe for concurrent use.
type associationTable struct {
	mu   sync.Mutex
	m    map[*association]socksGrant // guarded by mu
	over bool                        // no more of them; guarded by mu
}

// add notes an association, and returns false when the hub is ending.
func (t *associationTable) add(a *association, by socksGrant) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.over {
		return false
	}
	if t.m == nil {
		t.m = map[*association]socksGrant{}
	}
	t.m[a] = by
	return true
}

// remove forgets an association.
func (t *associationTable) remove(a *association) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.m, a)
}

// recheck ends the associations that a configuration has no place for.
func (t *associationTable) recheck(env *environment) {
	var ends []*association
	t.mu.Lock()
	for a, by := range t.m {
		if !env.socks[by] {
			ends = append(ends, a)
		}
	}
	t.mu.Unlock()
	for _, a := range ends {
		a.end()
	}
}

// endAll ends all, and lets no more begin.
func (t *associationTable) endAll() {
	t.mu.Lock()
	t.over = true
	all := slices.Collect(maps.Keys(t.m))
	t.mu.Unlock()
	for _, a := range all {
		a.end()
	}
}
