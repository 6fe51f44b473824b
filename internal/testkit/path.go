package testkit

import (
	"container/heap"
	"math/rand/v2"
	"time"
)

// Path is what one direction of a Cable does to packets. The zero value hands
// everything on at once. Parts are between 0 and 1; in which order things
// happen: cut, MaxPacket, Rate and Queue, Loss, then Delay and the rest.
type Path struct {
	Delay  time.Duration // from in to out, besides the wait for Rate
	Jitter time.Duration // 0 to this more, up and down as a queue elsewhere fills and empties; nobody overtakes by it
	Loss   float64       // part of the packets that get lost
	// Duplicate is the part of the packets that arrive twice.
	Duplicate float64
	// Reorder is the part of the packets that are held back by ReorderBy (0: 5 ms),
	// so that those behind overtake them.
	Reorder   float64
	ReorderBy time.Duration
	// Garble is the part of the UDP packets over IPv4 that are followed by one with
	// the same addresses and first byte whose other bytes are nonsense.
	Garble float64
	// Rate is that of the bottleneck in bits a second of IP packets; 0: none.
	Rate int64
	// Queue is what may wait before the bottleneck, in bytes; what does not fit is
	// dropped. 0: 50 ms of Rate, 32 KiB at least.
	Queue int
	// MaxPacket drops bigger packets (IP header and all) without a word, as a path
	// does whose MTU is smaller than that of the interfaces and whose ICMP messages
	// are filtered; 0: none.
	MaxPacket int
}

// Cutting is what a Cable lets through.
type Cutting int32

const (
	CutNothing Cutting = iota
	CutUDP             // UDP is lost, whatever else there is passes
	CutAll
)

// Packets counts what a direction of a Cable has done.
type Packets struct {
	In           uint64 // came from the sender
	Out          uint64 // handed to the receiver, the second ones of duplicates too
	Cut          uint64 // lost to a cut
	TooBig       uint64 // lost to MaxPacket
	Overflowed   uint64 // lost to a full queue
	Lost         uint64 // lost to Loss
	Duplicated   uint64
	HeldBack     uint64 // by Reorder
	Garbled      uint64 // sent besides, by Garble
	Untranslated uint64 // dropped by the NAT, which nobody behind it has opened
	BytesIn      uint64
	BytesOut     uint64
	Unsupported  uint64 // refused by the receiver's interface
}

// maxHeld bounds what a direction holds, in packets: a second of 1 Gbit/s.
const maxHeld = 100_000

// line is one direction: pure, without a clock or device of its own. The n-th
// packet takes its random numbers from the same place of the seed's sequence
// whatever the Path is, so the same n-th packets get lost in every run.
type line struct {
	path   Path
	cut    Cutting
	random *rand.Rand
	seed   uint64      // of the jitter
	nat    *translator // nil: none
	inward bool        // this direction leads to who is behind the NAT
	counts Packets

	held    packetHeap
	order   uint64
	idle    time.Duration // when the bottleneck has sent what waits before it
	latest  time.Duration // the end of the last packet that was not held back
	buffers [][]byte      // to be used again
}

// heldPacket is on its way.
type heldPacket struct {
	due   time.Duration
	order uint64
	data  []byte
}

type packetHeap []heldPacket

func (h packetHeap) Len() int { return len(h) }
func (h packetHeap) Less(i, j int) bool {
	return h[i].due < h[j].due || h[i].due == h[j].due && h[i].order < h[j].order
}
func (h packetHeap) Swap(i, j int) { h[i], h[j] = h[j], h[i] }
func (h *packetHeap) Push(x any)   { *h = append(*h, x.(heldPacket)) }
func (h *packetHeap) Pop() any {
	old := *h
	last := old[len(old)-1]
	*h = old[:len(old)-1]
	return last
}

func newLine(seed, direction uint64) *line {
	return &line{random: rand.New(rand.NewPCG(seed, direction)), seed: seed ^ direction}
}

// sway is the part of the jitter that a packet suffers: straight lines between
// values of chance that are 10 ms apart. Were it another for each packet, those
// of a fast stream, which cannot overtake, would all suffer the most.
func (l *line) sway(now time.Duration) float64 {
	const apart = 10 * time.Millisecond
	value := func(step time.Duration) float64 {
		return rand.New(rand.NewPCG(l.seed, uint64(step))).Float64()
	}
	step, part := now/apart, float64(now%apart)/float64(apart)
	return value(step)*(1-part) + value(step+1)*part
}

