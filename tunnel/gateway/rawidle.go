package gateway

import (
	"sync/atomic"
	"time"

	"github.com/culvertgate/culvert/framecodec"
)

// moved counts bytes of one direction.
func (r *Raw) moved(bytes *atomic.Uint64, n int) {
	bytes.Add(uint64(n))
	r.stamp()
}

// stamp notes that the channel is not idle.
func (r *Raw) stamp() { r.active.Store(int64(time.Since(r.since))) }

// watchIdle starts the clock of a channel that has opened, if there is a limit.
// The timer is set once for each time that it runs out, not for each message.
func (r *Raw) watchIdle() {
	limit := r.exit.timeouts().Idle
	if limit <= 0 {
		return
	}
	r.stamp()
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.result == nil {
		r.idle = time.AfterFunc(limit, func() {
			r.exit.guard(r.checkIdle, func() { r.end(framecodec.CodeInternal) })
		})
	}
}

// checkIdle ends the channel if nothing was moved for the limit, which a reload
// may have changed, and looks again when that could be.
func (r *Raw) checkIdle() {
	limit := r.exit.timeouts().Idle
	quiet := time.Since(r.since) - time.Duration(r.active.Load())
	if limit > 0 && quiet >= limit {
		r.end(framecodec.CodeIdleTimeout)
		return
	}
	next := limit - quiet
	if limit <= 0 {
		next = time.Minute // none now: a later reload may bring one
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.result == nil {
		r.idle.Reset(next)
	}
}
