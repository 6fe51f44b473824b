package culvert

import (
	"time"

	"go.uber.org/zap"

	"github.com/culvertgate/culvert/framecodec"
	"github.com/culvertgate/culvert/internal/faultpoint"
)

// tick is how exact the ends of identities are. One clock for all tunnels: a
// timer for each would be a cost for each.
const tick = time.Second

// roundTripEvery is how many ticks lie between two looks at round trips.
const roundTripEvery = 10

// runClock ends the tunnels whose identity's time is over, counts bytes for
// quotas, looks at round trips, and gives memory back when traffic has ended.
func (h *hub) runClock(stop <-chan struct{}) {
	defer h.wg.Done()
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	var calm calm
	for n := 1; ; n++ {
		select {
		case <-stop:
			return
		case now := <-ticker.C:
			h.second(now, n, &calm)
		}
	}
}

// second is what is done once in each; a panic is that second's.
func (h *hub) second(now time.Time, n int, calm *calm) {
	defer h.recoverTask()
	faultpoint.Here(faultpoint.HubClock)
	h.expire(now)
	h.countUsage(now)
	h.look(calm)
	if n%roundTripEvery == 0 {
		for _, rtt := range processMetrics.traffic.roundTrips() {
			processMetrics.roundTrips.Observe(rtt.Seconds())
		}
	}
}

// recoverTask is deferred in what the hub does by itself, for all tunnels: after a
// panic it is done again when its time comes.
func (h *hub) recoverTask() {
	if v := recover(); v != nil {
		processMetrics.panics.Inc()
		h.logger().Error("panic in a task of the hub, which goes on", zap.Any("panic", v), zap.Stack("stack"))
	}
}

// expire ends tunnels whose identity's time is over at now.
func (h *hub) expire(now time.Time) {
	for _, t := range h.tunnels.all() {
		if end := t.expiry(); !end.IsZero() && !now.Before(end) {
			code := framecodec.CodeAuthExpired
			if t.ticket != "" {
				code = framecodec.CodeTicketExpired
			}
			t.close(code, "the identity's time is over")
		}
	}
}
