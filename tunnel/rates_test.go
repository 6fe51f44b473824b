package tunnel_test

import (
	"context"
	"fmt"
	"math"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/culvertgate/culvert/framecodec"
	"github.com/culvertgate/culvert/tunnel"
)

const rateWire = 64 << 20 // bytes a second of the wires here, more than any limit

func tunnelRate(perSecond int64) tunnel.Rates {
	return tunnel.Rates{Out: tunnel.NewBucket(perSecond), In: tunnel.NewBucket(perSecond)}
}

// inRated runs f with two sessions on a wire of 5 ms, whose gateway has limits.
func inRated(t *testing.T, d tunnel.Dialect, r tunnel.Rates, f func(p *slowDuo)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		a, b := newSlowWires(t, rateWire, 5*time.Millisecond)
		p := &slowDuo{t: t, exits: map[string]tunnel.Endpoint{}}
		p.gateway = tunnel.NewSession(b, tunnel.Config{Dialect: d, Role: tunnel.RoleGateway, Rates: r,
			Accept: func(in *tunnel.Incoming) { _ = in.Attach(p.exits[in.Target().Host], "") }})
		p.client = tunnel.NewSession(a, tunnel.Config{Dialect: d, Role: tunnel.RoleClient})
		<-p.client.Ready()
		f(p)
		p.client.Close(0, "")
		p.client.Wait()
		p.gateway.Wait()
		if n := p.gateway.Held(); n != 0 {
			t.Errorf("%d streams are still held", n)
		}
	})
}

// openTo opens a stream; dialect 1 knows no names.
func (p *slowDuo) openTo(name string, entry, exit tunnel.Endpoint) *tunnel.Stream {
	p.t.Helper()
	p.exits[name] = exit
	st, err := p.client.Open(context.Background(), tunnel.Target{Kind: tunnel.KindTCP, Host: name, Port: 80}, entry)
	if err != nil {
		p.t.Fatal(err)
	}
	return st
}

// direction of a stream, as the gateway sees it.
type direction string

const (
	outwards direction = "out"
	inwards  direction = "in"
)

// bulk opens a stream that always has more in one direction, and returns the end
// that counts.
func (p *slowDuo) bulk(name string, d direction) *handEnd {
	p.t.Helper()
	sink := new(handEnd)
	if d == outwards {
		p.openTo(name, sink, new(source))
	} else {
		p.openTo(name, new(source), sink)
	}
	return sink
}

func within(got, want, share float64) bool { return math.Abs(got-want) <= share*want }

// A limit holds in both directions: exactly once the first second's worth has
// passed, and never is more than that ahead.
func TestRates(t *testing.T) {
	type limit struct {
		name string
		of   func(perSecond int64) tunnel.Rates
		d1   []direction
	}
	limits := []limit{
		{"tunnel", tunnelRate, []direction{outwards, inwards}},
		{"stream", func(n int64) tunnel.Rates { return tunnel.Rates{Stream: n} }, []direction{outwards}},
		{"both", func(n int64) tunnel.Rates { r := tunnelRate(n); r.Stream = 3 * n; return r }, []direction{outwards, inwards}},
	}
	for _, d := range []tunnel.Dialect{tunnel.Dialect2, tunnel.Dialect1} {
		for _, l := range limits {
			directions := []direction{outwards, inwards}
			if d == tunnel.Dialect1 {
				directions = l.d1
			}
			for _, dir := range directions {
				for _, rate := range []int{2000, 100 << 10, 1 << 20, 20 << 20} {
					t.Run(fmt.Sprintf("dialect %d/%s/%s/%d", d, l.name, dir, rate), func(t *testing.T) {
						testRate(t, d, l.of(int64(rate)), dir, rate)
					})
				}
			}
		}
	}
}

