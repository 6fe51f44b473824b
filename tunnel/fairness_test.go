package tunnel_test

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/culvertgate/culvert/framecodec"
	"github.com/culvertgate/culvert/tunnel"
)

// source is an Endpoint that always has more: size bytes at a time, all there is
// room for if size is 0. It notes when each read was taken and written.
type source struct {
	size  int
	mu    sync.Mutex
	ready tunnel.Readiness
	sent  int
}

func (e *source) Bind(r tunnel.Readiness) {
	e.mu.Lock()
	e.ready = r
	e.mu.Unlock()
	r.Readable()
}

func (e *source) TryRead(p []byte) (int, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.size > 0 {
		p = p[:min(e.size, len(p))]
		go e.ready.Readable() // more is there behind a short read
	}
	e.sent += len(p)
	return len(p), nil
}

func (e *source) TryWrite(p []byte) (int, error) { return len(p), nil }
func (e *source) CloseWrite() error              { return nil }
func (e *source) Close(tunnel.Code)              {}

// slowDuo is a client and a gateway on a slow wire. Each stream's exit is found
// by the target's host.
type slowDuo struct {
	t               *testing.T
	client, gateway *tunnel.Session
	exits           map[string]tunnel.Endpoint
}

func inSlowDuo(t *testing.T, rate int, delay time.Duration, f func(p *slowDuo)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		a, b := newSlowWires(t, rate, delay)
		p := &slowDuo{t: t, exits: map[string]tunnel.Endpoint{}}
		p.gateway = tunnel.NewSession(b, tunnel.Config{Dialect: tunnel.Dialect2, Role: tunnel.RoleGateway,
			Accept: func(in *tunnel.Incoming) { _ = in.Attach(p.exits[in.Target().Host], "") }})
		p.client = tunnel.NewSession(a, tunnel.Config{Dialect: tunnel.Dialect2, Role: tunnel.RoleClient})
		f(p)
		p.client.Close(0, "")
		p.client.Wait()
		p.gateway.Wait()
	})
}

func (p *slowDuo) open(name string, entry, exit tunnel.Endpoint) *tunnel.Stream {
	p.t.Helper()
	p.exits[name] = exit
	st, err := p.client.Open(context.Background(), tunnel.Target{Kind: tunnel.KindNamed, Host: name}, entry)
	if err != nil {
		p.t.Fatal(err)
	}
	return st
}

// A keystroke waits for what is on the path, not for what else wants to go; and
// the bulk stream loses nothing by that.
func TestKeystrokeBesideBulk(t *testing.T) {
	const rate, seconds = 4 << 20, 20
	inSlowDuo(t, rate, 5*time.Millisecond, func(p *slowDuo) {
		bulk := new(handEnd)
		p.open("bulk", new(source), bulk)
		keys, echo := new(handEnd), new(handEnd)
		p.open("keys", keys, echo)
		var worst time.Duration
		before := 0
		for i := range seconds * 10 {
			from := time.Now()
			keys.send([]byte("k"))
			for echo.taken() <= i {
				time.Sleep(time.Millisecond)
			}
			if i == 10 { // the mark has followed
				before = bulk.taken()
			}
			if i > 10 {
				worst = max(worst, time.Since(from))
			}
			time.Sleep(100*time.Millisecond - time.Since(from))
		}
		// 64 KiB and a message are 20 ms at this rate; the path itself takes 5 ms.
		if worst > 45*time.Millisecond {
			t.Errorf("a keystroke took %v", worst)
		}
		share := float64(bulk.taken()-before) / (rate * (seconds - 1.1))
		if share < 0.9 {
			t.Errorf("bulk got %.2f of the path", share)
		}
		t.Logf("worst keystroke %v, bulk %.2f of the path", worst, share)
	})
}

// Streams that always have a little would keep a bulk stream out for ever.
func TestBulkBehindManyInteractive(t *testing.T) {
	inSlowDuo(t, 1<<20, 0, func(p *slowDuo) {
		bulk := new(handEnd)
		p.open("bulk", new(source), bulk)
		time.Sleep(time.Second) // it counts as bulk by then
		for i := range 48 {
			p.open(string(rune('A'+i)), &source{size: 300}, new(handEnd))
		}
		time.Sleep(time.Second)
		before := bulk.taken()
		time.Sleep(10 * time.Second)
		got := bulk.taken() - before
		// One turn of 16 KiB in 33.
		if got < 10<<20/4 {
			t.Errorf("%d bytes in 10 s beside chatter", got)
		}
	})
}

