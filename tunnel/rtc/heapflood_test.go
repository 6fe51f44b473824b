package rtc

import (
	"context"
	"math"
	"testing"
	"time"

	"github.com/culvertgate/culvert/framecodec"
)

func TestOvergrown(t *testing.T) {
	const floor, mib = heapFloorSize, 1 << 20
	for _, tc := range []struct {
		name    string
		heap    heapState
		overrun bool
	}{
		{"less garbage than lives", heapState{floor + 20*mib, floor + 39*mib, 100}, false},
		{"more", heapState{floor + 20*mib, floor + 41*mib, 100}, true},
		{"GOGC counts", heapState{floor + 20*mib, floor + 41*mib, 200}, false},
		{"hardly anything lives", heapState{floor + mib, floor + 4*mib, 100}, false},
		{"hardly anything lives, and more than the least", heapState{floor + mib, floor + 6*mib, 100}, true},
		{"the collector is off", heapState{floor + 20*mib, floor + 400*mib, math.MaxUint64}, false},
		{"the floor is newer than the last look", heapState{20 * mib, floor + 400*mib, 100}, false},
		{"less than lived", heapState{floor + 20*mib, floor, 100}, false},
	} {
		if got := overgrown(tc.heap, floor); got != tc.overrun {
			t.Errorf("%s: %v", tc.name, got)
		}
	}
}

// TestHeapWatch: every lookEvery-th event looks, one collection at a time, and
// without a floor nobody looks.
func TestHeapWatch(t *testing.T) {
	looks := 0
	full := func() heapState {
		looks++
		return heapState{live: 2 * heapFloorSize, objects: 4 * heapFloorSize, percent: 100}
	}
	var w heapWatch
	round := func(floor int) (due int) {
		for range lookEvery {
			if w.due(floor, full) {
				due++
			}
		}
		return due
	}
	if n := round(0); n != 0 || looks != 0 {
		t.Errorf("without a floor: %d collections after %d looks", n, looks)
	}
	if n := round(heapFloorSize); n != 1 || looks != 1 {
		t.Errorf("%d collections after %d looks, want one", n, looks)
	}
	if n := round(heapFloorSize); n != 0 {
		t.Errorf("%d collections while one runs", n)
	}
	w.done()
	if n := round(heapFloorSize); n != 1 {
		t.Errorf("%d collections when that one is over, want one", n)
	}
}

// TestReadHeap: the runtime knows the metrics by these names.
func TestReadHeap(t *testing.T) {
	if h := readHeap(); h.objects == 0 || h.percent == 0 {
		t.Errorf("the heap: %+v", h)
	}
}

// TestFloodOfOffers: a process with a floor does not keep the garbage of offers
// as if the floor were for them.
func TestFloodOfOffers(t *testing.T) {
	checkLeaks(t)
	theFloor.move(floorAfter)
	if raceDetector {
		t.Skip("there is no floor with the race detector, and nothing to look after")
	}
	eventually(t, 10*time.Second, "the heap floor is there", func() bool { return theFloor.size() != 0 })
	const offers, inFlight, most = 1_000, 32, 24 << 20
	g := testGateway(t, Options{})
	heldNow() // what others have left goes, and the floor counts as living
	var peers []*Peer
	var peak uint64
	for i := range offers {
		p, _, err := g.Answer(context.Background(), strangersOffer(i), Handler{})
		if err != nil {
			t.Fatal(err)
		}
		if peers = append(peers, p); len(peers) == inFlight {
			peers[0].Close(framecodec.CodeOverloaded)
			peers = peers[1:]
		}
		peak = max(peak, readHeap().objects)
	}
	if peak > heapFloorSize+most {
		t.Errorf("%d offers took %d MiB, want at most %d", offers, (peak-heapFloorSize)>>20, most>>20)
	}
}
