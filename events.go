package culvert

import (
	"sync"
	"sync/atomic"

	"go.uber.org/zap"
)

// The events of this app. Their data has the keys id, endpoint, identity,
// client_ip, target, code, bytes_in, bytes_out and duration_ms, where they apply.
const (
	eventTunnelOpened   = "tunnel_opened"
	eventTunnelClosed   = "tunnel_closed"
	eventTunnelRejected = "tunnel_rejected"
	eventStreamDenied   = "stream_denied"
	eventDrainStarted   = "drain_started"
	eventBreakerOpened  = "breaker_opened"
	eventBreakerClosed  = "breaker_closed"
)

// eventQueueLength bounds the events waiting for subscribers.
const eventQueueLength = 1024

type queuedEvent struct {
	name string
	data map[string]any
}

// eventQueue hands events to one goroutine, since Caddy runs subscribers
// synchronously and one that hangs must not hold up a tunnel. When the queue is
// full the event is dropped and counted.
type eventQueue struct {
	mu      sync.RWMutex // held for reading by emit, so that close can't race a send
	closed  bool         // guarded by mu
	queue   chan queuedEvent
	drained chan struct{}
	dropped *atomic.Uint64
}

// newEventQueue starts the goroutine. deliver is called for one event at a time.
func newEventQueue(deliver func(queuedEvent), dropped *atomic.Uint64) *eventQueue {
	q := &eventQueue{queue: make(chan queuedEvent, eventQueueLength), drained: make(chan struct{}), dropped: dropped}
	go func() {
		defer close(q.drained)
		for ev := range q.queue {
			deliver(ev)
		}
	}()
	return q
}

// emit queues an event and never blocks.
func (q *eventQueue) emit(name string, data map[string]any) {
	q.mu.RLock()
	defer q.mu.RUnlock()
	if q.closed {
		return
	}
	select {
	case q.queue <- queuedEvent{name, data}:
	default:
		q.dropped.Add(1)
	}
}

// close lets what is queued be delivered; the goroutine ends behind it, which
// the returned channel tells.
func (q *eventQueue) close() <-chan struct{} {
	q.mu.Lock()
	defer q.mu.Unlock()
	if !q.closed {
		q.closed = true
		close(q.queue)
	}
	return q.drained
}

// deliver emits an event to the subscribers of the newest configuration. A
// subscriber's panic is its own.
func (h *hub) deliver(ev queuedEvent) {
	env := h.current()
	if env == nil || env.events == nil {
		return
	}
	defer func() {
		if v := recover(); v != nil {
			env.logger.Error("event subscriber panicked", zap.String("event", ev.name), zap.Any("panic", v), zap.Stack("stack"))
		}
	}()
	env.events.Emit(env.ctx, ev.name, ev.data)
}
