package policy

import (
	"context"
	"errors"

	"github.com/culvertgate/culvert/tunnel"
)

// Explanation is the policy's decision about a target with all that led to it.
type Explanation struct {
	Decision
	// CodeName is the token of Decision.Code.
	CodeName string `json:"code"`
	// Addresses are all that were considered, in the order of dialling.
	Addresses []Considered `json:"addresses"`
}

// Considered is one address and what the policy says of it.
type Considered struct {
	Name    string  `json:"name,omitempty"` // that led to it
	Address string  `json:"address"`        // 10.0.0.5:22 or a socket's path
	Allowed bool    `json:"allowed"`
	Rule    RuleRef `json:"rule"`
	Reason  string  `json:"reason"`

	at Address
}

// Dialled returns the addresses that an open would try now, in order.
func (e Explanation) Dialled() []Address {
	var list []Address
	for _, c := range e.Addresses {
		if c.Allowed {
			list = append(list, c.at)
		}
	}
	return list
}

// Explained is a decision that no address has a part in.
func Explained(d Decision) Explanation {
	return Explanation{Decision: d, Addresses: []Considered{}}.finish()
}

func considered(name string, a Address, d Decision) Considered {
	return Considered{Name: name, Address: a.String(), Allowed: d.Allowed, Rule: d.Rule, Reason: d.Reason, at: a}
}

// Explain decides as a real open would, resolves names with r (nil: the
// policy's resolver) and dials nothing. The code is the one that the client
// would be told; that a target answers is not tried.
func (p *Policy) Explain(ctx context.Context, s Subject, t tunnel.Target, r Resolver) Explanation {
	if r == nil {
		r = p.resolver
	}
	steps, d := p.plan(s, t)
	out := Explanation{Decision: d, Addresses: []Considered{}}
	if !d.Allowed && len(steps) == 0 {
		return out.finish()
	}
	open := false
	var first *Decision
	for i := range steps {
		usable, seen, err := p.addresses(ctx, r, s, t, &steps[i])
		out.Addresses = append(out.Addresses, seen...)
		got := p.outcome(err, seen, len(usable), d)
		if first == nil {
			first = &got
		}
		if got.Allowed && !open {
			open = true
			out.Decision = got
		}
	}
	if !open && first != nil {
		out.Decision = *first
	}
	return out.finish()
}

// outcome turns what addresses returned into a decision.
func (p *Policy) outcome(err error, seen []Considered, usable int, plan Decision) Decision {
	var denial *DenialError
	switch {
	case errors.As(err, &denial):
		return denial.Decision
	case err != nil:
		return Decision{Code: tunnel.CodeOf(err), Rule: plan.Rule, Reason: "the rule allows the name, its look-up failed: " + causeOf(err)}
	case usable > 0 && len(seen) > 0:
		return p.allow(seen[0].Rule, seen[0].Reason)
	default:
		return plan
	}
}

func causeOf(err error) string {
	if inner := errors.Unwrap(err); inner != nil {
		return inner.Error()
	}
	return err.Error()
}

func (e Explanation) finish() Explanation {
	e.CodeName = e.Code.String()
	return e
}
