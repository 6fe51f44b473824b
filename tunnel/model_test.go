package tunnel_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/culvertgate/culvert/framecodec"
	"github.com/culvertgate/culvert/tunnel"
)

// The model test drives two sessions over a wire that cuts, joins, delays and
// re-times, with scripted Endpoints, at random; monitor_test.go reads along.
// CULVERT_SEED picks one world, CULVERT_MODEL_WORLDS how many there are.

// flow is one stream of the model, both ends.
type flow struct {
	up, down int // bytes entry to exit and back
	entry    *script
	exit     *script
	plan     int // what the exit does with the Open
	attached bool
	late     bool // the entry attaches its Endpoint after the answer

	mu      sync.Mutex
	streams [2]*tunnel.Stream
	ends    [2][]tunnel.Code        // told by the observers
	causes  [2]map[tunnel.Code]bool // codes that an end of each side may have besides normal
	result  error                   // of Open
	opened  bool                    // Open has returned
	hold    *tunnel.Incoming        // plan: answered later
	cancel  context.CancelFunc
}

const (
	exitAttach = iota
	exitAttachLater
	exitRefuse
	exitHold // until the entry gives up
	exitPlans
)

// cause notes that something may end the flow: at side with code, at the other
// side with what becomes of that code on the wire.
func (f *flow) cause(d tunnel.Dialect, side int, code tunnel.Code) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.causes[side][code] = true
	f.causes[1-side][onTheOtherSide(d, code)] = true
}

// onTheOtherSide is what a code is read as by the peer.
func onTheOtherSide(d tunnel.Dialect, code tunnel.Code) tunnel.Code {
	if d == tunnel.Dialect2 {
		return code
	}
	switch r := code.Reason(); r {
	case framecodec.ReasonError, framecodec.ReasonUpstreamClosed: // never said of one connection
		return framecodec.ReasonUnknown.Code()
	default:
		return r.Code()
	}
}

type world struct {
	t       *testing.T
	d       tunnel.Dialect
	rng     *rand.Rand
	dice    *rand.Rand // of the rates
	rated   bool       // there are some
	c       *chaos
	wire    *chaosWire
	monitor *monitor
	session [2]*tunnel.Session
	budget  [2]*tunnel.Budget
	opens   sync.WaitGroup

	mu    sync.Mutex
	flows []*flow
}

// side is the Observer of one session.
type worldSide struct {
	w    *world
	side int
}

func (o worldSide) StreamOpened(*tunnel.Stream) {}

func (o worldSide) StreamEnded(st *tunnel.Stream, code tunnel.Code, _ string) {
	f := o.w.flow(st.Target())
	f.mu.Lock()
	defer f.mu.Unlock()
	f.ends[o.side] = append(f.ends[o.side], code)
}

func (o worldSide) Panicked(v any, stack []byte) { o.w.t.Errorf("panic: %v\n%s", v, stack) }

