package tunnel

import (
	"math"
	"sync/atomic"
)

// Budget bounds the bytes that are queued or granted below it: one of the
// process, one of each identity, one of each tunnel, linked to their parents. A
// reservation must fit into every budget up to the root. The zero value is not
// usable; all methods are safe for concurrent use and take no lock.
type Budget struct {
	parent   *Budget
	limit    atomic.Int64
	used     atomic.Int64
	sessions atomic.Int64 // that live off this budget itself
	tunnels  atomic.Int64 // budgets below this one that have a session
}

// NewBudget returns a budget of limit bytes (0 or less: no limit of its own)
// below parent, which may be nil.
func NewBudget(parent *Budget, limit int64) *Budget {
	b := &Budget{parent: parent}
	b.limit.Store(limit)
	return b
}

// Reserve takes n bytes from this budget and all above it, or nothing and
// false when one of them has too little left.
func (b *Budget) Reserve(n int64) bool {
	for at := b; at != nil; at = at.parent {
		if !at.take(n) {
			for undo := b; undo != at; undo = undo.parent {
				undo.used.Add(-n)
			}
			return false
		}
	}
	return true
}

func (b *Budget) take(n int64) bool {
	for {
		used, limit := b.used.Load(), b.limit.Load()
		if limit > 0 && used+n > limit {
			return false
		}
		if b.used.CompareAndSwap(used, used+n) {
			return true
		}
	}
}

// Force takes n bytes even beyond the limit, for bytes that are already here.
func (b *Budget) Force(n int64) {
	for at := b; at != nil; at = at.parent {
		at.used.Add(n)
	}
}

// Release gives n bytes back.
func (b *Budget) Release(n int64) {
	for at := b; at != nil; at = at.parent {
		at.used.Add(-n)
	}
}

// Used returns the bytes taken from this budget.
func (b *Budget) Used() int64 { return b.used.Load() }

// Limit returns the limit in bytes; 0 or less means none.
func (b *Budget) Limit() int64 { return b.limit.Load() }

// SetLimit changes the limit; what is already taken stays taken.
func (b *Budget) SetLimit(n int64) { b.limit.Store(n) }

// Free returns the bytes that are left here and in every budget above, at
// least 0, at most max.
func (b *Budget) Free(max int64) int64 {
	for at := b; at != nil; at = at.parent {
		if limit := at.limit.Load(); limit > 0 {
			max = min(max, limit-at.used.Load())
		}
	}
	return max0(max)
}

// Over reports whether more is taken than the limit of this budget or of one
// above it: there is no memory for anything new.
func (b *Budget) Over() bool {
	for at := b; at != nil; at = at.parent {
		if limit := at.limit.Load(); limit > 0 && at.used.Load() > limit {
			return true
		}
	}
	return false
}

func max0(n int64) int64 { return max(n, 0) }

// mark is how much of a limit may be used before memory counts as short.
func mark(limit int64) int64 { return limit / 4 * 3 }

// Pressed reports whether a budget above this one is more than three quarters
// used: tunnels then grant less than their streams have consumed.
func (b *Budget) Pressed() bool {
	for at := b.parent; at != nil; at = at.parent {
		if limit := at.limit.Load(); limit > 0 && at.used.Load() > mark(limit) {
			return true
		}
	}
	return false
}

// join counts a session that lives off this budget; leave ends that.
func (b *Budget) join() {
	if b.sessions.Add(1) == 1 {
		b.countTunnel(1)
	}
}

func (b *Budget) leave() {
	if b.sessions.Add(-1) == 0 {
		b.countTunnel(-1)
	}
}

func (b *Budget) countTunnel(n int64) {
	for at := b.parent; at != nil; at = at.parent {
		at.tunnels.Add(n)
	}
}

// share returns what a session of this budget may at most let its peer send
// once n more bytes are taken. It is no bound unless a budget above is then more
// than three quarters used; if so, these are divided by the tunnels that live off
// them, so that all of them together stay at the mark. Sessions of one tunnel
// divide the tunnel's share.
func (b *Budget) share(n int64) int64 {
	least := int64(math.MaxInt64)
	for at := b.parent; at != nil; at = at.parent {
		if limit := at.limit.Load(); limit > 0 && at.used.Load()+n > mark(limit) {
			least = min(least, mark(limit)/max(at.tunnels.Load(), 1))
		}
	}
	if least == math.MaxInt64 {
		return least
	}
	return least / max(b.sessions.Load(), 1)
}
