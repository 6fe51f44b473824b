package testkit

import (
	"context"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// cableFor is a cable between two new namespaces.
func cableFor(t *testing.T, cfg CableConfig) (*Cable, *Namespace, *Namespace) {
	t.Helper()
	near, far := NewNamespace(t), NewNamespace(t)
	return NewCable(t, near, far, cfg), near, far
}

// udpAcross opens a socket at each end; the first is connected to the second.
func udpAcross(t *testing.T, near, far *Namespace, from, to netip.Addr) (net.Conn, net.PacketConn) {
	t.Helper()
	l := must[net.PacketConn](t)(far.ListenPacket("udp", netip.AddrPortFrom(to, 0).String()))
	t.Cleanup(func() { l.Close() })
	var c net.Conn
	if err := near.Do(func() (err error) {
		c, err = net.DialUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(from, 0)), l.LocalAddr().(*net.UDPAddr))
		return err
	}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c, l
}

// delays sends n numbered datagrams of size bytes, one each gap, and returns how
// long each took that came, in order of their arrival.
func delays(t *testing.T, c net.Conn, l net.PacketConn, n, size int, gap time.Duration) (late []time.Duration, numbers []int) {
	t.Helper()
	sent := make([]time.Time, n)
	var mu sync.Mutex
	var wg sync.WaitGroup
	wg.Go(func() {
		buf := make([]byte, 9000)
		for {
			_, _, err := l.ReadFrom(buf)
			now := time.Now()
			if err != nil {
				return
			}
			i := int(binary.BigEndian.Uint32(buf))
			mu.Lock()
			late, numbers = append(late, now.Sub(sent[i])), append(numbers, i)
			mu.Unlock()
		}
	})
	packet := make([]byte, size)
	begin := time.Now()
	for i := range n {
		time.Sleep(time.Until(begin.Add(time.Duration(i) * gap)))
		binary.BigEndian.PutUint32(packet, uint32(i))
		mu.Lock()
		sent[i] = time.Now()
		mu.Unlock()
		if _, err := c.Write(packet); err != nil {
			t.Fatal(err)
		}
	}
	_ = l.SetReadDeadline(time.Now().Add(300 * time.Millisecond)) // longer than any path here
	wg.Wait()
	_ = l.SetReadDeadline(time.Time{})
	return late, numbers
}

func middle(list []time.Duration) time.Duration {
	sorted := slices.Sorted(slices.Values(list))
	return sorted[len(sorted)/2]
}

func TestCableDelaysBothFamilies(t *testing.T) {
	c, near, far := cableFor(t, CableConfig{Path: Path{Delay: 20 * time.Millisecond}})
	for name, ends := range map[string][2]netip.Addr{"IPv4": {c.Near(), c.Far()}, "IPv6": {c.Near6(), c.Far6()}} {
		conn, l := udpAcross(t, near, far, ends[0], ends[1])
		late, _ := delays(t, conn, l, 200, 100, 2*time.Millisecond)
		if m := middle(late); len(late) != 200 || slices.Min(late) < 20*time.Millisecond || m > 23*time.Millisecond {
			t.Errorf("%s: %d of 200 arrive, from %v, median %v, want 20 ms", name, len(late), slices.Min(late), m)
		}
	}
	// It changes while it is in use, and each direction by itself.
	c.SetEach(Path{}, Path{Delay: 50 * time.Millisecond})
	conn, l := udpAcross(t, near, far, c.Near(), c.Far())
	late, _ := delays(t, conn, l, 100, 100, time.Millisecond)
	if m := middle(late); len(late) != 100 || m > 5*time.Millisecond {
		t.Errorf("without a delay: %d arrive, median %v", len(late), m)
	}
	back, l2 := udpAcross(t, far, near, c.Far(), c.Near())
	late, _ = delays(t, back, l2, 100, 100, time.Millisecond)
	if m := middle(late); len(late) != 100 || m < 50*time.Millisecond || m > 55*time.Millisecond {
		t.Errorf("back: %d arrive, median %v", len(late), m)
	}
}

func TestCableLosesDuplicatesAndReorders(t *testing.T) {
	const n = 5000
	c, near, far := cableFor(t, CableConfig{Path: Path{Delay: time.Millisecond, Loss: 0.05, Duplicate: 0.02, Reorder: 0.02}, Return: &Path{}, Seed: 1})
	conn, l := udpAcross(t, near, far, c.Near(), c.Far())
	late, numbers := delays(t, conn, l, n, 100, 100*time.Microsecond)
	there, back := c.Packets()
	within(t, "lost", there.Lost, n, 0.05)
	within(t, "duplicated", there.Duplicated, n, 0.02)
	within(t, "held back", there.HeldBack, n, 0.02)
	if uint64(len(late)) != there.Out || there.In != n || there.Overflowed+there.Cut+there.TooBig+there.Unsupported+back.In != 0 {
		t.Errorf("%d arrive; there %+v, back %+v", len(late), there, back)
	}
	if slices.IsSorted(numbers) {
		t.Error("nobody was overtaken")
	}
}