// A window that stays at its first size would be the limit on a long path.
func TestWindowsGrow(t *testing.T) {
	const delay = 50 * time.Millisecond
	inSlowDuo(t, 100<<20, delay, func(p *slowDuo) {
		sink := new(handEnd)
		p.open("x", new(source), sink)
		time.Sleep(2 * time.Second)
		before := sink.taken()
		time.Sleep(time.Second)
		got := sink.taken() - before
		fixed := int(256 << 10 * time.Second / (2 * delay))
		t.Logf("%d MiB in a second; a fixed window allows %d MiB", got>>20, fixed>>20)
		if got < 6*fixed {
			t.Errorf("%d bytes in a second, a fixed window allows %d", got, fixed)
		}
	})
}

// With one stream stuck at each end the other 62 go on, and memory stays bounded.
func TestStalledReaderAmong64(t *testing.T) {
	const each = 1 << 20
	synctest.Test(t, func(t *testing.T) {
		p := &duo{t: t, d: tunnel.Dialect2}
		a, b := newWires()
		exits := make(chan *handEnd, 64)
		budget := tunnel.NewBudget(nil, 8<<20)
		p.gateway = tunnel.NewSession(b, tunnel.Config{Dialect: p.d, Role: tunnel.RoleGateway, Budget: budget,
			Accept: func(in *tunnel.Incoming) {
				e := &handEnd{give: make([]byte, each), eof: true, stuck: len(exits) == 0}
				exits <- e
				_ = in.Attach(e, "")
			}})
		p.client = tunnel.NewSession(a, tunnel.Config{Dialect: p.d, Role: tunnel.RoleClient})
		var entries []*handEnd
		for i := range 64 {
			e := &handEnd{give: make([]byte, each), eof: true, stuck: i == 63}
			entries = append(entries, e)
			if _, err := p.client.Open(context.Background(), duoTarget, e); err != nil {
				t.Fatal(err)
			}
		}
		synctest.Wait()
		time.Sleep(10 * time.Second)
		for i := range 64 {
			exit, entry := <-exits, entries[i]
			if got := exit.taken(); got != each && i != 0 {
				t.Errorf("stream %d: %d bytes at the exit", i, got)
			}
			if got := entry.taken(); got != each && i != 63 {
				t.Errorf("stream %d: %d bytes at the entry", i, got)
			}
			if i == 0 || i == 63 {
				entry.read(func() {
					if i == 0 && len(entry.give) == 0 {
						t.Error("the sender of a stalled reader was not blocked")
					}
				})
				exit.read(func() {
					if i == 63 && len(exit.give) == 0 {
						t.Error("the sender of a stalled reader was not blocked")
					}
				})
			}
			// Nobody is cut for reading slowly while there is memory.
			entry.free()
			exit.free()
		}
		synctest.Wait()
		time.Sleep(time.Second)
		for i, e := range entries {
			e.read(func() {
				if !e.closed || e.code != normal || e.took != each {
					t.Errorf("stream %d: closed %v with %v, %d bytes", i, e.closed, e.code, e.took)
				}
			})
		}
		if q := p.gateway.Stats().Queued + p.client.Stats().Queued; q != 0 {
			t.Errorf("%d bytes stay queued", q)
		}
		p.client.Close(0, "")
		p.client.Wait()
		p.gateway.Wait()
		if n := budget.Used(); n != 0 {
			t.Errorf("%d bytes stay reserved", n)
		}
	})
}

// When streams that take nothing hold more than half of the session credit for
// 30 s, and there is no more memory, they go and the rest lives.
func TestSlowConsumersMakeRoom(t *testing.T) {
	for _, c := range []struct {
		name   string
		budget int64
		cut    bool
	}{{"short memory", tunnel.MinSessionMemory, true}, {"memory enough", 64 << 20, false}} {
		t.Run(c.name, func(t *testing.T) {
			change := func(_, g *tunnel.Config) { g.Budget = tunnel.NewBudget(nil, c.budget) }
			inDuo(t, tunnel.Dialect2, change, func(p *duo) {
				exits := []*handEnd{}
				for range 3 {
					p.exit, p.entry = &handEnd{stuck: true}, &handEnd{give: make([]byte, 1<<20)}
					exits = append(exits, p.exit)
					p.open()
				}
				p.exit, p.entry = new(handEnd), new(handEnd)
				p.open()
				time.Sleep(29 * time.Second)
				for _, e := range exits {
					e.read(func() {
						if e.closed {
							t.Error("cut too early")
						}
					})
				}
				time.Sleep(5 * time.Second)
				if !c.cut {
					time.Sleep(time.Hour)
				}
				for _, e := range exits {
					e.read(func() {
						if e.closed != c.cut || c.cut && e.code != framecodec.CodeSlowConsumer {
							t.Errorf("closed %v with %v", e.closed, e.code)
						}
					})
				}
				p.entry.send(make([]byte, 3<<20))
				synctest.Wait()
				if got := p.exit.taken(); got != 3<<20 {
					t.Errorf("the stream that reads got %d bytes", got)
				}
			})
		})
	}
}

