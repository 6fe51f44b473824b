//go:build culvert_faults

package faultpoint

import (
	"sync"
	"sync/atomic"
)

var (
	mu    sync.Mutex
	armed = map[Point]bool{} // guarded by mu
	fired = map[Point]int{}  // guarded by mu
	some  atomic.Bool        // armed is not empty
)

// Here panics if the point is armed, and disarms it.
func Here(p Point) {
	if !some.Load() {
		return
	}
	mu.Lock()
	if !armed[p] {
		mu.Unlock()
		return
	}
	delete(armed, p)
	some.Store(len(armed) > 0)
	fired[p]++
	mu.Unlock()
	panic("made at " + string(p))
}

// Arm has the next goroutine that comes to p panic.
func Arm(p Point) {
	mu.Lock()
	defer mu.Unlock()
	armed[p] = true
	some.Store(true)
}

// Fired returns how often p has panicked.
func Fired(p Point) int {
	mu.Lock()
	defer mu.Unlock()
	return fired[p]
}
