package testkit

import (
	"bytes"
	"encoding/binary"
	"math"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"
)

// udpPacket is the beginning of one, with a number in it.
func udpPacket(number, size int) []byte {
	p := make([]byte, size)
	p[0], p[9] = 0x45, 17
	binary.BigEndian.PutUint32(p[20:], uint32(number))
	return p
}

// arrival is a packet at the end of a line.
type arrival struct {
	at     time.Duration
	number int
}

// drive sends n packets of size bytes, one each gap, and returns what arrives
// until the line is empty.
func drive(l *line, n, size int, gap time.Duration) []arrival {
	var got []arrival
	leave := func(now time.Duration) {
		for {
			due, some := l.next()
			if !some || due > now {
				return
			}
			l.leave(due, func(p []byte) error {
				got = append(got, arrival{due, int(binary.BigEndian.Uint32(p[20:]))})
				return nil
			})
		}
	}
	for i := range n {
		now := time.Duration(i) * gap
		leave(now)
		l.enter(now, udpPacket(i, size))
	}
	leave(math.MaxInt64)
	return got
}

func lineOf(seed uint64, p Path) *line {
	l := newLine(seed, 0)
	l.set(p)
	return l
}

// within checks a number of chances against its mean, four deviations wide.
func within(t *testing.T, what string, got uint64, n int, part float64) {
	t.Helper()
	mean, deviation := float64(n)*part, math.Sqrt(float64(n)*part*(1-part))
	if math.Abs(float64(got)-mean) > 4*deviation {
		t.Errorf("%s: %d of %d, want %.0f ± %.0f", what, got, n, mean, 4*deviation)
	}
}

func TestPathDelaysAndKeepsOrder(t *testing.T) {
	got := drive(lineOf(1, Path{Delay: 10 * time.Millisecond, Jitter: 4 * time.Millisecond}), 10_000, 200, 100*time.Microsecond)
	if len(got) != 10_000 {
		t.Fatalf("%d arrive", len(got))
	}
	late := make([]time.Duration, len(got))
	for i, a := range got {
		if a.number != i {
			t.Fatalf("packet %d arrives as number %d", a.number, i)
		}
		late[i] = a.at - time.Duration(i)*100*time.Microsecond
	}
	if least, most := slices.Min(late), slices.Max(late); least < 10*time.Millisecond || least > 10500*time.Microsecond || most > 14*time.Millisecond || most < 13500*time.Microsecond {
		t.Errorf("delays from %v to %v", least, most)
	}
}

func TestPathLosesDuplicatesAndReorders(t *testing.T) {
	const n = 50_000
	l := lineOf(7, Path{Delay: time.Millisecond, Loss: 0.02, Duplicate: 0.01, Reorder: 0.05, ReorderBy: 2 * time.Millisecond})
	got := drive(l, n, 100, 100*time.Microsecond)
	within(t, "lost", l.counts.Lost, n, 0.02)
	within(t, "duplicated", l.counts.Duplicated, n-int(l.counts.Lost), 0.01)
	within(t, "held back", l.counts.HeldBack, n-int(l.counts.Lost), 0.05)
	overtaken, latest := uint64(0), -1
	for _, a := range got {
		if a.number < latest {
			overtaken++
		}
		latest = max(latest, a.number)
	}
	// Those held back arrive behind others (twice, if they are also duplicated),
	// unless all that would overtake them are lost or held back as well.
	if overtaken < l.counts.HeldBack*95/100 || overtaken > l.counts.HeldBack*105/100 {
		t.Errorf("%d arrive behind later ones, %d were held back", overtaken, l.counts.HeldBack)
	}
	if want := n - l.counts.Lost + l.counts.Duplicated; uint64(len(got)) != want || l.counts.Out != want {
		t.Errorf("%d arrive, %d are counted, want %d", len(got), l.counts.Out, want)
	}
}

func TestPathDependsOnTheSeedAlone(t *testing.T) {
	p := Path{Loss: 0.1, Jitter: time.Millisecond, Duplicate: 0.1}
	a, b, c := drive(lineOf(3, p), 1000, 100, time.Millisecond), drive(lineOf(3, p), 1000, 100, time.Millisecond), drive(lineOf(4, p), 1000, 100, time.Millisecond)
	if !slices.Equal(a, b) || slices.Equal(a, c) {
		t.Error("the same seed must do the same, and another seed something else")
	}
	// What else the path does is no matter for who gets lost.
	numbers := func(list []arrival) map[int]bool {
		m := map[int]bool{}
		for _, a := range list {
			m[a.number] = true
		}
		return m
	}
	lost := numbers(a)
	for number := range numbers(drive(lineOf(3, Path{Loss: 0.1}), 1000, 100, time.Millisecond)) {
		if !lost[number] {
			t.Fatalf("packet %d is lost by one path and not by the other", number)
		}
	}
}

