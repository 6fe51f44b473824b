package top

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode"
)

// Sort is the order of tunnels, and of the streams of one.
type Sort int

// The orders.
const (
	ByRate  Sort = iota // the fastest first
	ByBytes             // what has carried the most first
	ByAge               // the oldest first
	ByName              // endpoint or remote and identity; target
)

var sortNames = []string{"rate", "bytes", "age", "name"}

func (s Sort) String() string { return sortNames[s] }

// ParseSort reads the name of an order.
func ParseSort(name string) (Sort, error) {
	i := slices.Index(sortNames, name)
	if i < 0 {
		return 0, fmt.Errorf("there is no order %q: use %s", name, strings.Join(sortNames, ", "))
	}
	return Sort(i), nil
}

func (s Sort) next() Sort { return (s + 1) % Sort(len(sortNames)) }

// tunnels compares two; equal ones are in the order of their ids, so that rows do
// not change places for nothing.
func (s Sort) tunnels(a, b *tunnelRow) int {
	order := 0
	switch s {
	case ByRate:
		order = cmp.Or(cmp.Compare(b.rate.total(), a.rate.total()), cmp.Compare(b.BytesIn+b.BytesOut, a.BytesIn+a.BytesOut))
	case ByBytes:
		order = cmp.Compare(b.BytesIn+b.BytesOut, a.BytesIn+a.BytesOut)
	case ByAge:
		order = a.Since.Compare(b.Since)
	case ByName:
		order = cmp.Or(strings.Compare(a.of(), b.of()), strings.Compare(a.Identity, b.Identity))
	}
	return cmp.Or(order, strings.Compare(a.ID, b.ID))
}

func (s Sort) streams(a, b *streamRow) int {
	order := 0
	switch s {
	case ByRate:
		order = cmp.Or(cmp.Compare(b.rate.total(), a.rate.total()), cmp.Compare(b.bytesIn+b.bytesOut, a.bytesIn+a.bytesOut))
	case ByBytes:
		order = cmp.Compare(b.bytesIn+b.bytesOut, a.bytesIn+a.bytesOut)
	case ByAge:
		order = cmp.Compare(b.age, a.age)
	case ByName:
		order = strings.Compare(a.target, b.target)
	}
	return cmp.Or(order, cmp.Compare(number(a.id), number(b.id)), strings.Compare(a.id, b.id))
}

// number orders ids of streams; raw channels have none and come first.
func number(id string) uint64 {
	n, _ := strconv.ParseUint(id, 10, 32)
	return n
}

// row is a line below the headings: a tunnel, or a stream of it.
type row struct {
	tunnel *tunnelRow
	stream *streamRow // nil: the tunnel itself
}

// key names a row over the times that rows are made.
type key struct{ tunnel, stream string }

func (r row) key() key {
	if r.stream == nil {
		return key{tunnel: r.tunnel.ID}
	}
	return key{r.tunnel.ID, r.stream.id}
}

// table is the rows, and which of them is seen and picked. At the first row the
// list moves below the cursor, so that what is fastest stays in view; anywhere
// else, and while a tunnel is open, the cursor goes where its row goes.
type table struct {
	rows     []row
	open     string // id of the tunnel whose streams are among them
	matching int    // tunnels that the filter lets through

	cursor int // index of a row; 0 if there is none
	picked key // that the cursor stays with; zero: none
	offset int // the first row that is seen
	height int // rows that are seen
}

// arrange makes the rows.
func (t *table) arrange(tunnels []tunnelRow, streams []streamRow, open, filter string, by Sort) {
	list := make([]*tunnelRow, 0, len(tunnels))
	filter = strings.ToLower(filter)
	for i := range tunnels {
		if tunnels[i].matches(filter) {
			list = append(list, &tunnels[i])
		}
	}
	slices.SortFunc(list, by.tunnels)
	inside := make([]*streamRow, len(streams))
	for i := range streams {
		inside[i] = &streams[i]
	}
	slices.SortFunc(inside, by.streams)
	t.open, t.matching = open, len(list)
	t.rows = make([]row, 0, len(list)+len(inside))
	for _, tunnel := range list {
		t.rows = append(t.rows, row{tunnel: tunnel})
		if tunnel.ID == open {
			for _, s := range inside {
				t.rows = append(t.rows, row{tunnel, s})
			}
		}
	}
	if t.picked != (key{}) {
		if i := slices.IndexFunc(t.rows, func(r row) bool { return r.key() == t.picked }); i >= 0 {
			t.cursor = i
		} else {
			t.picked = key{} // it is gone: the cursor stays where it is, with nothing
		}
	}
	t.fit(t.height)
}

// matches reports whether a filter, in lower case, is in what names a tunnel.
func (t *tunnelRow) matches(filter string) bool {
	if filter == "" {
		return true
	}
	for _, s := range []string{t.ID, t.Side, t.Remote, t.Endpoint, t.Identity, t.ClientIP, t.State} {
		if strings.Contains(strings.ToLower(s), filter) {
			return true
		}
	}
	return false
}

// fit keeps the cursor within the rows, and in view of that many.
func (t *table) fit(height int) {
	t.height = max(height, 0)
	t.cursor = max(min(t.cursor, len(t.rows)-1), 0)
	t.offset = max(min(t.offset, t.cursor, len(t.rows)-t.height), 0)
	if t.cursor >= t.offset+t.height {
		t.offset = max(t.cursor-t.height+1, 0)
	}
}

// reveal scrolls until that many rows behind the cursor are in view too, as far as
// there is room for them and it.
func (t *table) reveal(n int) {
	if last := t.cursor + n; last >= t.offset+t.height {
		t.offset = min(last-t.height+1, t.cursor)
	}
	t.fit(t.height)
}

// current is the row under the cursor, nil if there is none.
func (t *table) current() *row {
	if t.cursor >= len(t.rows) {
		return nil
	}
	return &t.rows[t.cursor]
}

// move has the cursor at another row, or at the last or first one.
func (t *table) move(to int) {
	t.cursor = to
	t.fit(t.height)
	t.picked = key{}
	if r := t.current(); r != nil && (t.cursor > 0 || t.open != "") {
		t.picked = r.key()
	}
}

// seen are the rows in view.
func (t *table) seen() []row {
	return t.rows[min(t.offset, len(t.rows)):min(t.offset+t.height, len(t.rows))]
}

func printable(r rune) rune {
	if unicode.IsPrint(r) {
		return r
	}
	return -1
}
