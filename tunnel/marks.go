package tunnel

import "time"

// The carrier's high mark is how many bytes may be accepted and not yet
// acknowledged: it is the send window and, when the path is full, the queue that
// a keystroke waits behind. The trial that these figures come from is described
// in docs/architecture.md.
const (
	markStart       = 256 << 10
	markInteractive = 64 << 10 // least, while an interactive stream is active
	markMost        = 2 << 20
	// markMemory is for how long a class counts as active after its last turn.
	markMemory = 300 * time.Millisecond
	// rateEvery is how often the rate is measured.
	rateEvery = 100 * time.Millisecond
)

// marks sizes the high mark. It belongs to the sender goroutine.
type marks struct {
	interactiveAt time.Duration // last turn of an interactive stream
	bulkAt        time.Duration // last turn of a bulk stream
	written       uint64
	ratedAt       time.Duration
	ratedAcked    uint64
	rate          float64 // acknowledged bytes a second
	mark          int
}

func (m *marks) init() {
	m.mark = markStart
	m.interactiveAt, m.bulkAt = -markMemory, -markMemory
}

func (m *marks) wrote(n int) { m.written += uint64(n) }

// high returns the mark for now, at which buffered bytes are not acknowledged.
// minRTT is 0 before the first measurement.
func (m *marks) high(at time.Duration, buffered int, minRTT time.Duration) int {
	if elapsed := at - m.ratedAt; elapsed >= rateEvery {
		acked := m.written - min(uint64(buffered), m.written)
		if elapsed < 4*rateEvery && acked >= m.ratedAcked {
			m.rate = max(float64(acked-m.ratedAcked)/elapsed.Seconds(), m.rate*0.9)
		}
		m.ratedAt, m.ratedAcked = at, acked
	}
	path := m.rate * minRTT.Seconds()
	if at-m.interactiveAt < markMemory && at-m.bulkAt < markMemory {
		m.mark = clampMark(path, markInteractive)
	} else {
		m.mark = clampMark(path*1.5, markStart)
	}
	return m.mark
}

func clampMark(bytes float64, least int) int {
	return int(min(max(bytes, float64(least)), markMost))
}

// low is where the carrier is to say that it has room again: close below the
// high mark, so that the path never runs empty.
func (m *marks) low() int { return m.mark / 8 * 7 }