func testRate(t *testing.T, d tunnel.Dialect, r tunnel.Rates, dir direction, rate int) {
	inRated(t, d, r, func(p *slowDuo) {
		from := time.Now()
		sink := p.bulk("x", dir)
		// What may pass at once: a second's worth, or the first windows.
		first := max(rate, 64<<10)
		if dir == inwards {
			first = max(first, 1<<20+64<<10)
		}
		for range 5 {
			time.Sleep(time.Second)
			if got, most := sink.taken(), first+int(1.02*float64(rate)*time.Since(from).Seconds()); got > most {
				t.Errorf("%d bytes after %v, %d may have passed", got, time.Since(from), most)
			}
		}
		// At the lowest rate what may pass at once lasts for minutes, and a frame for
		// seconds.
		time.Sleep(time.Duration(float64(2<<20) / float64(rate) * float64(time.Second)))
		seconds := max(4, 400_000/rate)
		before := sink.taken()
		time.Sleep(time.Duration(seconds) * time.Second)
		got := float64(sink.taken()-before) / float64(seconds)
		t.Logf("%.0f bytes a second of %d", got, rate)
		if !within(got, float64(rate), 0.05) {
			t.Errorf("%.0f bytes a second of %d", got, rate)
		}
	})
}

// Two limits at once: the streams share the tunnel's, none has more than its own,
// and a stream of another tunnel knows nothing of it.
func TestRatesShared(t *testing.T) {
	for _, dir := range []direction{outwards, inwards} {
		t.Run(string(dir), func(t *testing.T) {
			r := tunnelRate(3 << 20)
			r.Stream = 1 << 20
			inRated(t, tunnel.Dialect2, r, func(p *slowDuo) {
				a, b := newSlowWires(p.t, rateWire, 5*time.Millisecond)
				other := &slowDuo{t: p.t, exits: map[string]tunnel.Endpoint{}}
				other.gateway = tunnel.NewSession(b, tunnel.Config{Dialect: tunnel.Dialect2, Role: tunnel.RoleGateway,
					Accept: func(in *tunnel.Incoming) { _ = in.Attach(other.exits[in.Target().Host], "") }})
				other.client = tunnel.NewSession(a, tunnel.Config{Dialect: tunnel.Dialect2, Role: tunnel.RoleClient})
				defer func() {
					other.client.Close(0, "")
					other.client.Wait()
					other.gateway.Wait()
				}()
				free := other.bulk("x", dir)
				sinks := []*handEnd{p.bulk("a", dir), p.bulk("b", dir)}
				time.Sleep(4 * time.Second)
				check := func(each int) {
					t.Helper()
					before := make([]int, len(sinks))
					for i, s := range sinks {
						before[i] = s.taken()
					}
					was := free.taken()
					time.Sleep(4 * time.Second)
					for i, s := range sinks {
						if got := float64(s.taken()-before[i]) / 4; !within(got, float64(each), 0.1) {
							t.Errorf("stream %d of %d: %.0f bytes a second, %d are its share", i, len(sinks), got, each)
						}
					}
					if got := float64(free.taken()-was) / 4; got < 0.95*rateWire {
						t.Errorf("the other tunnel has %.0f bytes a second of %d", got, rateWire)
					}
				}
				check(1 << 20) // each its own, and the tunnel's is not used up
				for i := range 4 {
					sinks = append(sinks, p.bulk(string(rune('c'+i)), dir))
				}
				time.Sleep(6 * time.Second)
				check(3 << 20 / 6)
			})
		})
	}
}

