package culvert

import (
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/culvertgate/culvert/tunnel"
	"github.com/culvertgate/culvert/tunnel/gateway"
	"github.com/culvertgate/culvert/tunnel/udp"
)

// traffic adds up what sessions and raw channels moved: those that live, and those
// that ended since the process began. The zero value is empty and ready; safe for
// concurrent use.
type traffic struct {
	mu    sync.Mutex
	live  map[*tunnel.Session]string     // side; guarded by mu
	ended map[string]tunnel.SessionStats // by side; guarded by mu

	exits     map[*gateway.Exit]bool // of the gateway's tunnels that are open; guarded by mu
	endedRaws gateway.RawStats       // of those that ended; guarded by mu
}

func (t *traffic) add(s *tunnel.Session, side string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.live == nil {
		t.live, t.ended = map[*tunnel.Session]string{}, map[string]tunnel.SessionStats{}
	}
	t.live[s] = side
}

// remove keeps the final counters of a session that has ended.
func (t *traffic) remove(s *tunnel.Session) {
	t.mu.Lock()
	defer t.mu.Unlock()
	side, ok := t.live[s]
	if !ok {
		return
	}
	delete(t.live, s)
	t.ended[side] = addStats(t.ended[side], s.Stats())
}

// addTunnel counts a gateway's tunnel that has opened, and its raw channels: they
// are no session's.
func (t *traffic) addTunnel(e *gateway.Exit) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.exits == nil {
		t.exits = map[*gateway.Exit]bool{}
	}
	t.exits[e] = true
}

// removeTunnel keeps the final counters of a tunnel that has been released; of one
// that never opened there are none.
func (t *traffic) removeTunnel(e *gateway.Exit) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.exits[e] {
		delete(t.exits, e)
		t.endedRaws = addRaws(t.endedRaws, e.RawStats())
	}
}

// sums returns the counters of all sessions and raw channels of a side since the
// process began, the gauges of those that live, and how many tunnels are open.
func (t *traffic) sums(side string) (total tunnel.SessionStats, tunnels int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	total = t.ended[side]
	for s, its := range t.live {
		if its != side {
			continue
		}
		stats := s.Stats()
		total = addStats(total, stats)
		total.Streams += stats.Streams
		total.Queued += stats.Queued
		tunnels++
	}
	if side != sideGateway {
		return total, tunnels
	}
	raws := t.endedRaws
	for e := range t.exits {
		stats := e.RawStats()
		raws = addRaws(raws, stats)
		total.Streams += stats.Open
	}
	total.BytesIn += raws.BytesIn
	total.BytesOut += raws.BytesOut
	return total, len(t.exits)
}

// addRaws adds counters; the gauge stays that of a.
func addRaws(a, b gateway.RawStats) gateway.RawStats {
	a.BytesIn += b.BytesIn
	a.BytesOut += b.BytesOut
	return a
}

// roundTrips returns the smoothed round trips of the sessions that live.
func (t *traffic) roundTrips() []time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	var list []time.Duration
	for s := range t.live {
		if rtt := s.Stats().RTT; rtt > 0 {
			list = append(list, rtt)
		}
	}
	return list
}

// packets adds up what UDP sockets moved, like traffic does for sessions.
type packets struct {
	mu    sync.Mutex
	live  map[*udp.Socket]bool // guarded by mu
	ended udp.Stats            // guarded by mu
}

func (p *packets) add(s *udp.Socket) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.live == nil {
		p.live = map[*udp.Socket]bool{}
	}
	p.live[s] = true
}

func (p *packets) remove(s *udp.Socket) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.live[s] {
		delete(p.live, s)
		p.ended = addPackets(p.ended, s.Stats())
	}
}

func (p *packets) sum() udp.Stats {
	p.mu.Lock()
	defer p.mu.Unlock()
	sum := p.ended
	for s := range p.live {
		sum = addPackets(sum, s.Stats())
	}
	return sum
}

func addPackets(a, b udp.Stats) udp.Stats {
	a.PacketsIn += b.PacketsIn
	a.PacketsOut += b.PacketsOut
	a.Dropped += b.Dropped
	a.ReceiveErrors += b.ReceiveErrors
	return a
}

