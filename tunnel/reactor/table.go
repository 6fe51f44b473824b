package reactor

import "sync"

// pageSize is the number of slots a page holds (16 KiB).
const pageSize = 1024

// ticket names a slot and its use. Descriptors are reused at once by the
// kernel, so an event that was on its way when its socket was closed must not
// reach the next owner of the number: the generation tells them apart.
type ticket struct{ index, generation uint32 }

type slot[T any] struct {
	value      *T
	generation uint32
	nextFree   uint32 // index+1 of the next free slot; 0 ends the list
}

// table maps tickets to values. Pages are never moved nor given back: 16 bytes
// for each Endpoint at the busiest moment.
type table[T any] struct {
	mu    sync.Mutex
	pages []*[pageSize]slot[T]
	used  uint32 // slots ever used
	free  uint32 // index+1 of the first free slot
}

func (t *table[T]) at(index uint32) *slot[T] {
	return &t.pages[index/pageSize][index%pageSize]
}

// add stores v and returns its ticket.
func (t *table[T]) add(v *T) ticket {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.free != 0 {
		index := t.free - 1
		s := t.at(index)
		t.free, s.nextFree, s.value = s.nextFree, 0, v
		return ticket{index, s.generation}
	}
	if int(t.used) == len(t.pages)*pageSize {
		t.pages = append(t.pages, new([pageSize]slot[T]))
	}
	index := t.used
	t.used++
	t.at(index).value = v
	return ticket{index, 0}
}

// remove forgets the value; the ticket is void from here on.
func (t *table[T]) remove(k ticket) {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.at(k.index)
	if s.generation != k.generation || s.value == nil {
		return
	}
	s.value = nil
	s.generation++
	s.nextFree, t.free = t.free, k.index+1
}

// find fills out[i] with the value of keys[i], nil where the ticket is void.
func (t *table[T]) find(keys []ticket, out []*T) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for i, k := range keys {
		out[i] = nil
		if k.index < t.used {
			if s := t.at(k.index); s.generation == k.generation {
				out[i] = s.value
			}
		}
	}
}

// all returns the values that are there now.
func (t *table[T]) all() []*T {
	t.mu.Lock()
	defer t.mu.Unlock()
	var values []*T
	for index := range t.used {
		if v := t.at(index).value; v != nil {
			values = append(values, v)
		}
	}
	return values
}
