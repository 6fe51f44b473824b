package culvert

import (
	"time"

	"github.com/culvertgate/culvert/framecodec"
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
			h.expire(now)
			h.countUsage(now)
			h.look(&calm)
			if n%roundTripEvery == 0 {
				for _, rtt := range processMetrics.traffic.roundTrips() {
					processMetrics.roundTrips.Observe(rtt.Seconds())
				}
			}
		}
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
