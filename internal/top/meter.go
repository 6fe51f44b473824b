package top

import "time"

// rate is bytes a second, in both directions.
type rate struct {
	in, out float64
	known   bool // two readings were compared
}

// total orders by rate: what is not known comes last.
func (r rate) total() float64 {
	if !r.known {
		return -1
	}
	return r.in + r.out
}

// reading is the byte counters of something, named by its key. Something else that
// takes an old key begins at another time.
type reading struct {
	key     string
	since   time.Time
	in, out uint64
}

// leastGap is how far two readings must be apart to be compared: closer ones tell
// more of when they were taken than of what was carried.
const leastGap = 100 * time.Millisecond

// meter turns counters into rates. The zero value is ready; it is not safe for
// concurrent use.
type meter struct {
	at    time.Time // of the readings
	last  map[string]reading
	rates map[string]rate
}

// read takes all counters of a moment. What was not there before has no rate yet;
// nor has what counts less than before, which began anew. What is no longer there
// is forgotten.
func (m *meter) read(at time.Time, now []reading) {
	gap := at.Sub(m.at)
	if m.last != nil && gap < leastGap {
		return
	}
	last, rates := make(map[string]reading, len(now)), make(map[string]rate, len(now))
	for _, r := range now {
		last[r.key] = r
		before, known := m.last[r.key]
		if !known || !before.since.Equal(r.since) || r.in < before.in || r.out < before.out {
			continue
		}
		rates[r.key] = rate{
			in: float64(r.in-before.in) / gap.Seconds(), out: float64(r.out-before.out) / gap.Seconds(), known: true,
		}
	}
	m.at, m.last, m.rates = at, last, rates
}

// rate returns what the last two readings of a key say.
func (m *meter) rate(key string) rate { return m.rates[key] }

// rateTunnels fills in the rates of a list that was read at a time.
func (m *meter) rateTunnels(at time.Time, list []tunnelRow) {
	now := make([]reading, len(list))
	for i, t := range list {
		now[i] = reading{t.ID, t.Since, t.BytesIn, t.BytesOut}
	}
	m.read(at, now)
	for i := range list {
		list[i].rate = m.rate(list[i].ID)
	}
}

// rateStreams is rateTunnels for streams. Their beginning is not told exactly: a
// number that is taken again is noticed by its counters.
func (m *meter) rateStreams(at time.Time, list []streamRow) {
	now := make([]reading, len(list))
	for i, s := range list {
		now[i] = reading{key: s.id, in: s.bytesIn, out: s.bytesOut}
	}
	m.read(at, now)
	for i := range list {
		list[i].rate = m.rate(list[i].id)
	}
}
