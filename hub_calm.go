package culvert

import (
	"math"
	"runtime/debug"
	runtimemetrics "runtime/metrics"
)

// Memory is given back to the system when things have become calm. Behind a
// burst the heap holds what the collector has not looked for: with the heap
// floor of package rtc that is 32 MiB before it looks at all, and the runtime
// gives free pages back slowly and only down to what it expects to need again.
// A gateway that was busy once a day would look busy all day.
//
// A calm second is one in which the process has allocated hardly anything: bytes
// through data channels, handshakes and requests all make garbage, so one number
// of the runtime tells of all traffic, also of what is not ours.
const (
	calmAfter     = 10        // calm seconds before memory is given back
	calmRate      = 256 << 10 // bytes allocated in a second that is calm yet
	calmPerTunnel = 8 << 10   // and for each tunnel: ICE's checks and keep-alives
	worthwhile    = 4 << 20   // bytes allocated since the last time: less is not worth a collection
)

// calm counts calm seconds. It is used by the clock alone.
type calm struct {
	seconds  int    // calm ones, one after another
	before   uint64 // allocated so far, at the last look
	returned uint64 // the same, when memory was given back last
}

// tick looks at a second that is over: what the process has allocated since it
// began, and the tunnels that there are. It reports whether now is the time to
// give memory back: once in a calm period.
func (c *calm) tick(allocated uint64, tunnels int) bool {
	grown := allocated - c.before
	c.before = allocated
	if grown > calmRate+calmPerTunnel*uint64(tunnels) {
		c.seconds = 0
		return false
	}
	if c.seconds >= calmAfter {
		return false
	}
	c.seconds++
	if c.seconds < calmAfter || allocated-c.returned < worthwhile {
		return false
	}
	c.returned = allocated
	return true
}

// look gives memory back if it is time to.
func (h *hub) look(c *calm) {
	if bytes, ok := allocated(); ok && c.tick(bytes, len(h.anyTunnels())) {
		giveBack()
	}
}

// giveBack collects and returns free memory to the system. It costs one
// collection, which other goroutines run beside.
func giveBack() {
	debug.FreeOSMemory()
	processMetrics.memoryReturns.Add(1)
}

// allocated returns the bytes that the process has allocated since it began;
// false where the operator has switched the collector off (GOGC=off), who then
// decides about memory alone.
func allocated() (uint64, bool) {
	samples := [...]runtimemetrics.Sample{{Name: "/gc/heap/allocs:bytes"}, {Name: "/gc/gogc:percent"}}
	runtimemetrics.Read(samples[:])
	for _, s := range samples {
		if s.Value.Kind() != runtimemetrics.KindUint64 {
			return 0, false
		}
	}
	return samples[0].Value.Uint64(), samples[1].Value.Uint64() != math.MaxUint64
}
