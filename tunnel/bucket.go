package tunnel

import (
	"math"
	"time"

	"golang.org/x/time/rate"
)

const (
	// burstLeast is the least that may pass at once after a pause, in bytes: the
	// largest message or datagram.
	burstLeast = 64 << 10
	burstMost  = 1 << 30
	// stepsPerSecond bounds how often who waits for a rate is woken, and so how
	// long a keystroke waits behind others at a high one.
	stepsPerSecond = 128
	// stepLeast is what is worth a frame at a low rate, if it comes within an
	// eighth of a second.
	stepLeast = 1 << 10
	// datagramDebt is how many steps datagrams may be ahead of the rate: those who
	// wait in line leave nothing over for who can not wait.
	datagramDebt = 4
	// datagramShare is the part of the rate, one in so many, that datagrams have
	// however many wait in line.
	datagramShare = 4
)

// Bucket lets payload bytes pass at a rate, in one direction: golang.org/x/time's
// token bucket, which holds what a second brings, at least 64 KiB. Who may wait
// takes bytes in advance and is told when they are due (Reserve): so all who share
// a Bucket stand in one line. Datagrams pass or are dropped (Take). Its methods are
// safe for concurrent use; a nil *Bucket lets everything pass.
type Bucket struct {
	limiter   *rate.Limiter
	least     *rate.Limiter // what datagrams have in any case
	perSecond int64
	step      int
}

// NewBucket returns a Bucket of perSecond bytes a second, nil for 0 or less.
func NewBucket(perSecond int64) *Bucket {
	if perSecond <= 0 {
		return nil
	}
	burst := min(max(perSecond, burstLeast), burstMost)
	step := min(max(perSecond/stepsPerSecond, min(stepLeast, perSecond/8), 1), burst)
	if step > chunkSize {
		step -= step % chunkSize // or who gets the last part of each step would have less
	}
	return &Bucket{
		limiter:   rate.NewLimiter(rate.Limit(perSecond), int(burst)),
		least:     rate.NewLimiter(rate.Limit(perSecond)/datagramShare, burstLeast),
		perSecond: perSecond, step: int(step),
	}
}

// PerSecond returns the rate in bytes a second; 0: none.
func (b *Bucket) PerSecond() int64 {
	if b == nil {
		return 0
	}
	return b.perSecond
}

// Reserve takes up to most bytes and returns how many, at least one, and how long
// from now the caller has to wait before it uses them. They can not be given back.
func (b *Bucket) Reserve(most int) (n int, wait time.Duration) {
	if b == nil {
		return most, 0
	}
	at := time.Now()
	n = max(min(most, b.step), min(most, int(b.limiter.TokensAt(at))))
	return n, b.limiter.ReserveN(at, n).DelayFrom(at)
}

// Take takes n bytes, at most 64 KiB, for something that can not wait; false: it
// comes too fast, and nothing was taken.
func (b *Bucket) Take(n int) bool {
	if b == nil {
		return true
	}
	if !b.has() {
		at := time.Now()
		if b.least.TokensAt(at) <= 0 {
			return false
		}
		b.least.ReserveN(at, min(n, burstLeast))
	}
	b.charge(n)
	return true
}

// has reports whether a datagram may pass without more ado: each of those who wait
// has taken a step in advance.
func (b *Bucket) has() bool {
	return b == nil || b.limiter.TokensAt(time.Now()) > -datagramDebt*float64(b.step)
}

// charge takes n bytes that have passed, or may any time; of more than a second's
// worth it takes that.
func (b *Bucket) charge(n int) {
	if b != nil {
		b.limiter.ReserveN(time.Now(), min(n, b.limiter.Burst()))
	}
}

// pace is one direction's way through a Bucket: it has some bytes in advance, and
// uses them when they are due. Its owner locks it. The zero value lets everything
// pass.
type pace struct {
	bucket *Bucket
	ahead  int           // bytes taken and not used
	due    time.Duration // when they may be used
	waited time.Duration // when it last had to wait; 0: never
}

// binds reports whether the rate is what bounds a window of n bytes: it has held
// something up within the last second, or lets no more be granted at once.
func (p *pace) binds(at time.Duration, n uint64) bool {
	return p.waited > 0 && at-p.waited < time.Second || p.window(n) < n
}

// room returns how many of most bytes may pass now; 0: look again when it is due.
func (p *pace) room(most int) int {
	if p.bucket == nil {
		return most
	}
	if p.ahead == 0 {
		n, wait := p.bucket.Reserve(p.bucket.step)
		p.ahead, p.due = n, 0
		if wait > 0 {
			p.waited = now()
			p.due = p.waited + wait
		}
	}
	if p.due > 0 && now() < p.due {
		return 0
	}
	return min(most, p.ahead)
}

// used is told how many of room's bytes have passed.
func (p *pace) used(n int) {
	if p.bucket != nil {
		p.ahead -= n
	}
}

// window is the part of a window that is granted in advance: half a second's
// worth is enough for any path, and what lies ready comes at once after a pause.
func (p *pace) window(n uint64) uint64 {
	if p.bucket == nil {
		return n
	}
	return min(n, uint64(max(p.bucket.perSecond/2, streamWindowLeast)))
}

// debit charges what the other side may send already: that counts for the first
// second. More would make up for it by a long silence.
func (p *pace) debit(n uint64) {
	if p.bucket != nil {
		p.bucket.charge(int(min(n, uint64(p.bucket.perSecond), math.MaxInt32)))
	}
}