func (w *world) flow(t tunnel.Target) *flow {
	i, err := strconv.Atoi(t.Host)
	if err != nil {
		panic(err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.flows[i]
}

func newWorld(t *testing.T, d tunnel.Dialect, seed uint64) *world {
	w := &world{t: t, d: d, rng: rand.New(rand.NewPCG(seed, 2)), dice: rand.New(rand.NewPCG(seed, 3)), c: newChaos(t, seed), monitor: newMonitor(d)}
	a, b := newChaosWires(w.c)
	a.tap, b.tap = w.monitor.tap(0), w.monitor.tap(1)
	w.wire = a
	w.rated = w.dice.IntN(2) == 0
	for i := range w.budget {
		w.budget[i] = tunnel.NewBudget(tunnel.NewBudget(nil, 64<<20), int64(2+w.rng.IntN(30))<<20)
	}
	w.session[1] = tunnel.NewSession(b, tunnel.Config{Dialect: d, Role: tunnel.RoleGateway, Accept: w.accept,
		Observer: worldSide{w, 1}, Budget: w.budget[1]})
	w.session[0] = tunnel.NewSession(a, tunnel.Config{Dialect: d, Role: tunnel.RoleClient,
		Observer: worldSide{w, 0}, Budget: w.budget[0]})
	t.Cleanup(func() {
		a.die()
		w.opens.Wait()
		w.session[0].Wait()
		w.session[1].Wait()
	})
	return w
}

func (w *world) accept(in *tunnel.Incoming) {
	f := w.flow(in.Target())
	f.mu.Lock()
	defer f.mu.Unlock()
	f.streams[1] = in.Stream()
	switch f.plan {
	case exitAttach:
		f.attached = true
		_ = in.Attach(f.exit, "192.0.2.1:1")
	case exitAttachLater:
		f.hold = in
		w.c.later(func() { w.c.later(func() { w.answer(f) }) })
	case exitRefuse:
		w.c.later(func() { in.Refuse(framecodec.CodeUnreachable, "no way") })
	case exitHold:
		in.OnCancel(func() {
			f.mu.Lock()
			defer f.mu.Unlock()
			f.hold = nil
		})
	}
}

func (w *world) answer(f *flow) {
	f.mu.Lock()
	in := f.hold
	f.attached = true
	f.mu.Unlock()
	_ = in.Attach(f.exit, "")
}

// someBytes is an amount of data: often little, sometimes many windows.
func (w *world) someBytes() int {
	switch w.rng.IntN(10) {
	case 0:
		return 0
	case 1, 2, 3, 4:
		return w.rng.IntN(2000)
	case 5, 6, 7, 8:
		return w.rng.IntN(200_000)
	default:
		return w.rng.IntN(2_000_000)
	}
}

func (w *world) open() {
	w.mu.Lock()
	n := len(w.flows)
	f := &flow{up: w.someBytes(), down: w.someBytes(), plan: w.rng.IntN(exitPlans + 6), late: w.rng.IntN(8) == 0}
	if f.plan >= exitPlans {
		f.plan = exitAttach
	}
	for i := range f.causes {
		f.causes[i] = map[tunnel.Code]bool{}
	}
	f.entry = newScript(w.c, fmt.Sprintf("entry %d", n), uint64(2*n), uint64(2*n+1), f.up)
	f.exit = newScript(w.c, fmt.Sprintf("exit %d", n), uint64(2*n+1), uint64(2*n), f.down)
	w.flows = append(w.flows, f)
	w.mu.Unlock()
	ctx, cancel := context.WithCancel(context.Background())
	f.cancel = cancel
	switch f.plan {
	case exitRefuse:
		f.cause(w.d, 1, framecodec.CodeUnreachable)
	case exitHold:
		f.cause(w.d, 0, framecodec.CodeCancelled)
		for range 1 + w.rng.IntN(3) {
			w.c.later(func() { w.c.later(cancel) })
		}
	}
	w.opens.Go(func() {
		defer cancel()
		var ep tunnel.Endpoint = f.entry
		if f.late {
			ep = nil
		}
		st, err := w.session[0].Open(ctx, tunnel.Target{Kind: tunnel.KindTCP, Host: strconv.Itoa(n), Port: 1}, ep)
		f.mu.Lock()
		f.streams[0], f.result, f.opened = st, err, true
		f.mu.Unlock()
		if err == nil && f.late {
			w.c.later(func() { _ = st.Attach(f.entry) })
		} else if f.late {
			f.entry.Close(tunnel.CodeOf(err)) // it never was the stream's
		}
	})
}

// limit changes a side's rates, which may be none: so high that the world ends in
// time, so low that they hold.
func (w *world) limit() {
	some := func(least, spread int64) int64 {
		if w.dice.IntN(3) == 0 {
			return 0
		}
		return least + w.dice.Int64N(spread)
	}
	side := w.dice.IntN(2)
	w.monitor.limit(side)
	w.session[side].SetRates(tunnel.Rates{
		Out: tunnel.NewBucket(some(4<<20, 60<<20)), In: tunnel.NewBucket(some(4<<20, 60<<20)), Stream: some(500<<10, 8<<20),
	})
}

// step does one random thing.
func (w *world) step() {
	if w.rated && w.dice.IntN(12) == 0 {
		w.limit()
	}
	op := w.rng.IntN(20)
	if op < 8 || len(w.flows) == 0 {
		w.open()
		return
	}
	w.mu.Lock()
	f := w.flows[w.rng.IntN(len(w.flows))]
	w.mu.Unlock()
	side := w.rng.IntN(2)
	end := [2]*script{f.entry, f.exit}[side]
	switch {
	case op < 11:
		end.stall(w.rng.IntN(2) == 0, true)
	case op < 12:
		end.stall(true, false)
	case op < 16:
		end.resume()
	case op < 17:
		f.cause(w.d, side, [2]tunnel.Code{framecodec.CodeCancelled, framecodec.CodeTargetClosed}[side])
		end.reset(errScriptReset)
	case op < 18:
		f.mu.Lock()
		st := f.streams[side]
		f.mu.Unlock()
		if st != nil {
			code := [...]tunnel.Code{framecodec.CodeClosedByAdmin, framecodec.CodeTimeout, framecodec.CodeTargetClosed}[w.rng.IntN(3)]
			f.cause(w.d, side, code)
			st.Reset(code, "by the model")
		}
	default:
		for range w.rng.IntN(200) {
			time.Sleep(10 * time.Microsecond)
		}
	}
}

func (w *world) allAnswered() bool {
	for _, f := range w.flows {
		f.mu.Lock()
		opened := f.opened
		f.mu.Unlock()
		if !opened {
			return false
		}
	}
	return true
}

func (w *world) resumeAll() {
	for _, f := range w.flows {
		f.entry.resume()
		f.exit.resume()
	}
}

func TestModel(t *testing.T) {
	worlds := 8
	if text, err := strconv.Atoi(envOr("CULVERT_MODEL_WORLDS", "")); err == nil {
		worlds = text
	}
	base := testSeed(t, uint64(time.Now().UnixNano())%1_000_000_000)
	for i := range worlds {
		for _, d := range []tunnel.Dialect{tunnel.Dialect1, tunnel.Dialect2} {
			seed := base + uint64(i)
			// At once, not by t.Log: what hangs until -timeout loses its log.
			fmt.Fprintf(os.Stderr, "TestModel: dialect %d with CULVERT_SEED=%d CULVERT_MODEL_WORLDS=1\n", d, seed)
			t.Run(fmt.Sprintf("dialect%d/%d", d, seed), func(t *testing.T) { runWorld(t, d, seed) })
			if t.Failed() {
				t.Fatalf("again with CULVERT_SEED=%d CULVERT_MODEL_WORLDS=1", seed)
			}
		}
	}
}

func runWorld(t *testing.T, d tunnel.Dialect, seed uint64) {
	t.Cleanup(func() { goleak.VerifyNone(t) })
	w := newWorld(t, d, seed)
	for range 60 + w.rng.IntN(60) {
		w.step()
	}
	switch w.rng.IntN(4) {
	case 0:
		w.suddenEnd(framecodec.CodeTunnelLost, func() { w.wire.die() })
	case 1:
		side := w.rng.IntN(2)
		w.suddenEnd(framecodec.CodeClosedByAdmin, func() { w.session[side].Close(framecodec.CodeClosedByAdmin, "enough") })
	default:
		w.quietEnd()
	}
	w.opens.Wait()
	for _, s := range w.session {
		s.Wait()
	}
	w.check()
}

// quietEnd lets every stream come to its own end before the session ends.
func (w *world) quietEnd() {
	w.resumeAll()
	w.until("every stream ends", func() bool {
		w.resumeAll() // a stall may have been asked for before the Endpoint was bound
		return w.allAnswered() && w.session[0].Stats().Streams == 0 && w.session[1].Stats().Streams == 0 && w.monitor.fault() == nil
	})
	w.opens.Wait()
	for i, s := range w.session {
		if q := s.Stats().Queued; q != 0 {
			w.t.Errorf("session %d still counts %d bytes as queued", i, q)
		}
		if s.Err() != nil {
			w.t.Errorf("session %d ended: %v", i, s.Err())
		}
	}
	w.session[w.rng.IntN(2)].Close(framecodec.CodeTunnelClosed, "")
}

// suddenEnd ends the session under its streams.
func (w *world) suddenEnd(code tunnel.Code, end func()) {
	for _, f := range w.flows {
		f.cause(tunnel.Dialect2, 0, code)
	}
	end()
	// Both know why within bounds; in dialect 1 the reason is what travels.
	for _, s := range w.session {
		w.until("the session ends", func() bool {
			if w.d == tunnel.Dialect1 {
				w.resumeAll() // there a receiver that is stalled reads no Close
			}
			return s.Err() != nil
		})
		if got := tunnel.CodeOf(s.Err()); got != code {
			w.t.Errorf("session ended with %v, want %v", s.Err(), code)
		}
	}
}

// until polls a condition for as long as something moves.
func (w *world) until(what string, cond func() bool) {
	w.t.Helper()
	const patience = 6 * time.Second
	last, since := uint64(0), time.Now()
	for ; !cond(); time.Sleep(time.Millisecond) {
		if err := w.monitor.fault(); err != nil {
			w.t.Fatal("monitor:", err)
		}
		if moved := w.moved(); moved != last {
			last, since = moved, time.Now()
		}
		if time.Since(since) > patience {
			w.dump()
			w.t.Fatalf("nothing moved for %v before: %s", patience, what)
		}
	}
}

// moved changes with every byte and every end.
func (w *world) moved() (sum uint64) {
	for _, s := range w.session {
		stats := s.Stats()
		sum += stats.BytesIn + stats.BytesOut - uint64(stats.Streams) - uint64(stats.Queued)
	}
	return sum
}

func (w *world) dump() {
	for i, s := range w.session {
		w.t.Logf("session %d: %+v err %v", i, s.Stats(), s.Err())
		for _, info := range s.Streams() {
			w.t.Logf("  %+v", info)
		}
	}
}

// check holds what is left against what should be.
func (w *world) check() {
	if err := w.monitor.fault(); err != nil {
		w.t.Error("monitor:", err)
	}
	for i := range w.session {
		s, b := w.session[i], w.budget[i]
		w.until("nothing is left", func() bool { return b.Used() == 0 && s.Stats().Streams == 0 && len(s.Streams()) == 0 })
	}
	w.until("Endpoints that come late are closed", func() bool {
		for _, f := range w.flows {
			f.mu.Lock()
			attached := f.attached
			pending := f.plan == exitAttachLater && f.hold != nil && !attached
			f.mu.Unlock()
			entry, _ := f.entry.isClosed()
			exit, _ := f.exit.isClosed()
			if pending || f.late && !entry || attached && !exit {
				return false
			}
		}
		return true
	})
	for i, f := range w.flows {
		f.mu.Lock()
		for side, e := range []*script{f.entry, f.exit} {
			if err := w.checkEnd(f, side, e); err != nil {
				w.t.Errorf("flow %d (up %d, down %d, plan %d, late %v, Open: %v): %v", i, f.up, f.down, f.plan, f.late, f.result, err)
			}
		}
		f.mu.Unlock()
	}
}

func (w *world) checkEnd(f *flow, side int, e *script) error {
	wasThere := side == 0 && (!f.late || f.result == nil) || side == 1 && f.attached
	closed, code := e.isClosed()
	e.mu.Lock()
	defer e.mu.Unlock()
	switch ends := f.ends[side]; {
	case e.fault != nil:
		return e.fault
	case wasThere && !closed:
		return fmt.Errorf("%s was not closed", e.name)
	case len(ends) > 1:
		return fmt.Errorf("%s: ended %d times: %v", e.name, len(ends), ends)
	case len(ends) == 0: // refused before it was a stream of this side
		return nil
	case ends[0] == framecodec.CodeNormal:
		want := [2]int{f.down, f.up}[side]
		if e.got != want || e.left != 0 || !e.finished || code != framecodec.CodeNormal {
			return fmt.Errorf("%s: normal end with %d of %d bytes, %d left to send, half closed: %v, code %v", e.name, e.got, want, e.left, e.finished, code)
		}
		return nil
	case !f.causes[side][ends[0]]:
		return fmt.Errorf("%s: ended with %v, and nothing asked for that (%v)", e.name, ends[0], f.causes[side])
	case wasThere && code != ends[0] && ends[0] != framecodec.CodeNormal && e.ready != nil:
		return fmt.Errorf("%s: closed with %v, ended with %v", e.name, code, ends[0])
	}
	return nil
}