// 1,000 streams have the same share of a tunnel's rate.
func TestRateOfThousandStreams(t *testing.T) {
	const streams, rate, seconds = 1000, 4 << 20, 20
	for _, dir := range []direction{outwards, inwards} {
		t.Run(string(dir), func(t *testing.T) {
			inRated(t, tunnel.Dialect2, tunnelRate(rate), func(p *slowDuo) {
				sinks := make([]*handEnd, streams)
				for i := range sinks {
					sinks[i] = p.bulk(fmt.Sprint("t", i), dir)
				}
				time.Sleep(40 * time.Second) // until none counts as interactive any more
				before := make([]int, streams)
				for i, s := range sinks {
					before[i] = s.taken()
				}
				time.Sleep(seconds * time.Second)
				least, most, all := math.MaxInt, 0, 0
				for i, s := range sinks {
					n := s.taken() - before[i]
					least, most, all = min(least, n), max(most, n), all+n
				}
				t.Logf("between %d and %d bytes, %d a second", least, most, all/seconds)
				if !within(float64(all), rate*seconds, 0.05) {
					t.Errorf("%d bytes a second of %d", all/seconds, rate)
				}
				if share := rate * seconds / streams; least < share*7/10 || most > share*13/10 {
					t.Errorf("between %d and %d bytes where %d are the share", least, most, share)
				}
			})
		})
	}
}

// A stream that is held holds up nobody: neither another stream's keystrokes, nor
// the opening of one, nor the measuring of the path.
func TestRateHoldsUpNobody(t *testing.T) {
	shared := tunnelRate(1 << 20)
	for name, c := range map[string]struct {
		rates tunnel.Rates
		most  time.Duration
	}{
		"stream": {tunnel.Rates{Stream: 2000}, 11 * time.Millisecond},
		// A step is 8 ms, in each direction.
		"tunnel": {shared, 30 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			inRated(t, tunnel.Dialect2, c.rates, func(p *slowDuo) {
				p.bulk("up", inwards)
				p.bulk("down", outwards)
				time.Sleep(3 * time.Second)
				from := time.Now()
				keys, echo := new(handEnd), new(handEnd)
				p.openTo("keys", keys, echo)
				if took := time.Since(from); took > 15*time.Millisecond {
					t.Errorf("opening a stream took %v", took)
				}
				worst := time.Duration(0)
				for i := range 50 {
					from := time.Now()
					keys.send([]byte("k"))
					for echo.taken() <= i {
						time.Sleep(time.Millisecond)
					}
					echo.send([]byte("K"))
					there := time.Since(from)
					for keys.taken() <= i {
						time.Sleep(time.Millisecond)
					}
					worst = max(worst, there, time.Since(from)-there)
					time.Sleep(37 * time.Millisecond)
				}
				t.Logf("worst keystroke: %v one way", worst)
				if worst > c.most {
					t.Errorf("a keystroke took %v one way", worst)
				}
				if rtt := p.gateway.Stats().RTT; rtt > 20*time.Millisecond {
					t.Errorf("the path of 10 ms is measured as %v", rtt)
				}
			})
		})
	}
}

// Nothing stands still for ever at a rate that carries nearly nothing.
func TestRateOfOneByte(t *testing.T) {
	for name, r := range map[string]tunnel.Rates{"tunnel": tunnelRate(1), "stream": {Stream: 1}} {
		for _, dir := range []direction{outwards, inwards} {
			t.Run(name+"/"+string(dir), func(t *testing.T) {
				inRated(t, tunnel.Dialect2, r, func(p *slowDuo) {
					sink := p.bulk("x", dir)
					// What may pass at once passes; then there is a byte a second.
					for before := -1; sink.taken() != before; time.Sleep(time.Second / 2) {
						before = sink.taken()
					}
					before := sink.taken()
					time.Sleep(100 * time.Second)
					if got := sink.taken() - before; got < 90 || got > 101 {
						t.Errorf("%d bytes in 100 s", got)
					}
					// Control frames are not bytes that count.
					for i := range 20 {
						p.openTo(fmt.Sprint("y", i), new(handEnd), new(handEnd))
					}
				})
			})
		}
	}
}

