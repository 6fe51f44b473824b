package gateway

import (
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"

	"github.com/culvertgate/culvert/tunnel/policy"
)

// maxDynamicBreakers bounds the addresses whose failures are remembered; the one
// that was asked for longest ago goes.
const maxDynamicBreakers = 4096

// BreakerChange is told when a breaker opens and when it closes.
type BreakerChange struct {
	BreakerInfo
	Again bool          // a trial has failed: it was not closed in between
	Rest  time.Duration // until the next trial
	Gone  bool          // it is forgotten: its target is gone or has changed, or others had to be remembered
}

// Breakers has the breakers of a process: one for each named target of an
// endpoint, one for each address and port that clients of an endpoint name. One
// is made when a target fails first, so those that never do cost a look-up for
// each open. A nil *Breakers has none and admits everything. It is safe for
// concurrent use and has no goroutine; no lock is held during a dial.
type Breakers struct {
	changed func(BreakerChange)

	mu      sync.Mutex
	named   map[breakerKey]*breaker              // guarded by mu
	dynamic *simplelru.LRU[breakerKey, *breaker] // guarded by mu
	evicted []*breaker                           // by the last call of dynamic.Add; guarded by mu
}

// NewBreakers returns an empty set. changed is told of each change, without a
// lock held, by the goroutine whose dial brought it about: it must not block.
func NewBreakers(changed func(BreakerChange)) *Breakers {
	s := &Breakers{changed: changed, named: map[breakerKey]*breaker{}}
	lru, err := simplelru.NewLRU(maxDynamicBreakers, func(_ breakerKey, b *breaker) { s.evicted = append(s.evicted, b) })
	if err != nil {
		panic(err) // the size is positive
	}
	s.dynamic = lru
	return s
}

// admitNamed asks the breaker of a named target; tell must be called with the
// outcome of the dial.
func (s *Breakers) admitNamed(p *policy.Policy, name string) (tell func(error), err error) {
	if s == nil {
		return untold, nil
	}
	if name == "" {
		name = p.DefaultTarget()
	}
	rule, counted := p.Breaker(name)
	if !counted {
		return untold, nil
	}
	return s.admit(breakerKey{endpoint: p.Endpoint(), name: name}, rule)
}

// admitDynamic is policy.Dialer's Admit.
func (s *Breakers) admitDynamic(a policy.Address, by policy.RuleRef) (tell func(error), err error) {
	if s == nil {
		return untold, nil
	}
	return s.admit(breakerKey{endpoint: by.Endpoint, address: a}, by)
}

func untold(error) {}

func (s *Breakers) admit(key breakerKey, rule policy.RuleRef) (tell func(error), err error) {
	b := s.find(key)
	if b == nil {
		return func(err error) { s.first(key, rule, err) }, nil
	}
	done := b.allow(rule)
	if done == nil {
		return nil, errBreakerOpen()
	}
	return func(err error) {
		done(err)
		s.report(b)
	}, nil
}

// first is told the outcome of a dial that began without a breaker.
func (s *Breakers) first(key breakerKey, rule policy.RuleRef, err error) {
	if !policy.AtFault(err) {
		return
	}
	b := s.make(key, rule)
	if b.state() != BreakerClosed { // others have failed meanwhile: this is no trial
		return
	}
	if done := b.allow(rule); done != nil {
		done(err)
		s.report(b)
	}
}

func (s *Breakers) find(key breakerKey) *breaker {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.findLocked(key)
}

func (s *Breakers) findLocked(key breakerKey) *breaker {
	if key.name != "" {
		return s.named[key]
	}
	b, _ := s.dynamic.Get(key)
	return b
}

// make returns the breaker of a key, a new one if there is none.
func (s *Breakers) make(key breakerKey, rule policy.RuleRef) *breaker {
	s.mu.Lock()
	b := s.findLocked(key)
	if b == nil {
		b = newBreaker(key, rule)
		if key.name != "" {
			s.named[key] = b
		} else {
			s.dynamic.Add(key, b)
		}
	}
	evicted := s.evicted
	s.evicted = nil
	s.mu.Unlock()
	s.forget(evicted)
	return b
}

// report tells what has changed.
func (s *Breakers) report(b *breaker) {
	for _, change := range b.take() {
		s.changed(change)
	}
}

// forget tells of breakers that are not remembered any more, if they were not
// closed.
func (s *Breakers) forget(gone []*breaker) {
	for _, b := range gone {
		s.report(b)
		b.mu.Lock()
		b.gone = true
		b.mu.Unlock()
		if info := b.info(); info.State != BreakerClosed {
			info.State = BreakerClosed
			s.changed(BreakerChange{BreakerInfo: info, Gone: true})
		}
	}
}

// Keep forgets the breakers of targets that the policies, by endpoint, do not
// have, or have with other addresses: those of before tell nothing of them. A
// dynamic one goes with its rule.
func (s *Breakers) Keep(policies map[string]*policy.Policy) {
	var gone []*breaker
	s.mu.Lock()
	for key, b := range s.named {
		if p := policies[key.endpoint]; p == nil || !b.keep(p.Breaker(key.name)) {
			delete(s.named, key)
			gone = append(gone, b)
		}
	}
	for _, b := range s.dynamic.Values() {
		if p := policies[b.key.endpoint]; p == nil || !b.keep(sameRule(p, b.ruleNow())) {
			s.dynamic.Remove(b.key)
		}
	}
	gone = append(gone, s.evicted...)
	s.evicted = nil
	s.mu.Unlock()
	s.forget(gone)
}

// sameRule finds a rule in another policy, where it may stand at another place.
func sameRule(p *policy.Policy, rule policy.RuleRef) (policy.RuleRef, bool) {
	_, rules := p.Breakers()
	for _, r := range rules {
		if r.Text == rule.Text {
			return r, true
		}
	}
	return policy.RuleRef{}, false
}

func (b *breaker) ruleNow() policy.RuleRef {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.rule
}

// keep takes what stands for the breaker in a new policy, and reports whether it
// is still the same.
func (b *breaker) keep(rule policy.RuleRef, ok bool) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !ok || rule.Text != b.rule.Text {
		return false
	}
	b.rule = rule
	return true
}

// Named returns the state of a named target's breaker.
func (s *Breakers) Named(endpoint, target string) BreakerState {
	return s.stateOf(breakerKey{endpoint: endpoint, name: target})
}

// Address returns the state of the breaker of an address that clients of an
// endpoint name.
func (s *Breakers) Address(endpoint string, a policy.Address) BreakerState {
	return s.stateOf(breakerKey{endpoint: endpoint, address: a})
}

func (s *Breakers) stateOf(key breakerKey) BreakerState {
	if s == nil {
		return BreakerClosed
	}
	s.mu.Lock()
	b := s.named[key]
	if key.name == "" {
		b, _ = s.dynamic.Peek(key)
	}
	s.mu.Unlock()
	if b == nil {
		return BreakerClosed
	}
	return b.state()
}

// Infos returns snapshots of the breakers that are not closed.
func (s *Breakers) Infos() []BreakerInfo {
	if s == nil {
		return nil
	}
	s.mu.Lock()
	all := s.dynamic.Values()
	for _, b := range s.named {
		all = append(all, b)
	}
	s.mu.Unlock()
	var list []BreakerInfo
	for _, b := range all {
		if info := b.info(); info.State != BreakerClosed {
			list = append(list, info)
		}
	}
	return list
}
