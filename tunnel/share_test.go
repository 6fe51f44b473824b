package tunnel_test

import (
	"encoding/binary"
	"testing"
	"time"

	"github.com/culvertgate/culvert/framecodec"
	"github.com/culvertgate/culvert/tunnel"
)

// granted is what a raw peer was granted: limits of its stream 1 and of all, and
// by how much each was ahead of what had been consumed, at last and at most.
type granted struct {
	stream, session            uint64
	streamAhead, ahead         uint64
	mostStreamAhead, mostAhead uint64
}

// takesAll accepts streams with Endpoints that take everything at once.
func takesAll(cfg *tunnel.Config) {
	cfg.Accept = func(in *tunnel.Incoming) { _ = in.Attach(new(handEnd), "") }
}

// begin exchanges Hellos and opens stream 1.
func (r *raw) begin() *granted {
	r.t.Helper()
	g := &granted{stream: 256 << 10, session: tunnel.MinSessionMemory}
	r.send(rawHello)
	r.openQuiet(g, 1)
	return g
}

// openQuiet opens a stream whose Endpoint the test does not look at.
func (r *raw) openQuiet(g *granted, n uint32) {
	r.t.Helper()
	r.send(framecodec.Open{Conn: n, Kind: framecodec.KindNamed, Host: []byte("x")})
	for r.heed(g) != framecodec.MsgOpened {
	}
}

// drive sends n bytes on stream 1 as fast as it is granted more, and then waits
// until all of it was taken. It says that the path is long, so that every window
// counts as used up fast.
func (r *raw) drive(g *granted, n uint64) {
	r.t.Helper()
	for n > 0 {
		k := min(n, 32<<10, g.stream-r.sent[1], g.session-r.sentInAll())
		if k == 0 {
			r.heed(g)
			continue
		}
		r.data(1, make([]byte, k))
		n -= k
	}
	r.send(framecodec.Ping{HasConn: true, Extra: make([]byte, 8)})
	for r.heed(g) != framecodec.MsgPong {
	}
}

func (r *raw) sentInAll() (sum uint64) {
	for _, n := range r.sent {
		sum += n
	}
	return sum
}

// heed takes one message.
func (r *raw) heed(g *granted) framecodec.Message {
	r.t.Helper()
	msg, data, ok := r.nextControl()
	if !ok || msg == framecodec.MsgReset || msg == framecodec.MsgClose {
		r.t.Fatalf("%v %q; the session: %v", msg, data, r.s.Err())
	}
	switch msg {
	case framecodec.MsgPing:
		ping, err := framecodec.ParsePing(data)
		if err != nil {
			r.t.Fatal(err)
		}
		sent := binary.BigEndian.Uint64(ping.Extra) - uint64(time.Minute)
		r.send(framecodec.Pong{Extra: binary.BigEndian.AppendUint64(nil, sent)})
	case framecodec.MsgWindow:
		w, err := framecodec.ParseWindow(data)
		switch {
		case err != nil:
			r.t.Fatal(err)
		case w.Conn == 0:
			g.session, g.ahead = w.Limit, w.Limit-w.Consumed
			g.mostAhead = max(g.mostAhead, g.ahead)
		case w.Conn == 1:
			g.stream, g.streamAhead = w.Limit, w.Limit-w.Consumed
			g.mostStreamAhead = max(g.mostStreamAhead, g.streamAhead)
		}
	default: // for the caller
	}
	return msg
}

// Three tunnels share 24 MiB, and one of them has 16. As soon as more than 18 MiB
// are used it is granted no more than its third of those, while the others may
// still grow to theirs.
func TestFairShare(t *testing.T) {
	const limit, mark, share = 24 << 20, 18 << 20, 6 << 20
	process := tunnel.NewBudget(nil, limit)
	change := func(cfg *tunnel.Config) {
		takesAll(cfg)
		cfg.Budget = tunnel.NewBudget(process, 0)
	}
	hog := newRaw(t, tunnel.Dialect2, tunnel.RoleGateway, change)
	newcomer := rawBeside(t, tunnel.Dialect2, tunnel.RoleGateway, change)
	third := rawBeside(t, tunnel.Dialect2, tunnel.RoleGateway, change)
	mine, theirs, _ := hog.begin(), newcomer.begin(), third.begin()
	hog.drive(mine, 96<<20)
	if used := process.Used(); mine.ahead != 16<<20 || used != mark {
		t.Fatalf("the hog is granted %d bytes ahead, %d bytes are used: this test wants 16 MiB and %d", mine.ahead, used, mark)
	}

	process.Force(1 << 20)
	newcomer.drive(theirs, 16<<20)
	if theirs.mostAhead <= tunnel.MinSessionMemory || theirs.mostAhead > share {
		t.Errorf("above the mark the newcomer is granted %d bytes ahead, its share is %d", theirs.mostAhead, share)
	}
	process.Force(10 << 20)
	mine.mostAhead = 0
	hog.drive(mine, 32<<20)
	if mine.mostAhead > share || mine.mostAhead == 0 {
		t.Errorf("above the mark the hog is granted %d bytes ahead, its share is %d", mine.mostAhead, share)
	}
	newcomer.drive(theirs, 4<<20) // beyond the limit of all, it goes on
	hog.drive(mine, 4<<20)

	// The fewer there are, the larger is the share.
	process.Release(11 << 20)
	third.s.Close(0, "")
	_ = third.w.Close(0)
	third.s.Wait()
	others := process.Limit() - process.Used() - 5<<20
	process.Force(others)
	mine.mostAhead = 0
	for range 8 {
		hog.drive(mine, 8<<20)
	}
	if mine.mostAhead <= share || mine.mostAhead > mark/2 {
		t.Errorf("of two tunnels the hog is granted %d bytes ahead, its share is %d", mine.mostAhead, mark/2)
	}
	process.Release(others)
}

// A stream is granted an eighth of what is free in the session, or 64 KiB; only
// the first window is as large as the Hello says.
func TestEighthOfWhatIsFree(t *testing.T) {
	stuckNow := false
	r := newRaw(t, tunnel.Dialect2, tunnel.RoleGateway, func(cfg *tunnel.Config) {
		cfg.Budget.SetLimit(tunnel.MinSessionMemory) // no more than it has
		cfg.Accept = func(in *tunnel.Incoming) { _ = in.Attach(&handEnd{stuck: stuckNow}, "") }
	})
	g := r.begin()
	r.drive(g, 1<<20)
	if want := uint64(tunnel.MinSessionMemory / 8); g.mostStreamAhead != want {
		t.Errorf("granted %d bytes ahead while all is free, want %d", g.mostStreamAhead, want)
	}
	// The session grants more when half of its window is used up: the drive may
	// have left less than what gets stuck.
	for g.session-r.sentInAll() < 600<<10 {
		r.drive(g, 16<<10)
	}
	stuckNow = true
	for n := uint32(3); n <= 7; n += 2 {
		r.openQuiet(g, n)
		r.data(n, make([]byte, 200<<10))
	}
	waitFor(t, func() bool { return r.s.Stats().Queued == 600<<10 })
	g.mostStreamAhead = 0
	r.drive(g, 512<<10)
	if g.mostStreamAhead != 64<<10 {
		t.Errorf("granted %d bytes ahead while little is free, want 64 KiB", g.mostStreamAhead)
	}
}