// A stream whose reader takes nothing must not keep the others from their rate.
func TestRateBesideStuckReader(t *testing.T) {
	inRated(t, tunnel.Dialect2, tunnelRate(100<<10), func(p *slowDuo) {
		p.openTo("stuck", new(source), &handEnd{stuck: true})
		time.Sleep(5 * time.Second)
		sink := p.bulk("x", inwards)
		time.Sleep(15 * time.Second)
		before := sink.taken()
		time.Sleep(4 * time.Second)
		if got := float64(sink.taken()-before) / 4; !within(got, 100<<10, 0.1) {
			t.Errorf("%.0f bytes a second of %d", got, 100<<10)
		}
	})
}

// TestRateBesideNewStuckReader: readers that stand still when there is no more
// credit than a rate grants in advance do not stop a keystroke.
func TestRateBesideNewStuckReader(t *testing.T) {
	for _, rate := range []int64{100 << 10, 1 << 20, 4 << 20} {
		for _, stuck := range []int{1, 2, 4} {
			t.Run(fmt.Sprintf("%d KiB a second, %d", rate>>10, stuck), func(t *testing.T) {
				inRated(t, tunnel.Dialect2, tunnelRate(rate), func(p *slowDuo) {
					keys, echo := &handEnd{give: make([]byte, 1<<20)}, new(handEnd)
					p.openTo("keys", keys, echo) // uses up the credit of the Hello
					time.Sleep(time.Minute)
					before := echo.taken()
					for i := range stuck {
						p.openTo(fmt.Sprint("stuck", i), new(source), &handEnd{stuck: true})
					}
					time.Sleep(10 * time.Second)
					keys.send([]byte("k"))
					time.Sleep(2 * time.Second)
					if n := echo.taken() - before; n != 1 {
						t.Errorf("%d bytes came beside %d who read nothing, want the keystroke", n, stuck)
					}
				})
			})
		}
	}
}

// Streams may end, both ways, while they are held; nothing of them stays.
func TestRateEndsWhileHeld(t *testing.T) {
	inRated(t, tunnel.Dialect2, tunnel.Rates{Stream: 4000}, func(p *slowDuo) {
		for i, end := range []func(st *tunnel.Stream, entry, exit *handEnd){
			func(st *tunnel.Stream, _, _ *handEnd) { st.Reset(cancelled, "") },
			func(st *tunnel.Stream, _, _ *handEnd) { p.gateway.Stream(st.ID()).Reset(byAdmin, "") },
			func(_ *tunnel.Stream, entry, _ *handEnd) { entry.reset() },
			func(_ *tunnel.Stream, _, exit *handEnd) { exit.reset() },
		} {
			entry, exit := &handEnd{give: make([]byte, 1<<20)}, &handEnd{give: make([]byte, 1<<20)}
			st := p.openTo(fmt.Sprint("x", i), entry, exit)
			time.Sleep(2 * time.Second)
			if n := p.gateway.Held(); n != 2 {
				t.Fatalf("%d directions are held", n)
			}
			end(st, entry, exit)
			time.Sleep(10 * time.Second) // a reset of somebody who may not read is looked for
			if n := p.gateway.Held(); n != 0 {
				t.Errorf("case %d: %d directions are still held", i, n)
			}
			entry.read(func() {
				if !entry.closed {
					t.Errorf("case %d: the entry's end is open", i)
				}
			})
			exit.read(func() {
				if !exit.closed {
					t.Errorf("case %d: the exit's end is open", i)
				}
			})
		}
		// The end in order comes behind the last byte.
		entry, exit := new(handEnd), &handEnd{give: make([]byte, 100<<10), eof: true}
		p.openTo("y", entry, exit)
		entry.finish()
		time.Sleep(20 * time.Second)
		entry.read(func() {
			if entry.took != 100<<10 || entry.code != normal || !entry.closed {
				t.Errorf("%d bytes, closed %v with %v", entry.took, entry.closed, entry.code)
			}
		})
		p.bulk("z", outwards) // the session ends while it is held
		p.bulk("zz", inwards)
		time.Sleep(2 * time.Second)
	})
}

