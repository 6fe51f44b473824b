package gateway

import (
	"time"

	"github.com/culvertgate/culvert/framecodec"
	"github.com/culvertgate/culvert/tunnel"
)

// SetRates changes how many bytes a second raw channels may carry: r's buckets are
// shared with the tunnel's session, r.Stream is of each channel. Each direction of
// a channel counts by it from the next message or read on: one that waits with a
// piece of the last goes on by the rates of before. It is safe for concurrent use.
func (e *Exit) SetRates(r tunnel.Rates) {
	if r == (tunnel.Rates{}) {
		e.rates.Store(nil)
		return
	}
	e.rates.Store(&r)
}

// rawLimit holds one direction of a raw channel to the rates. It belongs to the
// goroutine of that direction, which waits: so nothing more is read meanwhile, and
// whoever sends is held up by SCTP's or TCP's window.
type rawLimit struct {
	raw *Raw
	in  bool           // from the page
	own *tunnel.Bucket // of the channel alone; nil: no limit
}

// errRawOver: the channel has ended meanwhile; how is known already.
var errRawOver = &tunnel.Error{Code: framecodec.CodeTunnelClosed}

// pass gives p to f, piece by piece as the rates let them pass, until one fails.
func (l *rawLimit) pass(p []byte, f func([]byte) error) error {
	rates := l.raw.exit.rates.Load()
	if rates == nil {
		return f(p)
	}
	if l.own.PerSecond() != rates.Stream {
		l.own = tunnel.NewBucket(rates.Stream)
	}
	whole := rates.Out
	if l.in {
		whole = rates.In
	}
	return l.raw.paced(l.own, p, func(p []byte) error { return l.raw.paced(whole, p, f) })
}

func (r *Raw) paced(b *tunnel.Bucket, p []byte, f func([]byte) error) error {
	for len(p) > 0 {
		n, wait := b.Reserve(len(p))
		if !r.pause(wait) {
			return errRawOver
		}
		if err := f(p[:n]); err != nil {
			return err
		}
		r.stamp()
		p = p[n:]
	}
	return nil
}

// pause waits; false: the channel has ended.
func (r *Raw) pause(d time.Duration) bool {
	if d <= 0 {
		return true
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-r.over:
		return false
	}
}