func TestCableLimitsTheRateOfTCP(t *testing.T) {
	const size, rate = 5_000_000, 40_000_000 // a second and a bit
	c, near, far := cableFor(t, CableConfig{Path: Path{Delay: 2 * time.Millisecond, Rate: rate, Queue: 100_000}})
	took := transfer(t, near, far, netip.AddrPortFrom(c.Far(), 0), size)
	speed := float64(size) * 8 / took.Seconds()
	if speed > rate || speed < rate*0.7 {
		t.Errorf("TCP got %.1f Mbit/s of %.1f", speed/1e6, rate/1e6)
	}
}

func TestCableCarriesTCPByteExactWhateverHappens(t *testing.T) {
	c, near, far := cableFor(t, CableConfig{Path: Path{Delay: time.Millisecond, Loss: 0.01, Duplicate: 0.01, Reorder: 0.01, Jitter: time.Millisecond}})
	for _, address := range []netip.Addr{c.Far(), c.Far6()} {
		transfer(t, near, far, netip.AddrPortFrom(address, 0), 3_000_000)
	}
}

// transfer sends bytes from near to far by TCP, compares hashes, and returns how
// long it took.
func transfer(t *testing.T, near, far *Namespace, address netip.AddrPort, size int64) time.Duration {
	t.Helper()
	l := must[net.Listener](t)(far.Listen("tcp", address.String()))
	defer l.Close()
	type result struct {
		sum string
		n   int64
		err error
	}
	results := make(chan result, 1)
	go func() {
		conn, err := l.Accept()
		if err != nil {
			results <- result{err: err}
			return
		}
		defer conn.Close()
		sum, n, err := Hash(conn)
		results <- result{sum, n, err}
	}()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	conn := must[net.Conn](t)(near.DialContext(ctx, "tcp", l.Addr().String()))
	defer conn.Close()
	begin := time.Now()
	if _, err := conn.Write(PayloadBytes(9, int(size))); err != nil {
		t.Fatal(err)
	}
	if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if r := <-results; r.err != nil || r.n != size || r.sum != PayloadHash(9, size) {
		t.Errorf("%d of %d bytes arrived, right %v, %v", r.n, size, r.sum == PayloadHash(9, size), r.err)
	}
	return time.Since(begin)
}

func TestCableIsCutAndHealed(t *testing.T) {
	c, near, far := cableFor(t, CableConfig{})
	l := must[net.Listener](t)(far.Listen("tcp", netip.AddrPortFrom(c.Far(), 0).String()))
	defer l.Close()
	conn, u := udpAcross(t, near, far, c.Near(), c.Far())
	udp := func() bool {
		late, _ := delays(t, conn, u, 3, 50, time.Millisecond)
		return len(late) == 3
	}
	tcp := func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
		defer cancel()
		c, err := near.DialContext(ctx, "tcp", l.Addr().String())
		if err == nil {
			c.Close()
		}
		return err == nil
	}
	for _, step := range []struct {
		name     string
		do       func()
		udp, tcp bool
	}{
		{"at first", func() {}, true, true},
		{"UDP cut", func() { c.Cut(CutUDP) }, false, true},
		{"all cut", func() { c.Cut(CutAll) }, false, false},
		{"answers cut", func() { c.CutEach(CutNothing, CutAll) }, true, false},
		{"healed", c.Heal, true, true},
	} {
		step.do()
		if u, c := udp(), tcp(); u != step.udp || c != step.tcp {
			t.Errorf("%s: UDP passes %v, TCP %v", step.name, u, c)
		}
	}
}

// TestCableMTU: the interfaces' own is known to the sender; a path's smaller one
// is not.
func TestCableMTU(t *testing.T) {
	c, near, far := cableFor(t, CableConfig{MTU: 1400})
	conn, l := udpAcross(t, near, far, c.Near6(), c.Far6())
	passes := func(size int) bool {
		late, _ := delays(t, conn, l, 1, size, 0)
		return len(late) == 1
	}
	raw := must[syscall.RawConn](t)(conn.(*net.UDPConn).SyscallConn())
	if err := raw.Control(func(fd uintptr) {
		// The sender is told what does not fit.
		_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER, unix.IPV6_PMTUDISC_PROBE)
	}); err != nil {
		t.Fatal(err)
	}
	const headers = 48
	if !passes(1400 - headers) {
		t.Error("what fits does not pass")
	}
	if _, err := conn.Write(make([]byte, 1401-headers)); !errors.Is(err, syscall.EMSGSIZE) {
		t.Errorf("what does not fit: %v", err)
	}
	c.Set(Path{MaxPacket: 1280})
	if !passes(1280-headers) || passes(1281-headers) {
		t.Error("a path of 1280 must let 1280 pass and lose 1281")
	}
	if there, _ := c.Packets(); there.TooBig != 1 {
		t.Errorf("%+v", there)
	}
}

func TestCableGoesWithClose(t *testing.T) {
	near, far := NewNamespace(t), NewNamespace(t)
	before := must[[]os.DirEntry](t)(os.ReadDir("/proc/self/fd"))
	c := must[*Cable](t)(near.OpenCable(far, CableConfig{}))
	if err := errors.Join(c.Close(), c.Close()); err != nil {
		t.Error(err)
	}
	if after := must[[]os.DirEntry](t)(os.ReadDir("/proc/self/fd")); len(after) > len(before) {
		t.Errorf("%d descriptors before, %d after", len(before), len(after))
	}
	if out := must[[]byte](t)(near.Command("ip", "-o", "link").Output()); strings.Contains(string(out), c.name) {
		t.Errorf("the interface is still there:\n%s", out)
	}
}
