package culvert

import (
	"fmt"
	"slices"

	"go.uber.org/zap"

	"github.com/culvertgate/culvert/tunnel"
	"github.com/culvertgate/culvert/tunnel/gateway"
	"github.com/culvertgate/culvert/tunnel/policy"
)

// breakerChanged is told when a target's breaker opens or closes.
func (h *hub) breakerChanged(c gateway.BreakerChange) {
	fields := []zap.Field{zap.String("endpoint", c.Endpoint), zap.String("target", c.Target), zap.String("rule", c.Rule.String())}
	data := map[string]any{"endpoint": c.Endpoint, "target": c.Target}
	if c.State == gateway.BreakerOpen {
		fields = append(fields, zap.Stringer("code", c.Code), zap.Duration("rest", c.Rest))
		data["code"] = c.Code.String()
	} else {
		fields = append(fields, zap.Int64("duration_ms", c.Since.Milliseconds()))
		data["duration_ms"] = c.Since.Milliseconds()
	}
	switch {
	case c.State == gateway.BreakerOpen && c.Again:
		h.logger().Debug("a trial has failed, the breaker stays open", fields...)
		return // it has been told already
	case c.State == gateway.BreakerOpen:
		h.warnBreaker(c, "breaker opened: the target has failed too often and is given a rest", fields)
		h.emit(eventBreakerOpened, data)
	case c.Gone:
		h.logger().Debug("an open breaker is forgotten: its target is gone or has changed, or others had to be remembered", fields...)
		h.emit(eventBreakerClosed, data)
	default:
		h.informBreaker(c, "breaker closed: the target works again", fields)
		h.emit(eventBreakerClosed, data)
	}
}

// warnBreaker logs a named target's breaker; those of addresses, which clients
// choose, are sampled.
func (h *hub) warnBreaker(c gateway.BreakerChange, message string, fields []zap.Field) {
	if c.Dynamic {
		h.warnClient(c.Endpoint, message, fields...)
		return
	}
	h.logger().Warn(message, fields...)
}

// informBreaker is warnBreaker for good news, of which that of addresses is for
// debugging.
func (h *hub) informBreaker(c gateway.BreakerChange, message string, fields []zap.Field) {
	if c.Dynamic {
		h.logger().Debug(message, fields...)
		return
	}
	h.logger().Info(message, fields...)
}

// keepBreakers forgets those of targets that a configuration does not have.
func (h *hub) keepBreakers(env *environment) {
	if h.breakers == nil {
		return
	}
	policies := make(map[string]*policy.Policy, len(env.endpoints))
	for name, s := range env.endpoints {
		policies[name] = s.policy
	}
	h.breakers.Keep(policies)
}

// brokenTargets says which named targets fail. What clients name is no part of
// this gateway's health.
func (h *hub) brokenTargets() (reasons []string) {
	for _, b := range h.breakers.Infos() {
		if b.Dynamic {
			continue
		}
		next := "opens are refused for now"
		if b.State == gateway.BreakerHalfOpen {
			next = "the next open is a trial"
		}
		reasons = append(reasons, fmt.Sprintf("target %s of %s: it has failed too often, the last time with %s; %s", b.Target, b.Endpoint, b.Code, next))
	}
	slices.Sort(reasons)
	return reasons
}

// breakerStates returns the metric's series: every named target of the running
// configurations, and every rule that lets clients name addresses. So they are
// bounded by the configuration, whatever clients do.
func breakerStates() map[string]gateway.BreakerState {
	states := map[string]gateway.BreakerState{}
	hubs := runningHubs()
	for _, h := range hubs {
		if env := h.current(); env != nil {
			for name, s := range env.endpoints {
				addClosed(states, name, s.policy)
			}
		}
	}
	for _, h := range hubs {
		for _, b := range h.breakers.Infos() {
			label := targetLabel(b.Endpoint, b.Target)
			if b.Dynamic {
				label = refLabel(b.Rule)
			}
			if was, known := states[label]; known {
				states[label] = max(was, b.State)
			}
		}
	}
	return states
}

func addClosed(states map[string]gateway.BreakerState, endpoint string, p *policy.Policy) {
	targets, rules := p.Breakers()
	for _, target := range targets {
		states[targetLabel(endpoint, target)] = gateway.BreakerClosed
	}
	for _, rule := range rules {
		states[refLabel(rule)] = gateway.BreakerClosed
	}
}

func targetLabel(endpoint, target string) string { return endpoint + "/" + target }

// explanation is the policy's, and what the breakers make of it.
type explanation struct {
	policy.Explanation
	// Breaker is open or half_open where opens are answered breaker_open, or would be
	// a trial, for now. Of a target with several addresses, of all of them.
	Breaker string `json:"breaker,omitempty"`
}

// withBreaker adds what an open would meet behind the policy.
func (h *hub) withBreaker(e policy.Explanation, endpoint string, t tunnel.Target) explanation {
	out := explanation{Explanation: e}
	if !e.Allowed {
		return out
	}
	var states []gateway.BreakerState
	if t.Named() {
		states = append(states, h.breakers.Named(endpoint, t.Host))
	} else {
		for _, a := range e.Dialled() {
			states = append(states, h.breakers.Address(endpoint, a))
		}
	}
	state := gateway.BreakerClosed
	if len(states) > 0 {
		state = slices.Min(states)
	}
	if state != gateway.BreakerClosed {
		out.Breaker = state.String()
	}
	return out
}
