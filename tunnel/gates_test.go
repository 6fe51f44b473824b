package tunnel_test

import (
	"context"
	"runtime"
	"runtime/debug"
	"strconv"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"go.uber.org/goleak"

	"github.com/culvertgate/culvert/framecodec"
	"github.com/culvertgate/culvert/tunnel"
)

// The gates are what the design promises in figures. Those that count
// allocations and memory mean nothing under the race detector: `make test` runs
// this file without it as well.

// pump is an Endpoint that gives frames of one size as long as it is on, and
// takes and counts everything.
type pump struct {
	ready tunnel.Readiness
	size  int
	left  atomic.Int64 // frames to give
	took  atomic.Int64
}

func (e *pump) Bind(r tunnel.Readiness) { e.ready = r }

func (e *pump) TryRead(p []byte) (int, error) {
	if e.left.Add(-1) < 0 {
		return 0, tunnel.ErrWouldBlock
	}
	if len(p) < e.size { // the rest of a message: once more
		e.left.Add(1)
		go e.ready.Readable()
		return 0, tunnel.ErrWouldBlock
	}
	return e.size, nil
}

func (e *pump) TryWrite(p []byte) (int, error) {
	e.took.Add(int64(len(p)))
	return len(p), nil
}

func (e *pump) CloseWrite() error { return nil }
func (e *pump) Close(tunnel.Code) {}

// give starts n frames and waits until the other end has them.
func (e *pump) give(t testing.TB, n int, to *pump) {
	t.Helper()
	want := to.took.Load() + int64(n*e.size)
	e.left.Store(int64(n))
	e.ready.Readable()
	for deadline := time.Now().Add(30 * time.Second); to.took.Load() < want; runtime.Gosched() {
		if time.Now().After(deadline) {
			t.Fatalf("%d of %d bytes came", to.took.Load(), want)
		}
		if e.size < 16<<10 { // a short read is followed by a signal
			e.ready.Readable()
		}
	}
}

// pumpPair is one open stream between two pumps.
func pumpPair(t testing.TB, d tunnel.Dialect, size int) (entry, exit *pump) {
	return limitedPair(t, d, size, tunnel.Rates{})
}

// limitedPair is pumpPair with a limit at the gateway.
func limitedPair(t testing.TB, d tunnel.Dialect, size int, r tunnel.Rates) (entry, exit *pump) {
	t.Helper()
	a, b := newWires()
	entry, exit = &pump{size: size}, &pump{size: size}
	gateway := tunnel.NewSession(b, tunnel.Config{Dialect: d, Role: tunnel.RoleGateway, Rates: r,
		Accept: func(in *tunnel.Incoming) { _ = in.Attach(exit, "") }})
	client := tunnel.NewSession(a, tunnel.Config{Dialect: d, Role: tunnel.RoleClient})
	t.Cleanup(func() {
		client.Close(0, "")
		client.Wait()
		gateway.Wait()
	})
	if _, err := client.Open(context.Background(), duoTarget, entry); err != nil {
		t.Fatal(err)
	}
	return entry, exit
}

// No allocation per data frame on the way Endpoint, Carrier, Endpoint.
func TestGateAllocations(t *testing.T) {
	if raceEnabled {
		t.Skip("sync.Pool drops values at random under the race detector")
	}
	defer debug.SetGCPercent(debug.SetGCPercent(-1)) // a collection empties the pools
	for _, d := range []tunnel.Dialect{tunnel.Dialect1, tunnel.Dialect2} {
		testAllocations(t, d, tunnel.Rates{})
		// Held up for part of the time: a timer, the heap and the buckets take nothing either.
		testAllocations(t, d, tunnel.Rates{Out: tunnel.NewBucket(200 << 20), In: tunnel.NewBucket(200 << 20), Stream: 150 << 20})
	}
}

func testAllocations(t *testing.T, d tunnel.Dialect, r tunnel.Rates) {
	t.Helper()
	entry, exit := limitedPair(t, d, 16<<10, r)
	entry.give(t, 2000, exit) // pools and windows grow
	exit.give(t, 2000, entry)
	const frames = 20_000
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	entry.give(t, frames/2, exit)
	exit.give(t, frames/2, entry)
	runtime.ReadMemStats(&after)
	per := float64(after.Mallocs-before.Mallocs) / frames
	t.Logf("dialect %d, limited %v: %.4f allocations a frame", d, r.Stream > 0, per)
	if per > 0.01 {
		t.Errorf("dialect %d, limited %v: %.4f allocations a frame", d, r.Stream > 0, per)
	}
}

// A stream with its place in the table takes at most 256 bytes.
func TestGateStreamSize(t *testing.T) {
	size := unsafe.Sizeof(tunnel.Stream{}) + unsafe.Sizeof(uintptr(0))
	t.Logf("%d bytes", size)
	if size > 256 {
		t.Errorf("a stream takes %d bytes", size)
	}
}

