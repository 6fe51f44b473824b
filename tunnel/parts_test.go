package tunnel

import (
	"bytes"
	"math/rand/v2"
	"sync"
	"testing"
	"time"
)

func TestBudget(t *testing.T) {
	process := NewBudget(nil, 100)
	identity := NewBudget(process, 60)
	a, b := NewBudget(identity, 40), NewBudget(identity, 0)
	used := func() [4]int64 { return [4]int64{a.Used(), b.Used(), identity.Used(), process.Used()} }
	steps := []struct {
		name string
		ok   func() bool
		used [4]int64
	}{
		{"a takes 40", func() bool { return a.Reserve(40) }, [4]int64{40, 0, 40, 40}},
		{"a has no more", func() bool { return !a.Reserve(1) }, [4]int64{40, 0, 40, 40}},
		{"b is held by the identity", func() bool { return !b.Reserve(21) && b.Reserve(20) }, [4]int64{40, 20, 60, 60}},
		{"b has no limit of its own", func() bool { return b.Limit() == 0 && b.Free(1000) == 0 }, [4]int64{40, 20, 60, 60}},
	}
	for _, s := range steps {
		if !s.ok() || used() != s.used {
			t.Errorf("%s: used %v, want %v", s.name, used(), s.used)
		}
	}
	if !a.Pressed() || identity.Pressed() {
		t.Error("60 of 60 does not press, or 60 of 100 does")
	}
	if b.Over() {
		t.Error("full is over")
	}
	b.Force(5)
	if !b.Over() || !a.Over() || process.Over() {
		t.Error("65 of 60 is not over, or 65 of 100 is")
	}
	b.Release(25)
	a.Release(40)
	if process.Used() != 0 || identity.Used() != 0 || b.Free(7) != 7 {
		t.Errorf("%d and %d stay", process.Used(), identity.Used())
	}
	process.SetLimit(10)
	if a.Reserve(11) || !a.Reserve(10) || a.Free(100) != 0 {
		t.Error("a limit that was lowered does not hold")
	}
}

// Above three quarters of a budget these are divided by its tunnels, whatever
// identity they are of, and a tunnel's part by its sessions.
func TestBudgetShare(t *testing.T) {
	process := NewBudget(nil, 400)
	alice, bob := NewBudget(process, 200), NewBudget(process, 0)
	a1, a2, b1 := NewBudget(alice, 0), NewBudget(alice, 0), NewBudget(bob, 0)
	for _, b := range []*Budget{a1, a2, b1, b1} {
		b.join()
	}
	if got := a1.share(0); got < 1<<60 {
		t.Errorf("share %d while memory is not short", got)
	}
	a1.Force(150)
	if a1.share(0) < 1<<60 || a1.share(1) != 75 || b1.share(1) < 1<<60 {
		t.Errorf("at the mark of alice: %d, %d beyond it, bob's %d", a1.share(0), a1.share(1), b1.share(1))
	}
	b1.Force(151)
	if a1.share(0) != 100 || b1.share(0) != 50 || a1.share(1) != 75 {
		t.Errorf("beyond the mark of all: %d, one session of two %d, %d", a1.share(0), b1.share(0), a1.share(1))
	}
	b1.leave()
	a2.leave()
	if a1.share(0) != 150 || b1.share(0) != 150 {
		t.Errorf("of two tunnels: %d and %d", a1.share(0), b1.share(0))
	}
	b1.leave()
	a1.leave()
	if n := process.tunnels.Load() + alice.tunnels.Load() + bob.tunnels.Load(); n != 0 {
		t.Errorf("%d tunnels stay", n)
	}
}

func TestBudgetOfMany(t *testing.T) {
	process := NewBudget(nil, 1000)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			tunnel := NewBudget(process, 300)
			for i := range 5000 {
				n := int64(i % 400)
				if tunnel.Reserve(n) {
					if process.Used() > 1000 || tunnel.Used() > 300 {
						t.Error("more was lent than there is")
					}
					tunnel.Release(n)
				}
			}
			if tunnel.Used() != 0 {
				t.Error("something stays")
			}
		})
	}
	wg.Wait()
	if process.Used() != 0 {
		t.Errorf("%d stay", process.Used())
	}
}

// The leftover queue against a plain buffer.
func TestLeftover(t *testing.T) {
	rng := rand.New(rand.NewPCG(7, 7))
	var q leftover
	var want []byte
	for range 8_000 {
		if rng.IntN(2) == 0 && len(want) < 200_000 {
			p := make([]byte, rng.IntN(1<<rng.IntN(17)+1))
			for i := range p {
				p[i] = byte(rng.Uint32())
			}
			q.append(p)
			want = append(want, p...)
		} else if front := q.front(); len(front) > 0 {
			n := 1 + rng.IntN(len(front))
			if !bytes.Equal(front[:n], want[:n]) {
				t.Fatal("wrong bytes")
			}
			q.drop(n)
			want = want[n:]
		}
		if q.n != len(want) || (q.n == 0) != (q.head == nil) || (q.n == 0) != (q.tail == nil) {
			t.Fatalf("%d bytes, want %d; head %v tail %v", q.n, len(want), q.head, q.tail)
		}
	}
	if n := q.clear(); n != len(want) || q.n != 0 || q.head != nil || q.tail != nil || q.front() != nil {
		t.Errorf("cleared %d of %d", n, len(want))
	}
}

// A queue of few bytes costs few, and a segment that is free holds nothing.
func TestSegments(t *testing.T) {
	for _, c := range []struct{ want, size int }{{1, 1 << 10}, {1 << 10, 1 << 10}, {1025, 4 << 10}, {16 << 10, 16 << 10}, {1 << 20, 16 << 10}} {
		g := newSegment(c.want)
		if len(g.buf) != c.size || g.r != 0 || g.w != 0 || g.next != nil {
			t.Errorf("%d bytes: %d, r %d, w %d", c.want, len(g.buf), g.r, g.w)
		}
		g.r, g.w, g.next = 1, 2, g
		g.free()
		if g.r != 0 || g.w != 0 || g.next != nil {
			t.Error("a free segment remembers something")
		}
	}
}

