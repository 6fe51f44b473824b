package gateway

import (
	"sync"
	"time"

	"github.com/sony/gobreaker/v2"

	"github.com/culvertgate/culvert/framecodec"
	"github.com/culvertgate/culvert/tunnel"
	"github.com/culvertgate/culvert/tunnel/policy"
)

// When a breaker opens and how long it stays so. They are not for configuration:
// a target that works is never near them, and one that does not is asked often
// enough to be found again soon.
const (
	breakerFailures = 5                // in a row, or
	breakerLeast    = 20               // dials of which half failed,
	breakerWindow   = 2 * time.Minute  // all of them within this
	breakerBucket   = 20 * time.Second // how exact that is
	breakerRest     = 5 * time.Second  // before the first trial; twice as long after each that failed
	breakerMaxRest  = time.Minute
	breakerTrials   = 1 // at a time; a trial that succeeds closes the breaker
)

// BreakerState is the state of a breaker, in the numbers of the metric.
type BreakerState int

// The states. Half open means that the rest is over: the next open is a trial.
const (
	BreakerClosed BreakerState = iota
	BreakerHalfOpen
	BreakerOpen
)

// String returns the word that the admin API uses.
func (s BreakerState) String() string {
	switch s {
	case BreakerHalfOpen:
		return "half_open"
	case BreakerOpen:
		return "open"
	default:
		return "closed"
	}
}

// BreakerInfo is a snapshot of one breaker.
type BreakerInfo struct {
	Endpoint string
	Target   string         // the name of a named one, else tcp/10.0.0.5:22
	Dynamic  bool           // a client named it
	Rule     policy.RuleRef // the target, or the rule under which it was last asked for
	State    BreakerState
	Code     tunnel.Code   // of the last failure
	Since    time.Duration // for which it has not been closed; 0: it is
}

// breakerKey is what failures are counted for.
type breakerKey struct {
	endpoint string
	name     string         // of a named target, else empty
	address  policy.Address // of a dynamic one
}

func (k breakerKey) target() string {
	if k.name != "" {
		return k.name
	}
	network := "tcp/"
	if k.address.UDP {
		network = "udp/"
	}
	return network + k.address.String()
}

// breaker is gobreaker's with a rest that grows. gobreaker calls back under its
// own lock, so what there is to tell waits in pending until that is free.
type breaker struct {
	key     breakerKey
	circuit *gobreaker.TwoStepCircuitBreaker[struct{}]

	mu      sync.Mutex      // taken with gobreaker's held; nothing is taken with this one held
	rule    policy.RuleRef  // guarded by mu
	code    tunnel.Code     // of the last failure; guarded by mu
	rest    time.Duration   // the last one; 0: it is closed; guarded by mu
	until   time.Time       // no trial before this; guarded by mu
	opened  time.Time       // when it left closed; guarded by mu
	pending []BreakerChange // guarded by mu
	gone    bool            // nothing is told any more; guarded by mu
}

func newBreaker(key breakerKey, rule policy.RuleRef) *breaker {
	b := &breaker{key: key, rule: rule}
	b.circuit = gobreaker.NewTwoStepCircuitBreaker[struct{}](gobreaker.Settings{
		MaxRequests: breakerTrials, Interval: breakerWindow, BucketPeriod: breakerBucket, Timeout: breakerRest,
		ReadyToTrip: func(c gobreaker.Counts) bool {
			judged := c.TotalFailures + c.TotalSuccesses
			return c.ConsecutiveFailures >= breakerFailures || judged >= breakerLeast && 2*c.TotalFailures >= judged
		},
		IsExcluded:    func(err error) bool { return err != nil && !policy.AtFault(err) },
		OnStateChange: b.moved,
	})
	return b
}

// moved notes a change of state.
func (b *breaker) moved(_ string, from, to gobreaker.State) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.gone {
		return
	}
	now := time.Now()
	switch to {
	case gobreaker.StateOpen:
		b.rest = min(max(2*b.rest, breakerRest), breakerMaxRest)
		b.until = now.Add(b.rest)
		if from == gobreaker.StateClosed {
			b.opened = now
		}
		b.pending = append(b.pending, b.changeLocked(BreakerOpen, from == gobreaker.StateHalfOpen))
	case gobreaker.StateHalfOpen: // a trial may come: that tells nothing yet
	case gobreaker.StateClosed:
		b.pending = append(b.pending, b.changeLocked(BreakerClosed, false))
		b.rest, b.opened = 0, time.Time{}
	}
}

// changeLocked is what is told of a change to a state.
func (b *breaker) changeLocked(to BreakerState, again bool) BreakerChange {
	return BreakerChange{
		BreakerInfo: BreakerInfo{
			Endpoint: b.key.endpoint, Target: b.key.target(), Dynamic: b.key.name == "", Rule: b.rule,
			State: to, Code: b.code, Since: time.Since(b.opened),
		},
		Again: again, Rest: b.rest,
	}
}

// take returns what is to be told.
func (b *breaker) take() []BreakerChange {
	b.mu.Lock()
	defer b.mu.Unlock()
	changes := b.pending
	b.pending = nil
	return changes
}

// allow asks for leave to dial; done must be told the outcome. A breaker that
// refuses returns nil.
func (b *breaker) allow(rule policy.RuleRef) (done func(error)) {
	b.mu.Lock()
	b.rule = rule // an address may be asked for under several
	resting := time.Now().Before(b.until)
	b.mu.Unlock()
	if resting {
		return nil
	}
	leave, err := b.circuit.Allow()
	if err != nil {
		return nil
	}
	return func(err error) {
		if policy.AtFault(err) {
			b.mu.Lock()
			b.code = tunnel.CodeOf(err)
			b.mu.Unlock()
		}
		leave(err)
	}
}

// state returns the state at this moment.
func (b *breaker) state() BreakerState {
	b.mu.Lock()
	resting := time.Now().Before(b.until)
	b.mu.Unlock()
	switch state := b.circuit.State(); {
	case state == gobreaker.StateClosed:
		return BreakerClosed
	case resting || state == gobreaker.StateOpen:
		return BreakerOpen
	default:
		return BreakerHalfOpen
	}
}

// info returns a snapshot.
func (b *breaker) info() BreakerInfo {
	state := b.state()
	b.mu.Lock()
	defer b.mu.Unlock()
	info := b.changeLocked(state, false).BreakerInfo
	if b.opened.IsZero() {
		info.Since = 0
	}
	return info
}

// errBreakerOpen is the answer while a breaker is open.
func errBreakerOpen() *tunnel.Error {
	return &tunnel.Error{Code: framecodec.CodeBreakerOpen, Text: policy.ClientText(framecodec.CodeBreakerOpen)}
}
