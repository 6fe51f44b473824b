package rtc

import (
	"math"
	"runtime/debug"
	"sync"
)

// pion makes 13 bytes of garbage for each byte it moves. With a small heap the
// collector would run a hundred times a second; heapFloor is an allocation that
// is never touched, so it costs address space and no memory, and makes the heap
// grow by as much before a collection starts (1.3 times the throughput). It is
// made with the first peer connection of the process, and not where the
// operator's GOGC or memory limit has decided otherwise. Twice the size is no
// faster and lets the garbage of a flood of offers take 30 MiB more.
const heapFloorSize = 32 << 20

var heapFloor = sync.OnceValue(func() []byte {
	limit := debug.SetMemoryLimit(-1)
	if limit != math.MaxInt64 && limit < 16*heapFloorSize || raceDetector {
		return nil
	}
	return make([]byte, heapFloorSize)
})