// A reload limits what runs, and lets go of what is held.
func TestSetRates(t *testing.T) {
	for _, dir := range []direction{outwards, inwards} {
		t.Run(string(dir), func(t *testing.T) {
			inRated(t, tunnel.Dialect2, tunnel.Rates{}, func(p *slowDuo) {
				sink := p.bulk("x", dir)
				idle, far := new(handEnd), new(handEnd)
				p.openTo("idle", idle, far)
				x := p.gateway.Stream(1)
				rate := func() float64 {
					before := sink.taken()
					time.Sleep(2 * time.Second)
					return float64(sink.taken()-before) / 2
				}
				both := tunnelRate(200 << 10)
				both.Stream = 50 << 10
				for i, step := range []struct {
					rates tunnel.Rates
					want  float64
				}{
					{tunnel.Rates{}, rateWire},
					{tunnelRate(1 << 20), 1 << 20},
					{tunnelRate(100 << 10), 100 << 10},
					{both, 50 << 10},
					{tunnel.Rates{Stream: 300 << 10}, 300 << 10},
					{tunnel.Rates{Stream: 1000}, 1000},
					{tunnel.Rates{}, rateWire},
					{tunnelRate(1000), 1000},
					{tunnel.Rates{}, rateWire},
				} {
					p.gateway.SetRates(step.rates)
					// What was granted before may still come, and so may a second's worth.
					for from := time.Now(); dir == inwards && step.rates.Stream > 0 && float64(x.Info().Window) > max(step.want, 64<<10); time.Sleep(time.Second) {
						if time.Since(from) > 5*time.Minute {
							t.Fatalf("step %d: the peer may send %d bytes", i, x.Info().Window)
						}
					}
					time.Sleep(time.Second)
					if step.want < rateWire {
						time.Sleep(3*time.Second + time.Duration(128<<10/step.want*float64(time.Second)))
					}
					if got := rate(); !within(got, step.want, 0.1) {
						t.Errorf("step %d: %.0f bytes a second of %.0f", i, got, step.want)
					}
				}
				idle.send([]byte("x"))
				far.send([]byte("x"))
				time.Sleep(time.Second)
				if idle.taken() != 1 || far.taken() != 1 {
					t.Error("a stream that was idle is dead")
				}
			})
		})
	}
}

// Who asks is told that it is the rate.
func TestWaitsForRate(t *testing.T) {
	for name, r := range map[string]tunnel.Rates{"tunnel": tunnelRate(1000), "stream": {Stream: 1000}} {
		t.Run(name, func(t *testing.T) {
			inRated(t, tunnel.Dialect2, r, func(p *slowDuo) {
				down, up := new(handEnd), new(handEnd)
				a, b := p.openTo("down", down, new(source)), p.openTo("up", new(source), up)
				time.Sleep(10 * time.Second)
				p.exits["idle"] = new(handEnd)
				idle := p.openTo("idle", new(handEnd), new(handEnd))
				if w := p.gateway.Stream(a.ID()).Info().Out.For; w != tunnel.WaitsRate {
					t.Errorf("what goes out waits for %q", w)
				}
				if w := p.gateway.Stream(b.ID()).Info().In.For; w != tunnel.WaitsRate {
					t.Errorf("what comes in waits for %q", w)
				}
				if w := p.gateway.Stream(idle.ID()).Info(); w.Out.For != tunnel.WaitsData || name == "stream" && w.In.For != tunnel.WaitsData {
					t.Errorf("an idle stream waits for %q and %q", w.Out.For, w.In.For)
				}
			})
		})
	}
}

// A limited stream at rest has no timer.
func TestRateAtRest(t *testing.T) {
	inRated(t, tunnel.Dialect2, tunnelRate(100<<10), func(p *slowDuo) {
		entry, exit := &handEnd{give: make([]byte, 3<<20)}, &handEnd{give: make([]byte, 3<<20)}
		p.openTo("x", entry, exit)
		time.Sleep(time.Minute)
		if entry.taken() != 3<<20 || exit.taken() != 3<<20 {
			t.Fatalf("%d and %d bytes came", entry.taken(), exit.taken())
		}
		if p.gateway.AlarmIsSet() {
			t.Error("a timer runs, and nothing moves")
		}
	})
}

