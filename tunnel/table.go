package tunnel

import "sync/atomic"

// The stream table is a radix tree over dense numbers: three loads for a
// look-up among any number of streams, no lock for readers. Pages are freed when
// they are empty, so a long-lived session does not keep what it has forgotten;
// only the newest one stays, since streams that come one after the other would
// have it made anew each time.
const (
	pageBits = 8
	pageSize = 1 << pageBits
)

type tablePage struct {
	used  int // guarded by the session's lock
	slots [pageSize]atomic.Pointer[Stream]
}

type tableBranch struct {
	used  int // pages in it; guarded by the session's lock
	pages [pageSize]atomic.Pointer[tablePage]
}

// streamTable maps a number to its stream. get may be called by anyone; put,
// remove and all by who holds the session's lock.
type streamTable struct {
	root atomic.Pointer[[]atomic.Pointer[tableBranch]]
	// Guarded by the session's lock.
	n      int
	newest uint32 // the page that was put to last: its index >> pageBits
}

func (t *streamTable) branch(index uint32) *tableBranch {
	root := t.root.Load()
	top := int(index >> (2 * pageBits))
	if root == nil || top >= len(*root) {
		return nil
	}
	return (*root)[top].Load()
}

func (t *streamTable) get(index uint32) *Stream {
	b := t.branch(index)
	if b == nil {
		return nil
	}
	p := b.pages[index>>pageBits&(pageSize-1)].Load()
	if p == nil {
		return nil
	}
	return p.slots[index&(pageSize-1)].Load()
}

// grow makes the root long enough for top. A reader that still holds the old
// root began before what is put into the new one.
func (t *streamTable) grow(top int) []atomic.Pointer[tableBranch] {
	var old []atomic.Pointer[tableBranch]
	if p := t.root.Load(); p != nil {
		old = *p
	}
	if top < len(old) {
		return old
	}
	root := make([]atomic.Pointer[tableBranch], top+1)
	for i := range old {
		root[i].Store(old[i].Load())
	}
	t.root.Store(&root)
	return root
}

func (t *streamTable) put(index uint32, st *Stream) {
	top := int(index >> (2 * pageBits))
	slot := &t.grow(top)[top]
	b := slot.Load()
	if b == nil {
		b = new(tableBranch)
		slot.Store(b)
	}
	page := &b.pages[index>>pageBits&(pageSize-1)]
	p := page.Load()
	if p == nil {
		p = new(tablePage)
		page.Store(p)
		b.used++
	}
	p.slots[index&(pageSize-1)].Store(st)
	p.used++
	t.n++
	if before := t.newest; before != index>>pageBits {
		t.newest = index >> pageBits
		t.freePage(before)
	}
}

func (t *streamTable) remove(index uint32) {
	p := t.branch(index).pages[index>>pageBits&(pageSize-1)].Load()
	p.slots[index&(pageSize-1)].Store(nil)
	p.used--
	t.n--
	if number := index >> pageBits; number != t.newest {
		t.freePage(number)
	}
}

// freePage lets go of a page if it is empty.
func (t *streamTable) freePage(number uint32) {
	b := t.branch(number << pageBits)
	if b == nil {
		return
	}
	page := &b.pages[number&(pageSize-1)]
	if p := page.Load(); p == nil || p.used > 0 {
		return
	}
	page.Store(nil)
	if b.used--; b.used == 0 {
		(*t.root.Load())[number>>pageBits].Store(nil)
	}
}

// all appends every stream to list in the order of their numbers.
func (t *streamTable) all(list []*Stream) []*Stream {
	root := t.root.Load()
	if root == nil {
		return list
	}
	for top := range *root {
		b := (*root)[top].Load()
		if b == nil {
			continue
		}
		for i := range b.pages {
			p := b.pages[i].Load()
			if p == nil {
				continue
			}
			for j := range p.slots {
				if st := p.slots[j].Load(); st != nil {
					list = append(list, st)
				}
			}
		}
	}
	return list
}
