package tunnel

import (
	"encoding/binary"
	"time"
)

// Bounds of what waits in one direction of a flow; SPEC.md section 3.5. A count
// alone would be a second of speech and six milliseconds of 10,000 datagrams a
// second, less than a machine now and then takes to get round to them.
const (
	datagramBytesMost = 64 << 10 // with what a record has besides the payload
	datagramsAlways   = 64       // may wait as long as it takes
	datagramAge       = 50 * time.Millisecond
)

// MaxDatagram is the largest payload of a UDP datagram over IPv4, in bytes. An
// Endpoint of a flow is always read with room for as much.
const MaxDatagram = 65507

// recordHead is what stands in front of a payload: when it came (u32,
// milliseconds), and its length (u16).
const recordHead = 4 + 2

// A DatagramQueue keeps the newest datagrams of one direction of a flow: who sends
// faster than they are taken loses the oldest. It holds 64 KiB at most; more than
// 64 datagrams only if those have come within 50 ms. Its memory comes from the
// pools of the leftover queues, so a steady flow allocates nothing. The zero value
// is empty. Its owner locks it.
type DatagramQueue struct {
	first, last *segment // of records, each of which is in one piece
	n           int      // datagrams
	bytes       int      // of records
}

// Len returns how many datagrams wait.
func (q *DatagramQueue) Len() int { return q.n }

// Bytes returns the bytes that wait, with six more for each datagram.
func (q *DatagramQueue) Bytes() int { return q.bytes }

// charge takes what the queue holds more than before from budget, or gives back
// what it holds less.
func (q *DatagramQueue) charge(budget *Budget, before int) {
	budget.Force(int64(q.bytes - before))
}

// hasMemory reports whether budget has what a datagram takes.
func hasMemory(budget *Budget, p []byte) bool {
	need := int64(recordHead + len(p))
	return budget.Free(need) == need
}

// Push copies p, of at most 65,535 bytes, to the end and returns how many of
// the oldest had to go.
func (q *DatagramQueue) Push(p []byte) (dropped int) {
	if q.n == 0 {
		return q.push(p, 0) // the next one's time will do: where none comes, nobody asks
	}
	return q.push(p, uint32(now()/time.Millisecond))
}

// push is Push at a time in milliseconds, which may wrap. The first of a queue
// counts from when the second came.
func (q *DatagramQueue) push(p []byte, at uint32) (dropped int) {
	size := recordHead + len(p)
	if q.n == 1 {
		binary.NativeEndian.PutUint32(q.first.buf[q.first.r:], at)
	}
	for q.n > 0 && (q.bytes+size > datagramBytesMost || q.n >= datagramsAlways && at-q.since() > uint32(datagramAge/time.Millisecond)) {
		q.Drop()
		dropped++
	}
	if q.last == nil || len(q.last.buf)-q.last.w < size {
		// What waits already is a guess at what else will, so the segments have room
		// for a few times what they hold: their classes lie four apart.
		g := newSegmentOf(max(size, min(q.bytes, segmentClasses[len(segmentClasses)-1])))
		if q.last == nil {
			q.first = g
		} else {
			q.last.next = g
		}
		q.last = g
	}
	g := q.last
	binary.NativeEndian.PutUint32(g.buf[g.w:], at)
	binary.NativeEndian.PutUint16(g.buf[g.w+4:], uint16(len(p)))
	copy(g.buf[g.w+recordHead:], p)
	g.w += size
	q.n++
	q.bytes += size
	return dropped
}

// since is when the oldest datagram came; there must be one.
func (q *DatagramQueue) since() uint32 { return binary.NativeEndian.Uint32(q.first.buf[q.first.r:]) }

// Front returns the oldest datagram, of which there must be one. It is good until
// the queue is changed.
func (q *DatagramQueue) Front() []byte {
	record := q.first.buf[q.first.r:]
	return record[recordHead : recordHead+int(binary.NativeEndian.Uint16(record[4:]))]
}

// Drop removes the oldest datagram, of which there must be one.
func (q *DatagramQueue) Drop() {
	size := recordHead + len(q.Front())
	g := q.first
	g.r += size
	q.n--
	q.bytes -= size
	if g.r < g.w {
		return
	}
	if q.first = g.next; q.first == nil {
		q.last = nil
	}
	g.free()
}

// Clear removes all and returns how many those were.
func (q *DatagramQueue) Clear() (dropped int) {
	dropped = q.n
	for g := q.first; g != nil; {
		next := g.next
		g.free()
		g = next
	}
	*q = DatagramQueue{}
	return dropped
}

// newSegmentOf returns a segment that holds n bytes in one piece.
func newSegmentOf(n int) *segment {
	if n > segmentClasses[len(segmentClasses)-1] {
		return &segment{buf: make([]byte, n)} // free leaves it to the collector
	}
	return newSegment(n)
}
