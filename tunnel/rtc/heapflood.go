package rtc

import (
	"math"
	runtimemetrics "runtime/metrics"
	"sync/atomic"
)

// The heap floor is for bytes that move, and not for offers that nobody means:
// an answer leaves some 60 KiB of garbage, so that a flood of them would fill
// the floor with it before a collection starts. While peers come and go, one
// starts when it would without the floor. GOGC counts as ever, and what it means
// for a large heap is not changed.
const (
	lookEvery    = 16      // answers from one look at the heap to the next
	leastGarbage = 4 << 20 // bytes, as the runtime has it at GOGC=100
)

// heapWatch looks after the heap while peers come and go. The zero value is
// ready; its methods are safe for concurrent use.
type heapWatch struct {
	events atomic.Uint32
	busy   atomic.Bool // a collection of ours runs
}

// due counts an answer or an end and reports whether a collection is to be made;
// the caller makes it and calls done. Without a floor none is.
func (w *heapWatch) due(floor int, read func() heapState) bool {
	if floor == 0 || w.events.Add(1)%lookEvery != 0 || w.busy.Load() {
		return false
	}
	return overgrown(read(), uint64(floor)) && w.busy.CompareAndSwap(false, true)
}

func (w *heapWatch) done() { w.busy.Store(false) }

// heapState is what the runtime says of its heap, in bytes.
type heapState struct {
	live    uint64 // at the last collection, with the floor
	objects uint64 // now, with garbage
	percent uint64 // GOGC; math.MaxUint64: off
}

func readHeap() heapState {
	s := [...]runtimemetrics.Sample{
		{Name: "/gc/heap/live:bytes"}, {Name: "/memory/classes/heap/objects:bytes"}, {Name: "/gc/gogc:percent"},
	}
	runtimemetrics.Read(s[:])
	for _, one := range s {
		if one.Value.Kind() != runtimemetrics.KindUint64 {
			return heapState{percent: math.MaxUint64} // a runtime that does not tell
		}
	}
	return heapState{s[0].Value.Uint64(), s[1].Value.Uint64(), s[2].Value.Uint64()}
}

// overgrown reports whether a collection would have started if there were no floor.
func overgrown(h heapState, floor uint64) bool {
	if h.percent == math.MaxUint64 || h.live < floor || h.objects < h.live {
		return false // the operator collects, or the floor is newer than the last look
	}
	return h.objects-h.live > max(leastGarbage, h.live-floor)/100*h.percent
}
