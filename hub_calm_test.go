package culvert

import (
	"runtime"
	"runtime/debug"
	"testing"
)

// TestCalm: memory is given back once in each calm period, if there is any.
func TestCalm(t *testing.T) {
	const busy = 10 << 20
	type second struct {
		allocated uint64
		tunnels   int
		repeat    int
		want      int // times in all of them
	}
	for name, seconds := range map[string][]second{
		"an idle process":                 {{0, 0, 100, 0}},
		"behind the start":                {{busy, 0, 1, 0}, {0, 0, 9, 0}, {0, 0, 1, 1}, {0, 0, 100, 0}},
		"while traffic runs":              {{busy, 5, 1000, 0}},
		"a pause of nine seconds":         {{busy, 5, 1, 0}, {0, 5, 9, 0}, {busy, 5, 1, 0}, {0, 5, 9, 0}},
		"two calm periods":                {{busy, 0, 1, 0}, {0, 0, 30, 1}, {busy, 0, 1, 0}, {0, 0, 30, 1}},
		"nothing worth it":                {{calmRate + 1, 0, 1, 0}, {0, 0, 30, 0}},
		"keep-alives of a thousand":       {{busy, 1000, 1, 0}, {4 << 20, 1000, 30, 1}},
		"the same without tunnels":        {{busy, 1000, 1, 0}, {4 << 20, 0, 30, 0}},
		"a trickle does not collect ever": {{calmRate, 0, 9, 0}, {calmRate, 0, 1, 0}, {calmRate, 0, 1000, 0}},
	} {
		t.Run(name, func(t *testing.T) {
			var c calm
			var total uint64
			for i, s := range seconds {
				got := 0
				for range s.repeat {
					if total += s.allocated; c.tick(total, s.tunnels) {
						got++
					}
				}
				if got != s.want {
					t.Errorf("step %d: memory was given back %d times, want %d", i, got, s.want)
				}
			}
		})
	}
}

// free is what the heap holds for nothing: garbage is collected by others.
func free() uint64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapIdle - m.HeapReleased
}

// TestMemoryIsReturned: some seconds behind a burst its memory is the system's
// again.
func TestMemoryIsReturned(t *testing.T) {
	const burst = 64 << 20
	h := newHub(listenAddress{})
	var c calm
	h.look(&c)
	defer debug.SetGCPercent(debug.SetGCPercent(400)) // as with the heap floor, the runtime keeps what it may need again
	waste := make([][]byte, burst>>16)
	for i := range waste {
		waste[i] = make([]byte, 1<<16)
		waste[i][0] = 1
	}
	clear(waste)
	runtime.GC() // garbage is free memory now, and still ours
	before, returns := free(), processMetrics.memoryReturns.Load()
	if before < burst/2 {
		t.Fatalf("only %d MiB are free behind the burst: the test tests nothing", before>>20)
	}
	h.look(&c) // the second of the burst
	for range calmAfter {
		h.look(&c)
	}
	if n := processMetrics.memoryReturns.Load() - returns; n != 1 {
		t.Errorf("memory was given back %d times, want once", n)
	}
	if after := free(); after > burst/4 {
		t.Errorf("%d MiB were free, %d MiB still are", before>>20, after>>20)
	}
}

// TestCollectorSwitchedOff: who runs with GOGC=off collects when he wants to.
func TestCollectorSwitchedOff(t *testing.T) {
	if _, ok := allocated(); !ok {
		t.Error("the runtime does not tell what was allocated")
	}
	defer debug.SetGCPercent(debug.SetGCPercent(-1))
	if _, ok := allocated(); ok {
		t.Error("a collection would be forced although the collector is switched off")
	}
}
