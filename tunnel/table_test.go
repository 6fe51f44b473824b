package tunnel

import (
	"math/rand/v2"
	"sync"
	"testing"
)

// pages counts what the table holds.
func (t *streamTable) pages() (branches, pages int) {
	root := t.root.Load()
	if root == nil {
		return 0, 0
	}
	for top := range *root {
		b := (*root)[top].Load()
		if b == nil {
			continue
		}
		branches++
		for i := range b.pages {
			if b.pages[i].Load() != nil {
				pages++
			}
		}
	}
	return branches, pages
}

func TestTableHundredThousand(t *testing.T) {
	const n = 100_000
	var table streamTable
	streams := make([]*Stream, n)
	for i := range streams {
		streams[i] = &Stream{num: uint32(i)}
		table.put(uint32(i), streams[i])
	}
	for i, st := range streams {
		if table.get(uint32(i)) != st {
			t.Fatalf("stream %d is not found", i)
		}
	}
	if all := table.all(nil); len(all) != n || all[0] != streams[0] || all[n-1] != streams[n-1] {
		t.Errorf("%d streams in all", len(all))
	}
	for _, index := range []uint32{n, n + pageSize, 1 << 20, 1<<32 - 1} {
		if table.get(index) != nil {
			t.Errorf("there is a stream %d", index)
		}
	}
	if _, pages := table.pages(); pages != (n+pageSize-1)/pageSize {
		t.Errorf("%d pages", pages)
	}
	for _, i := range rand.New(rand.NewPCG(1, 1)).Perm(n) {
		table.remove(uint32(i))
		if table.get(uint32(i)) != nil {
			t.Fatalf("stream %d is still there", i)
		}
	}
	if branches, pages := table.pages(); branches != 1 || pages != 1 || table.n != 0 { // the newest
		t.Errorf("%d branches, %d pages, %d streams stay", branches, pages, table.n)
	}
}

// A long-lived session: old pages go, whatever number has been reached.
func TestTableForgetsPages(t *testing.T) {
	var table streamTable
	keep := &Stream{}
	table.put(3, keep)
	for i := uint32(4); i < 150_000; i++ {
		table.put(i, keep)
		if i >= 10 {
			table.remove(i - 6)
		}
	}
	if branches, pages := table.pages(); branches > 2 || pages > 3 || pages < 2 {
		t.Errorf("%d branches and %d pages for 7 streams", branches, pages)
	}
	if table.get(3) != keep || table.get(1000) != nil {
		t.Error("wrong streams")
	}
}

func TestTableReadersNeedNoLock(t *testing.T) {
	var table streamTable
	stay := &Stream{num: 70_000}
	table.put(70_000, stay)
	var readers sync.WaitGroup
	stop := make(chan struct{})
	for range 2 {
		readers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if table.get(70_000) != stay {
					t.Error("a stream vanished for a moment")
					return
				}
				if st := table.get(5); st != nil && st.num != 5 {
					t.Error("somebody else's stream")
					return
				}
			}
		})
	}
	for i := range uint32(5_000) {
		table.put(5, &Stream{num: 5})
		table.put(1<<17+i, stay) // the root grows
		table.remove(5)
		table.remove(1<<17 + i)
	}
	close(stop)
	readers.Wait()
}

func BenchmarkTableGet(b *testing.B) {
	var table streamTable
	for i := range uint32(100_000) {
		table.put(i, &Stream{num: i})
	}
	order := rand.New(rand.NewPCG(1, 1)).Perm(100_000)
	// Numbers in the order of traffic: some streams busy, spread over all pages.
	busy := order[:256]
	b.ResetTimer()
	for i := range b.N {
		n := uint32(busy[i&255])
		if table.get(n).num != n {
			b.Fatal("wrong stream")
		}
	}
}
