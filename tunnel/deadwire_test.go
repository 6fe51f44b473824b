package tunnel_test

import (
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/culvertgate/culvert/framecodec"
	"github.com/culvertgate/culvert/tunnel"
)

// mortalWire is a wire whose transport can die. Then room is promised, as the
// contract wants it, though nothing was acknowledged, and writing fails.
type mortalWire struct {
	*wire
	dead     atomic.Bool
	promised atomic.Int32
}

func (w *mortalWire) die() {
	w.dead.Store(true)
	w.mu.Lock()
	f := w.low
	w.low = nil
	w.mu.Unlock()
	if f != nil {
		f()
	}
}

func (w *mortalWire) NotifyLow(mark int, f func()) {
	if !w.dead.Load() {
		w.wire.NotifyLow(mark, f)
		return
	}
	if w.promised.Add(1) < 1000 { // who turns in circles would hold up the bubble's time
		f()
	}
}

func (w *mortalWire) WriteMessage(p []byte) error {
	if w.dead.Load() {
		return errWireClosed
	}
	return w.wire.WriteMessage(p)
}

// jammedSource always has something and takes nothing.
type jammedSource struct{ source }

func (*jammedSource) TryWrite([]byte) (int, error) { return 0, tunnel.ErrWouldBlock }

// A session whose receiver waits, for an Endpoint or for a peer that does not
// read what it is owed, and whose carrier is full, neither reads nor writes. It
// notices all the same that the carrier has died, and does not turn in circles.
func TestDeadCarrierIsNoticedWhileNothingMoves(t *testing.T) {
	for _, d := range []tunnel.Dialect{tunnel.Dialect1, tunnel.Dialect2} {
		t.Run(string('0'+rune(d)), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { testDeadCarrier(t, d) })
		})
	}
}

func testDeadCarrier(t *testing.T, d tunnel.Dialect) {
	a, b := newWires()
	w := &mortalWire{wire: a}
	s := tunnel.NewSession(w, tunnel.Config{Dialect: d, Role: tunnel.RoleGateway, WriteTimeout: time.Hour,
		Accept: func(in *tunnel.Incoming) { _ = in.Attach(new(jammedSource), "") }})
	word := uint64(0)
	send := func(m message) {
		_ = b.WriteMessage(m.AppendFrame(nil, word))
		word++
	}
	if d == tunnel.Dialect1 {
		send(framecodec.OpenConnection{Conn: 1})
		time.Sleep(time.Second) // the mark of bulk alone holds
		for range 400 {         // Pongs, for which there is more room than for data
			send(framecodec.Ping{HasConn: true, Extra: make([]byte, 1400)})
		}
		for range 70 { // above 1 MiB
			_ = b.WriteMessage(framecodec.AppendFrame(nil, 1, 0, make([]byte, 16<<10)))
		}
	} else {
		h := rawHello
		h.StreamWindow = 1 << 20
		send(h)
		send(framecodec.Open{Conn: 1, Kind: framecodec.KindNamed, Host: []byte("x"), Window: 1 << 20})
		time.Sleep(time.Second)
		for range 5000 { // Pongs for more than 64 KiB
			send(framecodec.Ping{HasConn: true, Extra: make([]byte, 8)})
		}
	}
	synctest.Wait()
	if n := a.Buffered(); n < 320<<10 {
		t.Errorf("%d bytes are buffered: the carrier is not full", n)
	}
	if a.mu.Lock(); len(a.inbox) == a.head {
		t.Error("everything was read: the receiver does not wait")
	}
	a.mu.Unlock()
	from := time.Now()
	w.die()
	select {
	case <-s.Done():
	case <-time.After(time.Minute):
		t.Error("the session lives on")
		s.Close(0, "")
	}
	s.Wait()
	t.Logf("noticed after %v, asked %d times for room", time.Since(from), w.promised.Load())
	if n := w.promised.Load(); n > 10 {
		t.Errorf("the sender asked %d times for room", n)
	}
}