func TestReadyList(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 3))
	var l readyList
	var c controlList
	var want []*Stream
	for range 5000 {
		if rng.IntN(2) == 0 {
			st := &Stream{}
			l.push(st)
			c.push(st) // in both lists at once
			want = append(want, st)
			continue
		}
		var next *Stream
		if len(want) > 0 {
			next, want = want[0], want[1:]
		}
		if got := l.pop(); got != next || got != nil && got.readyNext != nil {
			t.Fatal("ready list: wrong stream")
		}
		if got := c.pop(); got != next || got != nil && got.controlNext != nil {
			t.Fatal("control list: wrong stream")
		}
		if l.empty() != (len(want) == 0) || c.empty() != (len(want) == 0) {
			t.Fatal("empty or not")
		}
	}
}

func TestMarks(t *testing.T) {
	const ms = time.Millisecond
	var m marks
	m.init()
	at := time.Hour
	if got := m.high(at, 0, 0); got != markStart {
		t.Errorf("%d at the start", got)
	}
	// 100 MB/s of bulk over 40 ms: one and a half times what is under way, but
	// never above the most.
	for range 30 {
		at += 100 * ms
		m.bulkAt = at
		m.wrote(10 << 20)
		m.high(at, 0, 40*ms)
	}
	if m.mark != markMost {
		t.Errorf("long fast path: %d", m.mark)
	}
	if got := m.low(); got != markMost/8*7 {
		t.Errorf("low mark %d", got)
	}
	// A keystroke beside it: no more than the path holds.
	m.interactiveAt = at
	if got := m.high(at, 0, 1*ms); got < markInteractive || got > 120<<10 {
		t.Errorf("with a keystroke: %d", got)
	}
	if got := m.high(at, 0, 0); got != markInteractive {
		t.Errorf("with a keystroke and no RTT: %d", got)
	}
	// Nothing of both for a while: as at the start.
	if got := m.high(at+time.Second, 0, 0); got != markStart {
		t.Errorf("later: %d", got)
	}
	// What is buffered was not acknowledged and counts for no rate.
	var slow marks
	slow.init()
	for i := range 20 {
		slow.wrote(1 << 20)
		slow.high(time.Duration(i+1)*100*ms, (i+1)<<20, 100*ms)
	}
	if slow.rate != 0 {
		t.Errorf("%.0f bytes a second, and nothing was acknowledged", slow.rate)
	}
}

func TestClassify(t *testing.T) {
	s := &Session{}
	st := &Stream{s: s, turns: interactiveTurns}
	for i := range interactiveTurns {
		if st.bits.Load()&bitBulk != 0 {
			t.Fatalf("bulk after %d reads", i)
		}
		s.classify(st, chunkSize, true, false)
	}
	if st.bits.Load()&bitBulk == 0 {
		t.Fatal("still interactive")
	}
	s.classify(st, 2000, true, false) // all that the message had room for
	if st.bits.Load()&bitBulk == 0 {
		t.Error("interactive, and only because the message was nearly full")
	}
	s.classify(st, 2000, false, false)
	if st.bits.Load()&bitBulk != 0 || st.turns != interactiveTurns {
		t.Error("a small read does not make it interactive")
	}
}

func TestDeadline(t *testing.T) {
	d := newDeadline()
	defer d.stop()
	first := d.wait()
	if isClosed(first) {
		t.Fatal("expired from the start")
	}
	d.set(time.Now().Add(time.Hour))
	if d.wait() != first || isClosed(first) {
		t.Error("who waited before the deadline was set would not be woken")
	}
	d.set(time.Now().Add(-time.Second))
	if !isClosed(first) {
		t.Error("a time that is past does not expire")
	}
	d.set(time.Time{})
	if isClosed(d.wait()) {
		t.Error("still expired without a deadline")
	}
	d.set(time.Now().Add(time.Millisecond))
	<-d.wait()
	d.set(time.Now().Add(time.Hour)) // after it fired
	if isClosed(d.wait()) {
		t.Error("expired an hour early")
	}
	for range 200 { // set while it fires
		d.set(time.Now().Add(time.Microsecond))
		d.set(time.Now().Add(time.Hour))
		if isClosed(d.wait()) {
			t.Fatal("an old timer expired the new deadline")
		}
	}
}

func TestNumbers1(t *testing.T) {
	var u numbers1
	seen := map[uint32]bool{}
	highest := uint32(0)
	rng := rand.New(rand.NewPCG(5, 5))
	for range 40_000 {
		n := highest + uint32(rng.IntN(6000)) - min(highest, uint32(rng.IntN(6000)))
		want := n != 0 && !seen[n] && (n > highest && n-highest <= ahead1 || n < highest && highest-n < ahead1)
		if got := u.use(n); got != want {
			t.Fatalf("number %d, highest %d, used %v: %v", n, highest, seen[n], got)
		}
		if want {
			seen[n], highest = true, max(highest, n)
		}
	}
	u.highest = 1<<32 - 10
	if !u.use(1<<32-1) || u.use(1<<32-1) || u.use(5) {
		t.Error("at the end of the numbers")
	}
}

func BenchmarkPool(b *testing.B) {
	b.Run("message", func(b *testing.B) {
		for range b.N {
			messagePool.Put(messagePool.Get())
		}
	})
	b.Run("segment", func(b *testing.B) {
		for range b.N {
			newSegment(16 << 10).free()
		}
	})
}
