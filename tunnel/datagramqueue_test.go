package tunnel

import (
	"encoding/binary"
	"slices"
	"testing"
	"testing/quick"
	"time"
)

const agedMillis = uint32(datagramAge / time.Millisecond)

func numbered(i, size int) []byte {
	return binary.BigEndian.AppendUint32(make([]byte, size-4), uint32(i))
}

// numbers empties a queue and returns what was in it.
func (q *DatagramQueue) numbers() (list []int) {
	for q.Len() > 0 {
		p := q.Front()
		list = append(list, int(binary.BigEndian.Uint32(p[len(p)-4:])))
		q.Drop()
	}
	return list
}

// TestDatagramQueue: 64 KiB stay at most, and more than 64 only if they are new.
func TestDatagramQueue(t *testing.T) {
	for _, tc := range []struct {
		name        string
		all, size   int
		every       uint32 // milliseconds from one to the next
		first, stay int
	}{
		{"few old ones", 64, 4, 10_000, 0, 64},
		{"many old ones", 200, 4, agedMillis + 1, 136, 64},
		{"speech: one in 20 ms", 200, 160, 20, 136, 64},
		{"a burst", 1000, 4, 0, 0, 1000},
		{"one a millisecond", 1000, 4, 1, 1000 - 64, 64},
		{"ten a millisecond", 10_000, 100, 0, 10_000 - 618, 618},
		{"large ones", 100, 3000, 0, 79, 21},
		{"the largest", 5, MaxDatagram, 0, 4, 1},
		{"longer than the clock runs", 10, 4, 1 << 31, 0, 10},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var q DatagramQueue
			dropped := 0
			for i := range tc.all {
				dropped += q.push(numbered(i, tc.size), uint32(i)*tc.every)
				if q.Bytes() > datagramBytesMost {
					t.Fatalf("%d bytes wait", q.Bytes())
				}
			}
			if want := (tc.size + recordHead) * tc.stay; dropped != tc.first || q.Len() != tc.stay || q.Bytes() != want {
				t.Errorf("%d of %d bytes stayed, %d dropped; want %d of %d, %d", q.Len(), q.Bytes(), dropped, tc.stay, want, tc.first)
			}
			list := q.numbers()
			if len(list) != tc.stay || list[0] != tc.first || list[len(list)-1] != tc.all-1 || !slices.IsSorted(list) {
				t.Errorf("%d stayed, from %d to %d", len(list), list[0], list[len(list)-1])
			}
			if q != (DatagramQueue{}) {
				t.Errorf("an empty queue: %+v", q)
			}
		})
	}
}

// TestDatagramQueueKeepsItsMemoryLow: however small the datagrams are, the
// segments have room for four times what is in them at most, and the smallest one.
func TestDatagramQueueKeepsItsMemoryLow(t *testing.T) {
	for _, size := range []int{4, 50, 200, 500, 700, 1200, 1500, 2100, 9000, 17_000} {
		var q DatagramQueue
		for i := range 400 {
			q.push(numbered(i, size), 0)
			room := 0
			for g := q.first; g != nil; g = g.next {
				room += len(g.buf)
			}
			if most := 4*q.Bytes() + 1<<10; room > most {
				t.Fatalf("%d datagrams of %d bytes: segments of %d bytes for %d", q.Len(), size, room, q.Bytes())
			}
		}
		if n := q.Len(); q.Clear() != n || q != (DatagramQueue{}) {
			t.Errorf("a cleared queue: %+v", q)
		}
	}
}

// TestDatagramQueueIsAQueue compares it with a slice, whatever is done.
func TestDatagramQueueIsAQueue(t *testing.T) {
	f := func(steps []uint16) bool {
		var q DatagramQueue
		var model [][]byte
		for i, step := range steps {
			if step%3 == 0 && len(model) > 0 {
				if !slices.Equal(q.Front(), model[0]) {
					return false
				}
				q.Drop()
				model = model[1:]
				continue
			}
			p := numbered(i, 4+int(step)%9000)
			model = append(model, p)
			model = model[q.push(p, 0):]
		}
		bytes := 0
		for _, p := range model {
			bytes += recordHead + len(p)
		}
		return q.Len() == len(model) && q.Bytes() == bytes && (len(model) == 0 || slices.Equal(q.Front(), model[0]))
	}
	if err := quick.Check(f, &quick.Config{MaxCount: 500}); err != nil {
		t.Error(err)
	}
}
