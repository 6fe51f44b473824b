package tunnel

// leftover holds the bytes that an Endpoint did not take. It exists only while
// there are some. Its owner holds the stream's lock.
type leftover struct {
	head, tail *segment
	n          int
}

// append copies p to the end.
func (q *leftover) append(p []byte) {
	q.n += len(p)
	for len(p) > 0 {
		if q.tail == nil || q.tail.w == len(q.tail.buf) {
			g := newSegment(len(p))
			if q.tail == nil {
				q.head = g
			} else {
				q.tail.next = g
			}
			q.tail = g
		}
		n := copy(q.tail.buf[q.tail.w:], p)
		q.tail.w += n
		p = p[n:]
	}
}

// front returns the longest contiguous run of bytes at the front.
func (q *leftover) front() []byte {
	if q.head == nil {
		return nil
	}
	return q.head.buf[q.head.r:q.head.w]
}

// drop removes n bytes, all of which front has returned.
func (q *leftover) drop(n int) {
	q.n -= n
	g := q.head
	g.r += n
	if g.r < g.w {
		return
	}
	q.head = g.next
	if q.head == nil {
		q.tail = nil
	}
	g.free()
}

// clear drops everything and returns how much it was.
func (q *leftover) clear() int {
	n := q.n
	for q.head != nil {
		q.drop(len(q.front()))
	}
	return n
}
