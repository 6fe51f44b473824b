package tunnel

// Bounds of what waits in one direction of a flow; SPEC.md section 3.5.
const (
	datagramsMost     = 64
	datagramBytesMost = 64 << 10
)

// MaxDatagram is the largest payload of a UDP datagram over IPv4, in bytes. An
// Endpoint of a flow is always read with room for as much.
const MaxDatagram = 65507

// datagramQueue keeps the newest datagrams of one direction of a flow: who sends
// faster than they are taken loses the oldest. Its memory comes from the pools of
// the leftover queues, so a steady flow allocates nothing. Its owner locks it.
type datagramQueue struct {
	ring  []*segment // a power of two, grown as needed
	head  int        // place of the oldest
	n     int        // datagrams
	bytes int        // payload
}

// push copies p to the end and returns how many of the oldest had to go.
func (q *datagramQueue) push(p []byte) (dropped int) {
	for q.n > 0 && (q.n == datagramsMost || q.bytes+len(p) > datagramBytesMost) {
		q.drop()
		dropped++
	}
	if q.n == len(q.ring) {
		q.grow()
	}
	g := newDatagram(len(p))
	g.w = copy(g.buf, p)
	q.ring[(q.head+q.n)&(len(q.ring)-1)] = g
	q.n++
	q.bytes += len(p)
	return dropped
}

func (q *datagramQueue) grow() {
	ring := make([]*segment, max(2*len(q.ring), 4))
	for i := range q.n {
		ring[i] = q.ring[(q.head+i)&(len(q.ring)-1)]
	}
	q.ring, q.head = ring, 0
}

// front returns the oldest datagram; there must be one.
func (q *datagramQueue) front() []byte {
	g := q.ring[q.head]
	return g.buf[:g.w]
}

// drop removes the oldest.
func (q *datagramQueue) drop() { q.pop().free() }

// pop takes the oldest out; it is for the caller to free.
func (q *datagramQueue) pop() *segment {
	g := q.ring[q.head]
	q.ring[q.head] = nil
	q.head = (q.head + 1) & (len(q.ring) - 1)
	q.n--
	q.bytes -= g.w
	return g
}

// clear removes all and returns how many those were.
func (q *datagramQueue) clear() (dropped int) {
	for ; q.n > 0; dropped++ {
		q.drop()
	}
	q.ring, q.head = nil, 0
	return dropped
}

// newDatagram returns a segment that holds n bytes in one piece.
func newDatagram(n int) *segment {
	if n > segmentClasses[len(segmentClasses)-1] {
		return &segment{buf: make([]byte, n)} // free leaves it to the collector
	}
	return newSegment(n)
}