// enter takes a packet, which it copies, and may change if there is a NAT. Times are of any clock that does not
// go back.
func (l *line) enter(now time.Duration, packet []byte) {
	lost, twice, back := l.random.Float64(), l.random.Float64(), l.random.Float64()
	l.counts.In++
	l.counts.BytesIn += uint64(len(packet))
	if l.nat != nil && !l.inward {
		l.nat.outward(packet)
	} else if l.nat != nil && !l.nat.inward(packet) {
		l.counts.Untranslated++
		return
	}
	switch {
	case l.cut == CutAll || l.cut == CutUDP && isUDP(packet):
		l.counts.Cut++
		return
	case l.path.MaxPacket > 0 && len(packet) > l.path.MaxPacket:
		l.counts.TooBig++
		return
	case len(l.held) >= maxHeld:
		l.counts.Overflowed++
		return
	}
	leaves := now
	if rate := l.path.Rate; rate > 0 {
		begins := max(now, l.idle)
		if waiting := int64(begins-now) * rate / (8 * int64(time.Second)); waiting+int64(len(packet)) > l.path.queue() {
			l.counts.Overflowed++
			return
		}
		leaves = begins + time.Duration(int64(len(packet))*8*int64(time.Second)/rate)
		l.idle = leaves
	}
	if lost < l.path.Loss {
		l.counts.Lost++
		return
	}
	due := leaves + l.path.Delay
	if l.path.Jitter > 0 {
		due += time.Duration(l.sway(leaves) * float64(l.path.Jitter))
	}
	due = max(due, l.latest)
	if back < l.path.Reorder {
		l.counts.HeldBack++
		by := l.path.ReorderBy
		if by == 0 {
			by = 5 * time.Millisecond
		}
		due += by
	} else {
		l.latest = due
	}
	l.hold(due, packet)
	if twice < l.path.Duplicate {
		l.counts.Duplicated++
		l.hold(due, packet)
	}
	if l.path.Garble > 0 && l.random.Float64() < l.path.Garble {
		nonsense := append([]byte(nil), packet...)
		if garble(nonsense) {
			l.counts.Garbled++
			l.hold(due, nonsense)
		}
	}
}

// queue is what may wait before the bottleneck, in bytes.
func (p Path) queue() int64 {
	if p.Queue > 0 {
		return int64(p.Queue)
	}
	return max(32<<10, p.Rate/8/20)
}

// set changes what the line does from now on. Who is on the way already stays
// so, and nobody waits for a time that a slower path has set.
func (l *line) set(p Path) {
	l.path, l.idle, l.latest = p, 0, 0
}

func (l *line) hold(due time.Duration, packet []byte) {
	var buf []byte
	if n := len(l.buffers); n > 0 {
		buf, l.buffers = l.buffers[n-1], l.buffers[:n-1]
	}
	l.order++
	heap.Push(&l.held, heldPacket{due, l.order, append(buf[:0], packet...)})
}

// next is when the next packet leaves, if there is one.
func (l *line) next() (time.Duration, bool) {
	if len(l.held) == 0 {
		return 0, false
	}
	return l.held[0].due, true
}

// leave hands out, in order, what is due.
func (l *line) leave(now time.Duration, out func([]byte) error) {
	for len(l.held) > 0 && l.held[0].due <= now {
		p := heap.Pop(&l.held).(heldPacket)
		if err := out(p.data); err != nil {
			l.counts.Unsupported++
		} else {
			l.counts.Out++
			l.counts.BytesOut += uint64(len(p.data))
		}
		l.buffers = append(l.buffers, p.data)
	}
}

// isUDP looks at an IP packet. Later fragments count as what their first one is.
// Extension headers of IPv6 other than that of fragments are not looked behind.
func isUDP(packet []byte) bool {
	const udp, fragment = 17, 44
	switch {
	case len(packet) >= 20 && packet[0]>>4 == 4:
		return packet[9] == udp
	case len(packet) >= 40 && packet[0]>>4 == 6:
		return packet[6] == udp || packet[6] == fragment && len(packet) > 40 && packet[40] == udp
	default:
		return false
	}
}