// No goroutine is there for a stream.
func TestGateGoroutines(t *testing.T) {
	t.Cleanup(func() { goleak.VerifyNone(t) })
	const streams = 10_000
	p := newIdlePair(t, streams, 0)
	p.open(t, 1)
	before := runtime.NumGoroutine()
	p.open(t, streams-1)
	// What ends meanwhile, such as timers of other tests, may make it fewer.
	waitFor(t, func() bool { return runtime.NumGoroutine() <= before })
	if n := p.client.Stats().Streams; n != streams {
		t.Errorf("%d streams", n)
	}
	if n := p.gateway.Stats().Streams; n != streams {
		t.Errorf("%d streams", n)
	}
}

// idleEnd is the smallest Endpoint; it moved some bytes once.
type idleEnd struct {
	ready tunnel.Readiness
	give  int
}

func (e *idleEnd) Bind(r tunnel.Readiness)        { e.ready = r }
func (e *idleEnd) TryWrite(p []byte) (int, error) { return len(p), nil }
func (e *idleEnd) CloseWrite() error              { return nil }
func (e *idleEnd) Close(tunnel.Code)              {}
func (e *idleEnd) TryRead(p []byte) (int, error) {
	n := min(len(p), e.give)
	if n == 0 {
		return 0, tunnel.ErrWouldBlock
	}
	e.give -= n
	return n, nil
}

// idlePair holds many streams that do nothing.
type idlePair struct {
	client, gateway *tunnel.Session
	bytes           int // each way through each stream
}

func newIdlePair(t *testing.T, most, bytes int) *idlePair {
	a, b := newWires()
	p := &idlePair{bytes: bytes}
	exits := make([]idleEnd, most) // not counted as the engine's
	next := 0
	p.gateway = tunnel.NewSession(b, tunnel.Config{Dialect: tunnel.Dialect2, Role: tunnel.RoleGateway, MaxStreams: most,
		Accept: func(in *tunnel.Incoming) {
			e := &exits[next]
			next++
			e.give = bytes
			_ = in.Attach(e, "192.0.2.1:80")
			e.ready.Readable()
		}})
	p.client = tunnel.NewSession(a, tunnel.Config{Dialect: tunnel.Dialect2, Role: tunnel.RoleClient})
	t.Cleanup(func() {
		p.client.Close(0, "")
		p.client.Wait()
		p.gateway.Wait()
	})
	return p
}

// open opens n more streams and waits until bytes went each way through each.
func (p *idlePair) open(t *testing.T, n int) {
	t.Helper()
	all := uint64((p.client.Stats().Streams + n) * p.bytes)
	ends := make([]idleEnd, n)
	for i := range ends {
		e := &ends[i]
		e.give = p.bytes
		host := tunnel.Target{Kind: tunnel.KindTCP, Host: "h" + strconv.Itoa(i%10), Port: 22}
		if _, err := p.client.Open(context.Background(), host, e); err != nil {
			t.Fatal(err)
		}
		e.ready.Readable()
	}
	waitFor(t, func() bool {
		return p.client.Stats().BytesIn == all && p.gateway.Stats().BytesIn == all
	})
}

// Memory of an idle stream, both sides together, as the slope between 500 and
// 2,500 streams after 64 KiB went each way through each.
func TestGateIdleMemory(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector's shadow memory is no measure")
	}
	p := newIdlePair(t, 2600, 64<<10)
	used := func() uint64 {
		runtime.GC()
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc + m.StackInuse
	}
	p.open(t, 500)
	before := used()
	p.open(t, 2000)
	after := used()
	per := (float64(after) - float64(before)) / 2000
	own := float64(unsafe.Sizeof(idleEnd{})) // the entry's Endpoint
	t.Logf("%.0f bytes a stream, both sides, of which %.0f are the test's", per, own)
	if per-own > 1024 { // a side may have 1,024 with its socket
		t.Errorf("%.0f bytes an idle stream", per-own)
	}
	if n := len(p.client.Streams()); n != 2500 {
		t.Errorf("%d streams", n)
	}
}

func BenchmarkFrame(b *testing.B) {
	for _, size := range []int{64, 1 << 10, 16 << 10} {
		b.Run(strconv.Itoa(size), func(b *testing.B) {
			entry, exit := pumpPair(b, tunnel.Dialect2, size)
			b.SetBytes(int64(size))
			b.ReportAllocs()
			b.ResetTimer()
			entry.give(b, b.N, exit)
		})
	}
}

func BenchmarkOpen(b *testing.B) {
	a, w := newWires()
	gateway := tunnel.NewSession(w, tunnel.Config{Dialect: tunnel.Dialect2, Role: tunnel.RoleGateway,
		Accept: func(in *tunnel.Incoming) { in.Refuse(framecodec.CodeRefused, "") }})
	client := tunnel.NewSession(a, tunnel.Config{Dialect: tunnel.Dialect2, Role: tunnel.RoleClient})
	b.ReportAllocs()
	for range b.N {
		if _, err := client.Open(context.Background(), duoTarget, stuckEnd{}); err == nil {
			b.Fatal("opened")
		}
	}
	client.Close(0, "")
	client.Wait()
	gateway.Wait()
}