func TestPathHasABottleneckWithABoundedQueue(t *testing.T) {
	const size, rate, queue = 1000, 8_000_000, 20_000 // 1 ms a packet, 20 wait
	l := lineOf(1, Path{Delay: 5 * time.Millisecond, Rate: rate, Queue: queue})
	got := drive(l, 2000, size, 500*time.Microsecond) // twice the rate
	for i := 1; i < len(got); i++ {
		if gap := got[i].at - got[i-1].at; gap < 999*time.Microsecond || gap > 1001*time.Microsecond {
			t.Fatalf("%v between packets", gap)
		}
	}
	if l.counts.Overflowed < 950 || l.counts.Overflowed > 1000 {
		t.Errorf("%d of 2000 overflow", l.counts.Overflowed)
	}
	last := got[len(got)-1]
	if wait := last.at - time.Duration(last.number)*500*time.Microsecond; wait < 24*time.Millisecond || wait > 26*time.Millisecond {
		t.Errorf("the last one took %v, want 5 ms and a full queue of 20 ms", wait)
	}
	// A faster path does not wait for what the slow one was busy with.
	l.set(Path{})
	l.enter(last.at, udpPacket(1, size))
	if due, _ := l.next(); due != last.at {
		t.Errorf("due %v behind", due-last.at)
	}
}

func TestPathCutsAndLimitsSize(t *testing.T) {
	tcp, udp6 := udpPacket(1, 100), make([]byte, 100)
	tcp[9] = 6
	udp6[0], udp6[6] = 0x60, 17
	fragment6 := bytes.Clone(udp6)
	fragment6[6], fragment6[40] = 44, 17
	for _, test := range []struct {
		name   string
		cut    Cutting
		packet []byte
		passes bool
	}{
		{"nothing", CutNothing, udpPacket(1, 100), true},
		{"all", CutAll, tcp, false},
		{"UDP, but TCP", CutUDP, tcp, true},
		{"UDP", CutUDP, udpPacket(1, 100), false},
		{"UDP over IPv6", CutUDP, udp6, false},
		{"fragment over IPv6", CutUDP, fragment6, false},
		{"no IP", CutUDP, []byte{1, 2, 3}, true},
		{"too big", CutNothing, udpPacket(1, 1281), false},
		{"just not", CutNothing, udpPacket(1, 1280), true},
	} {
		l := lineOf(1, Path{MaxPacket: 1280})
		l.cut = test.cut
		l.enter(0, test.packet)
		l.leave(0, func([]byte) error { return nil })
		if c := l.counts; c.Out == 1 != test.passes || c.In != c.Out+c.Cut+c.TooBig {
			t.Errorf("%s: %+v", test.name, c)
		}
	}
}

// datagram is a whole UDP packet over IPv4 between two ports of two addresses.
func datagram(from, to string, text string) []byte {
	a, b := netip.MustParseAddrPort(from), netip.MustParseAddrPort(to)
	p := make([]byte, 28+len(text))
	p[0], p[8], p[9] = 0x45, 64, 17
	binary.BigEndian.PutUint16(p[2:], uint16(len(p)))
	copy(p[12:], a.Addr().AsSlice())
	copy(p[16:], b.Addr().AsSlice())
	binary.BigEndian.PutUint16(p[20:], a.Port())
	binary.BigEndian.PutUint16(p[22:], b.Port())
	binary.BigEndian.PutUint16(p[24:], uint16(8+len(text)))
	copy(p[28:], text)
	mendChecksums(p)
	return p
}

func addressesOf(p []byte) (from, to string) {
	at := func(i, j int) string {
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte(p[i:])), binary.BigEndian.Uint16(p[j:])).String()
	}
	return at(12, 20), at(16, 22)
}

// TestPathTranslates holds a NAT: answers pass until it is rebound, and then only
// those to the new port.
func TestPathTranslates(t *testing.T) {
	var n translator
	const inside, server = "10.0.0.1:5000", "10.0.0.2:3478"
	leave := func() string {
		p := datagram(inside, server, "x")
		n.outward(p)
		from, to := addressesOf(p)
		if to != server {
			t.Errorf("the destination became %s", to)
		}
		return from
	}
	enter := func(to string) (string, bool) {
		p := datagram(server, to, "y")
		ok := n.inward(p)
		_, to = addressesOf(p)
		return to, ok
	}
	if got := leave(); got != inside {
		t.Errorf("without a NAT it leaves from %s", got)
	}
	n.rebind(netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.9"))
	if to, ok := enter(inside); ok {
		t.Errorf("what nobody asked for comes to %s", to)
	}
	first := leave()
	if first == inside || !strings.HasPrefix(first, "10.0.0.9:") {
		t.Errorf("it leaves from %s", first)
	}
	if to, ok := enter(first); !ok || to != inside {
		t.Errorf("the answer comes to %s, %v", to, ok)
	}
	n.rebind(netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.9"))
	second := leave()
	if second == first {
		t.Error("the rebinding changed nothing")
	}
	if _, ok := enter(first); ok {
		t.Error("the old mapping is still there")
	}
	if to, ok := enter(second); !ok || to != inside {
		t.Errorf("the answer comes to %s, %v", to, ok)
	}
}

// TestPathGarbles holds that garbage comes besides what was sent.
func TestPathGarbles(t *testing.T) {
	l := lineOf(3, Path{Garble: 1})
	sent := datagram("10.0.0.1:5000", "10.0.0.2:3478", "\x17 is the kind")
	l.enter(0, sent)
	var got [][]byte
	l.leave(math.MaxInt64, func(p []byte) error {
		got = append(got, bytes.Clone(p))
		return nil
	})
	if len(got) != 2 || !bytes.Equal(got[0], sent) || bytes.Equal(got[1], sent) || !bytes.Equal(got[1][:24], sent[:24]) || got[1][28] != 0x17 || l.counts.Garbled != 1 {
		t.Errorf("out came %x for %x, %d garbled", got, sent, l.counts.Garbled)
	}
}
