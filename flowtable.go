package culvert

import (
	"context"
	"sync"
	"time"

	"github.com/culvertgate/culvert/framecodec"
	"github.com/culvertgate/culvert/tunnel"
)

// refusedFor is for how long a flow that was not opened is not asked for again: who
// sends on would ask with each datagram.
const refusedFor = time.Second

// flowTable has a flow for each key of a UDP socket: an association's destination,
// a forward's client. Each flow has a goroutine that opens it and then hands out its
// answers; it ends with the flow, when the table is closed at the latest. All
// methods are safe for concurrent use.
type flowTable[K comparable] struct {
	room   flowRoom
	open   func(context.Context, tunnel.Target, tunnel.Endpoint) error
	failed func(K, tunnel.Target, error)
	guard  func(func())   // runs f and survives its panic, if it should
	memory *tunnel.Budget // of what waits in all flows; nil: none

	ctx    context.Context // ends with close
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu    sync.Mutex
	ended bool                       // guarded by mu
	flows map[K]*tunnel.DatagramConn // guarded by mu
}

// flowRoom is how many flows there may be at a time; tables may share one. It has a
// token for each flow. Safe for concurrent use.
type flowRoom chan struct{}

// take reports whether there is room for one more, which is taken then.
func (r flowRoom) take() bool {
	select {
	case r <- struct{}{}:
		return true
	default:
		return false
	}
}

func (r flowRoom) give() { <-r }

// init makes the table ready; its other fields are set.
func (t *flowTable[K]) init() {
	t.ctx, t.cancel = context.WithCancel(context.Background()) //nolint:gosec // close calls it
	t.flows = make(map[K]*tunnel.DatagramConn)
}

// find returns the flow of a key, nil if there is none. What is written to one that
// has just ended is lost, as a datagram may be.
func (t *flowTable[K]) find(key K) *tunnel.DatagramConn {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.flows[key]
}

// add begins a flow, whose answers go to answer; nil: there is no room. It does not
// wait: what is written meanwhile waits in the flow, where the oldest make room.
func (t *flowTable[K]) add(key K, target tunnel.Target, answer func(p []byte)) *tunnel.DatagramConn {
	t.mu.Lock()
	defer t.mu.Unlock()
	conn, known := t.flows[key]
	if known || t.ended || !t.room.take() {
		return conn
	}
	conn, ep := tunnel.NewDatagramConnWithin(t.memory, tunnel.Addr{Net: "webrtc", Text: "local"}, tunnel.Addr{Net: "webrtc", Text: target.String()})
	t.flows[key] = conn
	t.wg.Go(func() {
		defer t.forget(key)
		carried := false
		t.guard(func() {
			t.carry(key, target, conn, ep, answer)
			carried = true
		})
		if !carried {
			abandon(conn, ep)
		}
	})
	return conn
}

// carry opens a flow and hands out its answers until it ends.
func (t *flowTable[K]) carry(key K, target tunnel.Target, conn *tunnel.DatagramConn, ep tunnel.Endpoint, answer func(p []byte)) {
	defer conn.Close()
	if err := t.open(t.ctx, target, ep); err != nil {
		if t.ctx.Err() == nil {
			t.failed(key, target, err)
		}
		pause(t.ctx, refusedFor)
		return
	}
	_ = conn.Each(answer)
}

// abandon ends a flow behind a panic. It may have come to no session, and then nobody
// else gives back what waits in it.
func abandon(conn *tunnel.DatagramConn, ep tunnel.Endpoint) {
	_ = conn.Close()
	ep.Close(framecodec.CodeInternal)
}

func (t *flowTable[K]) forget(key K) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.flows, key)
	t.room.give()
}

// close ends all flows, lets no new ones in, and waits for their goroutines.
func (t *flowTable[K]) close() {
	t.cancel()
	t.mu.Lock()
	t.ended = true
	for _, conn := range t.flows {
		_ = conn.Close()
	}
	t.mu.Unlock()
	t.wg.Wait()
}