// A flow loses what comes too fast, and neither it nor a stream beside it starves.
func TestRateOfFlows(t *testing.T) {
	const rate, size = 200 << 10, 1000
	shared := tunnelRate(rate)
	for name, c := range map[string]struct {
		rates       tunnel.Rates
		bulk        bool
		least, most float64 // share of the rate that the flow has
	}{
		"tunnel":          {shared, false, 0.9, 1.1},
		"stream":          {tunnel.Rates{Stream: rate}, false, 0.9, 1.1},
		"beside a stream": {tunnelRate(rate), true, 0.2, 0.9},
	} {
		for _, dir := range []direction{outwards, inwards} {
			t.Run(name+"/"+string(dir), func(t *testing.T) {
				inRated(t, tunnel.Dialect2, c.rates, func(p *slowDuo) {
					a, b := newSlowWires(p.t, rateWire, 5*time.Millisecond)
					if !p.client.AttachDatagrams(a) || !p.gateway.AttachDatagrams(b) {
						t.Fatal("no carrier for datagrams")
					}
					entry, exit := new(burster), new(burster)
					p.exits["flow"] = exit
					st, err := p.client.Open(p.t.Context(), tunnel.Target{Kind: tunnel.KindUDP, Host: "flow", Port: 53}, entry)
					if err != nil {
						t.Fatal(err)
					}
					from, to := exit, entry
					if dir == inwards {
						from, to = entry, exit
					}
					var sink *handEnd
					if c.bulk {
						sink = p.bulk("x", dir)
					}
					flood := func(d time.Duration) {
						for range d / time.Millisecond { // five times the rate
							from.give(1, size)
							time.Sleep(time.Millisecond)
						}
					}
					flood(8 * time.Second)
					before, streamed := to.count(), 0
					if sink != nil {
						streamed = sink.taken()
					}
					flood(5 * time.Second)
					share := float64(to.count()-before) * size / 5 / rate
					t.Logf("the flow has %.2f of the rate", share)
					if share < c.least || share > c.most {
						t.Errorf("the flow has %.2f of the rate", share)
					}
					if sink != nil {
						rest := float64(sink.taken()-streamed) / 5 / rate
						if rest < 0.1 || share+rest > 1.1 || share+rest < 0.9 {
							t.Errorf("the stream has %.2f of the rate beside the flow's %.2f", rest, share)
						}
					}
					time.Sleep(10 * time.Millisecond) // what is on the way
					dropped := p.gateway.Stream(st.ID()).Info().Flow.Dropped
					if all := uint64(from.given()); dropped == 0 || dropped+uint64(to.count()) != all {
						t.Errorf("%d of %d datagrams came, %d count as dropped", to.count(), all, dropped)
					}
					if n := p.gateway.Stats().DatagramsDropped; n != dropped {
						t.Errorf("the session counts %d dropped, the flow %d", n, dropped)
					}
				})
			})
		}
	}
}

// In dialect 1 the channel is not read for a while; what ends the session is
// noticed all the same.
func TestRateDialect1Ends(t *testing.T) {
	inRated(t, tunnel.Dialect1, tunnelRate(1000), func(p *slowDuo) {
		p.bulk("x", inwards)
		time.Sleep(5 * time.Second)
		from := time.Now()
		p.gateway.Close(framecodec.CodeClosedByAdmin, "")
		<-p.gateway.Done()
		if took := time.Since(from); took > 5*time.Second {
			t.Errorf("the end took %v", took)
		}
	})
}

// burster is an Endpoint of a flow that gives what it is told to, and counts.
type burster struct {
	mu          sync.Mutex
	ready       tunnel.Readiness
	left, size  int
	all, counts int
}

func (e *burster) Bind(r tunnel.Readiness) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.ready = r
}

