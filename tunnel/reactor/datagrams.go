package reactor

import "slices"

// Bounds of a queue of datagrams (SPEC.md 3.5), in pieces and bytes.
const (
	queuedDatagrams = 64
	queuedBytes     = 64 << 10
)

// datagrams is a queue that keeps the newest: whoever reads too slowly wants what
// is true now. The zero value is empty.
type datagrams struct {
	list  [][]byte
	bytes int
}

// push copies a datagram to the end and drops from the front what exceeds the
// bounds. It takes any that UDP can carry, also one of nearly 64 KiB.
func (q *datagrams) push(b []byte) {
	for len(q.list) >= queuedDatagrams || len(q.list) > 0 && q.bytes+len(b) > queuedBytes {
		q.pop()
	}
	q.list = append(q.list, slices.Clone(b))
	q.bytes += len(b)
}

// pop takes the oldest; false: there is none.
func (q *datagrams) pop() (b []byte, ok bool) {
	if len(q.list) == 0 {
		return nil, false
	}
	b = q.list[0]
	q.list[0] = nil // or the array keeps it
	q.list = q.list[1:]
	q.bytes -= len(b)
	return b, true
}

// clear drops all.
func (q *datagrams) clear() { *q = datagrams{} }
