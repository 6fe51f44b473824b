package rtc

import (
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/culvertgate/culvert/internal/testkit"
)

// TestHeapFloor: there is none before bytes have moved, it is made once, and
// nobody has touched it, though the heap has used its place before.
func TestHeapFloor(t *testing.T) {
	used := make([]byte, heapFloorSize/2)
	for i := range used {
		used[i] = 1
	}
	runtime.KeepAlive(used)
	runtime.GC()
	before := resident(t)
	var f heapFloor
	f.move(floorAfter - 1)
	if f.size() != 0 {
		t.Errorf("there is a heap floor of %d bytes before %d were moved", f.size(), floorAfter)
	}
	f.move(1)
	eventually(t, 10*time.Second, "it is decided whether there is a floor", f.decided.Load)
	if raceDetector {
		if f.size() != 0 {
			t.Error("there is a heap floor with the race detector")
		}
		t.Skip("there is no floor with the race detector")
	}
	first := f.room.Load()
	f.move(floorAfter)
	if f.size() != heapFloorSize || f.room.Load() != first {
		t.Errorf("the heap floor has %d bytes", f.size())
	}
	if grown := resident(t) - before; grown > heapFloorSize/4 {
		t.Errorf("the heap floor took %d KiB of memory", grown>>10)
	}
}

// resident returns the resident memory of this process in bytes, 0 where the
// system does not tell.
func resident(t *testing.T) int64 {
	t.Helper()
	if runtime.GOOS != "linux" {
		return 0
	}
	m, err := testkit.MemoryOf(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	return m.RSS
}
