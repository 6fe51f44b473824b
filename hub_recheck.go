package culvert

import (
	"slices"
	"time"

	"github.com/culvertgate/culvert/tunnel/policy"
)

// judgement is that of a configuration on what ran when it came. With `on_reload
// drain` what it refuses has until its end to finish. The hub keeps those behind the
// oldest that has not ended, for what each of them allowed has a time of its own.
type judgement struct {
	env   *environment
	ended bool // guarded by hub.mu
}

// recheck judges tunnels and their streams by a configuration.
func (h *hub) recheck(env *environment) {
	later := false
	for _, t := range h.tunnels.all() {
		t.recheck(env)
		s := env.endpoints[t.endpoint]
		later = later || s != nil && s.onReload == reloadDrain
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if !later && len(h.judged) == 0 {
		return
	}
	j := &judgement{env: env}
	h.judged = append(h.judged, j)
	time.AfterFunc(time.Duration(env.timeouts.Drain), func() { h.recheckLate(j) })
}

// recheckLate ends what endpoints with `on_reload drain` have refused since a judgement,
// which had the time to finish. What a configuration in between allowed has that of the
// one that refused it again. Behind the hub's end there is no tunnel left to judge.
func (h *hub) recheckLate(j *judgement) {
	h.mu.Lock()
	since := slices.Clone(h.judged[slices.Index(h.judged, j):])
	j.ended = true
	for len(h.judged) > 0 && h.judged[0].ended {
		h.judged = slices.Delete(h.judged, 0, 1)
	}
	h.mu.Unlock()
	for _, t := range h.tunnels.all() {
		if policies := h.policiesSince(t.endpoint, since); len(policies) > 0 {
			t.cut(policies)
		}
	}
}

// policiesSince returns an endpoint's policies in judgements and now; none if one of
// these is not with `on_reload drain`, and so ends nothing late.
func (h *hub) policiesSince(endpoint string, since []*judgement) (list []*policy.Policy) {
	states := make([]*endpointState, 1, 1+len(since))
	states[0] = h.endpoint(endpoint)
	for _, j := range since {
		states = append(states, j.env.endpoints[endpoint])
	}
	for _, s := range states {
		if s == nil || s.onReload != reloadDrain {
			return nil
		}
		list = append(list, s.policy)
	}
	return list
}
