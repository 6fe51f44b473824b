package gateway

import (
	"context"

	"golang.org/x/time/rate"
)

// The look-ups of names that clients choose, per tunnel (security.md, "Where a
// stream may go" 6). Names of named targets are the operator's and not counted.
const (
	lookupBurst = 100
	lookupRate  = 20 // a second
)

// lookups lets look-ups pass at their rate; the rest wait in order. Only the
// first in line holds a claim on a coming token, so that waiters who give up
// leave no debt behind for later ones.
type lookups struct {
	limiter *rate.Limiter
	first   chan struct{}
}

func newLookups() *lookups {
	return &lookups{limiter: rate.NewLimiter(lookupRate, lookupBurst), first: make(chan struct{}, 1)}
}

// wait returns nil when one look-up may be made, or the context's error.
func (l *lookups) wait(ctx context.Context) error {
	select {
	case l.first <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-l.first }()
	if err := l.limiter.Wait(ctx); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return context.DeadlineExceeded // it would come too late: the limiter says so at once
	}
	return nil
}
