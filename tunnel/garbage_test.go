package tunnel_test

import (
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/culvertgate/culvert/framecodec"
	"github.com/culvertgate/culvert/tunnel"
)

// garbageLengths are all up to 4 KiB and the borders of what has one above.
func garbageLengths() []int {
	var list []int
	for n := range 4<<10 + 1 {
		list = append(list, n)
	}
	for _, border := range []int{framecodec.MaxControl, framecodec.MaxControl + framecodec.Overhead, framecodec.MaxPayload2, 65536} {
		list = append(list, border-1, border, border+1)
	}
	return list
}

// Messages whose data is garbage: those that there are, and one that is not.
var garbageKinds = [...][]uint16{
	tunnel.Dialect1: {1, 2, 101, 102, 103, 104, 301, 302, 303, 999},
	tunnel.Dialect2: {1, 2, 401, 402, 403, 404, 405, 406, 407, 410, 411, 412, 413, 499},
}

// garbage is one meeting of a session with bytes that mean nothing.
type garbage struct {
	d       tunnel.Dialect
	greeted bool // behind a Hello and, if framed, an open stream 1
	framed  bool // the data of a control message, not the bytes of the wire
	n       int
	rng     *rand.Rand
}

// bytes makes what is sent, and says with what the session must end; ok is false
// where it may go on.
func (g garbage) bytes() (b []byte, want tunnel.Code, ok bool) {
	b = make([]byte, g.n)
	for i := 0; i < len(b); i += 8 {
		var eight [8]byte
		binary.LittleEndian.PutUint64(eight[:], g.rng.Uint64())
		copy(b[i:], eight[:])
	}
	most := framecodec.MaxPayload2
	if g.d == tunnel.Dialect1 {
		most = framecodec.MaxPayload1
	}
	if g.framed {
		payload := b[:max(0, g.n-framecodec.Overhead)]
		if kinds := garbageKinds[g.d]; len(payload) >= 2 {
			binary.BigEndian.PutUint16(payload, kinds[g.rng.IntN(len(kinds))])
		}
		word := uint64(0)
		if g.greeted {
			word = 2
		}
		return framecodec.AppendFrame(nil, 0, word, payload), 0, false
	}
	_, _, err := framecodec.ParseFrame(b, most)
	switch {
	case g.n > 65536, err == nil: // no carrier delivers it; a frame by accident
		return b, 0, false
	case errors.Is(err, framecodec.ErrShort):
		return b, framecodec.CodeTunnelLost, true // it may be the beginning of one, until the peer is gone
	default:
		return b, framecodec.CodeProtocolError, true
	}
}

// panics is an Observer that counts them.
type panics struct{ n atomic.Int32 }

func (*panics) StreamOpened(*tunnel.Stream)                     {}
func (*panics) StreamEnded(*tunnel.Stream, tunnel.Code, string) {}
func (p *panics) Panicked(any, []byte)                          { p.n.Add(1) }

// meet lets a session have the garbage, waits for its end and looks at what is
// left.
func (g garbage) meet(t *testing.T) {
	t.Helper()
	a, b := newWires()
	watch, budget := new(panics), tunnel.NewBudget(nil, 64<<20)
	s := tunnel.NewSession(a, tunnel.Config{Dialect: g.d, Role: tunnel.RoleGateway, Budget: budget, Observer: watch,
		Accept: func(in *tunnel.Incoming) { _ = in.Attach(new(handEnd), "") }})
	late := time.AfterFunc(10*time.Second, func() {
		t.Errorf("%+v: the session did not end", g)
		_ = b.Close(0)
	})
	if g.greeted && g.d == tunnel.Dialect1 {
		_ = b.WriteMessage(framecodec.OpenConnection{Conn: 1}.AppendFrame(nil, 0))
	} else if g.greeted {
		_ = b.WriteMessage(rawHello.AppendFrame(nil, 0))
		_ = b.WriteMessage(framecodec.Open{Conn: 1, Kind: framecodec.KindNamed, Host: []byte("x")}.AppendFrame(nil, 1))
	}
	bytes, want, ok := g.bytes()
	_ = b.WriteMessage(bytes)
	if want != framecodec.CodeProtocolError {
		_ = b.Close(0)
	}
	for buf := make([]byte, 65536); b.Wait() == nil; {
		if _, err := b.ReadMessage(buf); err != nil {
			break
		}
	}
	s.Wait()
	late.Stop()
	if got := tunnel.CodeOf(s.Err()); ok && got != want {
		t.Errorf("%+v: the session ended with %v, want %v", g, s.Err(), want)
	}
	if n := watch.n.Load(); n > 0 {
		t.Errorf("%+v: %d panics", g, n)
	}
	if used, streams := budget.Used(), s.Stats().Streams; used != 0 || streams != 0 {
		t.Errorf("%+v: %d bytes stay reserved, %d streams open", g, used, streams)
	}
}

// Every length is met by both dialects, before and behind the beginnings of a
// session, on the wire and inside of a message. The first seed has all of that,
// the next ones as much as there is time for. Most of a meeting is waiting, so
// many are held at a time.
func TestGarbageOfEveryLength(t *testing.T) {
	t.Cleanup(func() { goleak.VerifyNone(t) })
	const seeds, patience, atOnce = 4, 3 * time.Second, 32
	base, lengths, start := testSeed(t, 1), garbageLengths(), time.Now()
	var next, met atomic.Int64
	var workers sync.WaitGroup
	for range atOnce {
		workers.Go(func() {
			for !t.Failed() {
				i := int(next.Add(1)) - 1
				seed := i / len(lengths)
				if seed >= seeds || seed > 0 && time.Since(start) > patience {
					return
				}
				met.Add(int64(meetAll(t, lengths[i%len(lengths)], seed, rand.New(rand.NewPCG(base, uint64(i))))))
			}
		})
	}
	workers.Wait()
	t.Logf("%d sessions in %v: %d lengths of %d", met.Load(), time.Since(start), min(int(next.Load()), seeds*len(lengths)), len(lengths))
}

// meetAll is all meetings of a length, and a quarter of them for later seeds; of
// either the race detector, which is slow, sees half.
func meetAll(t *testing.T, n, seed int, rng *rand.Rand) (met int) {
	t.Helper()
	for what := range 8 {
		if seed > 0 && (what+n+seed)%4 != 0 || raceEnabled && (what>>1+n)%2 != 0 {
			continue
		}
		g := garbage{d: tunnel.Dialect1, greeted: what&1 != 0, framed: what&2 != 0, n: n, rng: rng}
		if what&4 != 0 {
			g.d = tunnel.Dialect2
		}
		g.meet(t)
		met++
	}
	return met
}