func (e *burster) give(n, size int) {
	e.mu.Lock()
	e.left += n
	e.all += n
	e.size = size
	r := e.ready
	e.mu.Unlock()
	r.Readable()
}

func (e *burster) TryRead(p []byte) (int, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.left == 0 {
		return 0, tunnel.ErrWouldBlock
	}
	e.left--
	return e.size, nil
}

func (e *burster) TryWrite(p []byte) (int, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.counts++
	return len(p), nil
}

func (e *burster) count() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.counts
}

func (e *burster) given() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.all
}

func (e *burster) CloseWrite() error { return nil }
func (e *burster) Close(tunnel.Code) {}

// A limit below the path's rate is reached on a long path too: the windows grow to
// what it needs, and the session's memory no further.
func TestRateOnLongPath(t *testing.T) {
	const rate = 12 << 20
	for _, dir := range []direction{outwards, inwards} {
		t.Run(string(dir), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a, b := newSlowWires(t, rateWire, 100*time.Millisecond)
				p := &slowDuo{t: t, exits: map[string]tunnel.Endpoint{}}
				budget := tunnel.NewBudget(nil, 256<<20)
				p.gateway = tunnel.NewSession(b, tunnel.Config{Dialect: tunnel.Dialect2, Role: tunnel.RoleGateway, Rates: tunnelRate(rate), Budget: budget,
					Accept: func(in *tunnel.Incoming) { _ = in.Attach(p.exits[in.Target().Host], "") }})
				p.client = tunnel.NewSession(a, tunnel.Config{Dialect: tunnel.Dialect2, Role: tunnel.RoleClient})
				sinks := []*handEnd{p.bulk("a", dir), p.bulk("b", dir), p.bulk("c", dir), p.bulk("d", dir)}
				sum := func() (n int) {
					for _, s := range sinks {
						n += s.taken()
					}
					return n
				}
				time.Sleep(10 * time.Second)
				before := sum()
				time.Sleep(4 * time.Second)
				got := float64(sum()-before) / 4
				t.Logf("%.1f MiB a second of %d, %d MiB reserved", got/(1<<20), rate>>20, budget.Used()>>20)
				if !within(got, rate, 0.05) {
					t.Errorf("%.0f bytes a second of %d", got, rate)
				}
				if budget.Used() > 128<<20 {
					t.Errorf("%d MiB reserved at %d MiB a second", budget.Used()>>20, rate>>20)
				}
				p.client.Close(0, "")
				p.client.Wait()
				p.gateway.Wait()
			})
		})
	}
}

// Datagrams have a quarter of a rate however many wait in line for it, and what
// waits goes on.
func TestBucketBesideWaiters(t *testing.T) {
	const rate, size = 1 << 20, 1000
	for _, waiters := range []int{1, 4, 5, 64, 256} {
		t.Run(fmt.Sprint(waiters), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := tunnel.NewBucket(rate)
				ctx, stop := context.WithCancel(t.Context())
				var passed atomic.Int64
				for range waiters {
					go func() {
						for ctx.Err() == nil {
							n, wait := b.Reserve(16 << 10)
							select {
							case <-time.After(wait):
								passed.Add(int64(n))
							case <-ctx.Done():
							}
						}
					}()
				}
				time.Sleep(20 * time.Second)
				before, datagrams := passed.Load(), 0
				const seconds = 20
				for range seconds * 1000 {
					for range 5 {
						if b.Take(size) {
							datagrams++
						}
					}
					time.Sleep(time.Millisecond)
				}
				waited := float64(passed.Load()-before) / seconds / rate
				stop()
				share := float64(datagrams) * size / seconds / rate
				t.Logf("datagrams have %.2f of the rate, who waits %.2f", share, waited)
				if share < 0.24 || waited < 0.1 || share+waited > 1.1 {
					t.Errorf("datagrams have %.2f of the rate, who waits %.2f", share, waited)
				}
			})
		})
	}
}