// addStats adds counters; gauges stay those of a.
func addStats(a, b tunnel.SessionStats) tunnel.SessionStats {
	a.BytesIn += b.BytesIn
	a.BytesOut += b.BytesOut
	a.FramesIn += b.FramesIn
	a.FramesOut += b.FramesOut
	a.Blocked += b.Blocked
	a.WindowBlocked += b.WindowBlocked
	return a
}

// liveCollector reads the hubs and sessions at the moment of a scrape.
type liveCollector struct{ m *metrics }

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc(metricsPrefix+name, help, labels, nil)
}

var (
	descTunnels       = desc("tunnels", "Tunnels that are open.", "side", "carrier")
	descStreams       = desc("streams", "Streams that are open.", "side")
	descBytes         = desc("bytes_total", "Payload bytes of streams; out is towards the peer.", "side", "direction")
	descFrames        = desc("frames_total", "Frames; out is towards the peer.", "side", "direction")
	descBlocked       = desc("carrier_blocked_seconds_total", "Time that senders waited for room in their carrier, in seconds.")
	descWindowBlocked = desc("window_blocked_total", "Times that a stream had data and no credit.")
	descBuffered      = desc("buffered_bytes", "Bytes received and not yet delivered.")
	descBudget        = desc("memory_budget_bytes", "Bytes taken from the memory budget.")
	descLimit         = desc("memory_limit_bytes", "Bytes that the memory budget has.")
	descBreakers      = desc("breaker_state", "Breakers of named targets, and the worst of the addresses that each dynamic rule allows: 0 closed, 1 half open, 2 open.", "target")
	descPackets       = desc("udp_packets_total", "Packets of the UDP socket; dropped ones were neither STUN nor from a checked pair.", "direction")
	descReceiveErrors = desc("udp_receive_errors_total", "Reads of the UDP socket that failed, and packets that the kernel dropped there, mostly because the buffer was full.")
	descEventsDropped = desc("events_dropped_total", "Events that no subscriber heard of because the queue was full.")
)

// Describe implements prometheus.Collector.
func (*liveCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		descTunnels, descStreams, descBytes, descFrames, descBlocked, descWindowBlocked,
		descBuffered, descBudget, descLimit, descBreakers, descPackets, descReceiveErrors, descEventsDropped,
	} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (c *liveCollector) Collect(ch chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	counter := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, v, labels...)
	}
	var all tunnel.SessionStats
	for _, side := range []string{sideGateway, sideClient} {
		sum, tunnels := c.m.traffic.sums(side)
		gauge(descTunnels, float64(tunnels), side, carrierWebRTC)
		gauge(descStreams, float64(sum.Streams), side)
		counter(descBytes, float64(sum.BytesIn), side, "in")
		counter(descBytes, float64(sum.BytesOut), side, "out")
		counter(descFrames, float64(sum.FramesIn), side, "in")
		counter(descFrames, float64(sum.FramesOut), side, "out")
		all = addStats(all, sum)
		all.Queued += sum.Queued
	}
	counter(descBlocked, all.Blocked.Seconds())
	counter(descWindowBlocked, float64(all.WindowBlocked))
	gauge(descBuffered, float64(all.Queued))
	counter(descEventsDropped, float64(c.m.eventsDropped.Load()))
	c.collectHubs(gauge, counter)
}

type emitFunc func(d *prometheus.Desc, v float64, labels ...string)

func (c *liveCollector) collectHubs(gauge, counter emitFunc) {
	var used, limit int64
	for _, h := range runningHubs() {
		used += h.memory.Used()
		limit += h.memory.Limit()
	}
	gauge(descBudget, float64(used))
	gauge(descLimit, float64(limit))
	for label, state := range breakerStates() {
		gauge(descBreakers, float64(state), label)
	}
	packets := c.m.packets.sum()
	counter(descPackets, float64(packets.PacketsIn), "in")
	counter(descPackets, float64(packets.PacketsOut), "out")
	counter(descPackets, float64(packets.Dropped), "dropped")
	counter(descReceiveErrors, float64(packets.ReceiveErrors))
}
