package rtc

import (
	"math"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
)

// pion makes 13 bytes of garbage for each byte it moves. With a small heap the
// collector would run a hundred times a second; the heap floor is an allocation
// that is never touched, so it costs address space and no memory, and makes the
// heap grow by as much before a collection starts (1.3 times the throughput).
// Twice the size is no faster and lets the garbage of a busy second take 30 MiB
// more.
//
// It is for bytes that move: it is made when the channels of this process have
// moved floorAfter bytes, so that who answers a flood of offers and has moved
// nothing has none (see heapWatch for who has), and not where the operator's
// memory limit has decided otherwise.
const (
	heapFloorSize = 32 << 20
	floorAfter    = 4 << 20
)

// theFloor is this process's.
var theFloor heapFloor

// heapFloor counts bytes until it is made. The zero value is ready; its methods
// are safe for concurrent use.
type heapFloor struct {
	moved   atomic.Int64
	decided atomic.Bool
	once    sync.Once
	room    atomic.Pointer[strings.Builder]
}

// move counts the n bytes of a message. The one that is one too many does not wait
// for the floor: a collection begins with it, which its maker has to help.
func (f *heapFloor) move(n int) {
	if !f.decided.Load() && f.moved.Add(int64(n)) >= floorAfter {
		f.once.Do(func() { go f.decide() })
	}
}

func (f *heapFloor) decide() {
	defer f.decided.Store(true)
	limit := debug.SetMemoryLimit(-1)
	if limit != math.MaxInt64 && limit < 16*heapFloorSize || raceDetector {
		return
	}
	// A Builder is the one thing of the library that is given memory without its
	// being cleared. make clears what the heap has used before, and so touches it:
	// 32 MiB resident, and 50 ms in which nobody else had a processor.
	var room strings.Builder
	room.Grow(heapFloorSize)
	f.room.Store(&room)
}

// size returns the floor's length, 0 while there is none.
func (f *heapFloor) size() int {
	if room := f.room.Load(); room != nil {
		return room.Cap()
	}
	return 0
}
