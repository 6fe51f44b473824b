package client

import "time"

// retryRenewal is the shortest time between two tries to renew.
const retryRenewal = time.Second

// renewal tells when the identity's time has to be renewed: when three quarters
// of it are over, and after a failure when half of the rest is.
type renewal struct {
	due   <-chan time.Time // nil: never
	timer *time.Timer
	end   time.Time
}

func newRenewal(left time.Duration) *renewal {
	r := &renewal{}
	r.next(left, nil)
	return r
}

// next takes the outcome of a try: how long the time lasts now, 0 for ever.
func (r *renewal) next(left time.Duration, err error) {
	wait := left / 4 * 3
	if err != nil {
		left = time.Until(r.end)
		wait = max(left/2, retryRenewal)
	}
	if left <= 0 {
		r.due = nil
		return
	}
	r.end = time.Now().Add(left)
	if r.timer == nil {
		r.timer = time.NewTimer(wait)
	} else {
		r.timer.Reset(wait)
	}
	r.due = r.timer.C
}

func (r *renewal) stop() {
	if r.timer != nil {
		r.timer.Stop()
	}
}
