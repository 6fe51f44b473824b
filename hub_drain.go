package culvert

import (
	"time"

	"go.uber.org/zap"

	"github.com/culvertgate/culvert/framecodec"
	"github.com/culvertgate/culvert/tunnel"
)

// draining is the hub's state of one: POST /drain begins it, DELETE takes it back.
// The end of the process drains in its own way (hub.shutDown).
type draining struct {
	deadline time.Time
	timer    *time.Timer // nil: none is under way
}

// drainEnded is what streams are told that a drain has ended.
const drainEnded = "the gateway is being drained, and its time is over"

// startDrain lets nothing new in and ends what is left when limit is over. Asked
// again, the new limit counts.
func (h *hub) startDrain(limit time.Duration) {
	h.mu.Lock()
	again := h.drain.timer != nil
	if again {
		h.drain.timer.Stop()
	}
	deadline := time.Now().Add(limit)
	h.drain = draining{deadline: deadline, timer: time.AfterFunc(limit, func() { h.endDrain(deadline) })}
	h.draining.Store(true)
	h.mu.Unlock()
	for _, t := range h.tunnels.all() {
		if s := t.currentSession(); s != nil {
			s.GoAway(framecodec.CodeDraining, limit)
		}
	}
	h.logger().Info("drain started", zap.Time("deadline", deadline), zap.Bool("again", again), zap.Int64("streams", h.streams.Load()))
	h.emit(eventDrainStarted, map[string]any{"deadline": deadline, "duration_ms": limit.Milliseconds()})
}

// endDrain ends the streams that are left at the deadline, and the gateway's
// tunnels. The drain goes on: nothing new is let in.
func (h *hub) endDrain(deadline time.Time) {
	h.mu.Lock()
	mine := h.drain.timer != nil && h.drain.deadline.Equal(deadline)
	h.mu.Unlock()
	if !mine {
		return // taken back, or prolonged, at this very moment
	}
	for _, t := range h.tunnels.all() {
		t.close(framecodec.CodeDraining, drainEnded)
	}
	for _, p := range h.remotes.all() {
		for _, t := range p.tunnels() {
			if s := t.currentSession(); s != nil {
				s.EachStream(func(st *tunnel.Stream) { st.Reset(framecodec.CodeDraining, drainEnded) })
			}
		}
	}
	h.logger().Info("drain ended")
}

// cancelDrain lets new tunnels and streams in again; false: none is under way.
// Clients that were told to go make new tunnels; the old ones end with their last
// streams.
func (h *hub) cancelDrain() bool {
	h.mu.Lock()
	under := h.drain.timer != nil
	if under {
		h.drain.timer.Stop()
		h.drain = draining{}
		h.draining.Store(false)
	}
	h.mu.Unlock()
	if under {
		h.logger().Info("drain taken back")
	}
	return under
}

// drainInfo is the state of a drain as the admin API shows it.
type drainInfo struct {
	Draining bool      `json:"draining"`
	Deadline time.Time `json:"deadline,omitzero"`
	Tunnels  int       `json:"tunnels"` // of the gateway, that are left
	Streams  int64     `json:"streams"` // of both sides, that are left
}

func (h *hub) drainInfo() drainInfo {
	h.mu.Lock()
	deadline := h.drain.deadline
	h.mu.Unlock()
	return drainInfo{Draining: h.draining.Load(), Deadline: deadline, Tunnels: len(h.tunnels.all()), Streams: h.streams.Load()}
}