// Dialect 1: 1 MiB is queued, then nobody reads the channel; the others wait, at
// most timeouts.write, and live on.
func TestDialect1SlowConsumer(t *testing.T) {
	budget := tunnel.NewBudget(nil, 8<<20)
	change := func(_, g *tunnel.Config) { g.Budget = budget }
	inDuo(t, tunnel.Dialect1, change, func(p *duo) {
		slow, other := &handEnd{stuck: true}, new(handEnd)
		p.exit, p.entry = slow, new(handEnd)
		st, slowEntry := p.open(), p.entry
		p.exit, p.entry = other, new(handEnd)
		p.open()
		slowEntry.send(make([]byte, 4<<20))
		synctest.Wait()
		queued := p.gateway.Stats().Queued
		if queued <= 1<<20 || queued > 1<<20+64<<10 || budget.Used() != queued {
			t.Errorf("%d bytes queued, %d reserved", queued, budget.Used())
		}
		p.entry.send([]byte("behind it"))
		time.Sleep(29 * time.Second)
		if other.taken() != 0 || st.Info().BytesOut > 2<<20 {
			t.Errorf("the channel is still read: %d bytes, %d bytes", other.taken(), st.Info().BytesOut)
		}
		time.Sleep(2 * time.Second)
		if other.taken() != len("behind it") {
			t.Error("the other stream did not go on")
		}
		slow.read(func() {
			if !slow.closed || slow.code != framecodec.CodeSlowConsumer {
				t.Errorf("closed %v with %v", slow.closed, slow.code)
			}
		})
		if n := budget.Used(); n != 0 {
			t.Errorf("%d bytes stay reserved", n)
		}
	})
}

// One that reads at last is not cut, and loses nothing.
func TestDialect1StallResumes(t *testing.T) {
	inDuo(t, tunnel.Dialect1, nil, func(p *duo) {
		p.exit.stuck = true
		p.open()
		p.entry.send(make([]byte, 4<<20))
		time.Sleep(20 * time.Second)
		p.exit.free()
		synctest.Wait()
		if got := p.exit.taken(); got != 4<<20 {
			t.Errorf("%d bytes came", got)
		}
	})
}

// Who reads nothing notices the end of the carrier all the same.
func TestDialect1StallNoticesTheEnd(t *testing.T) {
	inDuo(t, tunnel.Dialect1, nil, func(p *duo) {
		p.exit.stuck = true
		p.open()
		p.entry.send(make([]byte, 4<<20))
		time.Sleep(2 * time.Second)
		_ = p.wire.Close(0)
		from := time.Now()
		<-p.gateway.Done()
		if took := time.Since(from); took > 5*time.Second || tunnel.CodeOf(p.gateway.Err()) != framecodec.CodeTunnelLost {
			t.Errorf("after %v: %v", took, p.gateway.Err())
		}
	})
}

// Both sides stop reading for a stream of their own, and neither carrier has room
// even for control frames. What waits is written all the same, and that frees
// the other side.
func TestDialect1BothStall(t *testing.T) {
	inDuo(t, tunnel.Dialect1, nil, func(p *duo) {
		p.entry.stuck, p.exit.stuck = true, true
		p.open()
		entry, exit := p.entry, p.exit
		var others []*handEnd
		for range 8 {
			p.entry, p.exit = new(handEnd), new(handEnd)
			p.open()
			others = append(others, p.entry, p.exit)
		}
		entry.send(make([]byte, 1<<20+100<<10)) // more than is queued, less than fits the carrier
		exit.send(make([]byte, 1<<20+100<<10))
		time.Sleep(5 * time.Second)
		// Interactive streams fill the carriers up to the high mark of these; then
		// a bulk stream has its turn, and the mark falls far below what is there.
		before := p.client.Stats().BytesOut + p.gateway.Stats().BytesOut
		for _, e := range others {
			e.send(make([]byte, 16<<10))
		}
		entry.send(make([]byte, 100<<10))
		exit.send(make([]byte, 100<<10))
		for p.client.Stats().BytesOut+p.gateway.Stats().BytesOut < before+16*16<<10 {
			time.Sleep(10 * time.Millisecond)
			synctest.Wait()
		}
		entry.free()
		exit.free()
		synctest.Wait()
		if a, b := entry.taken(), exit.taken(); a != 1<<20+200<<10 || b != a {
			t.Errorf("%d and %d bytes came at once", a, b)
		}
	})
}
