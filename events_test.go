package culvert

import (
	"sync/atomic"
	"testing"

	"go.uber.org/goleak"
)

// TestEventQueueNeverBlocks: a subscriber that hangs costs events, not tunnels.
func TestEventQueueNeverBlocks(t *testing.T) {
	defer goleak.VerifyNone(t)
	var dropped atomic.Uint64
	hang := make(chan struct{})
	var delivered atomic.Int64
	q := newEventQueue(func(queuedEvent) {
		<-hang
		delivered.Add(1)
	}, &dropped)
	const sent = eventQueueLength + 100
	for range sent {
		q.emit(eventTunnelOpened, nil)
	}
	if n := dropped.Load(); n < 99 || n > 100 { // one may be with the subscriber
		t.Errorf("%d dropped, want 99 or 100", n)
	}
	close(hang)
	<-q.close()
	<-q.close() // again
	if got := uint64(delivered.Load()) + dropped.Load(); got != sent {
		t.Errorf("%d events delivered or counted as dropped, want %d", got, sent)
	}
	q.emit(eventTunnelClosed, nil) // after the end: nothing happens
}
