package policy

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/culvertgate/culvert/framecodec"
	"github.com/culvertgate/culvert/tunnel"
)

// ExposeRule lets clients publish services, and says who may reach them. Nothing
// is allowed without one.
type ExposeRule struct {
	// Names of the services ([a-z0-9-], at most 63), or * for all.
	Names []string
	// Users and Groups may publish them; both empty: every identity of the
	// endpoint. An anonymous client may not: its services would have no name.
	Users, Groups []string
	// ReachableBy and ReachableByGroups may open streams to them; both empty: no
	// client (the gateway's own entries may).
	ReachableBy, ReachableByGroups []string
	// Position is where the rule stands in the Caddyfile; empty where not known.
	Position string
}

type exposeRule struct {
	ref       RuleRef
	names     []string // nil: all
	owners    audience
	reachable audience
}

func (r *exposeRule) concerns(owner Subject, name string) bool {
	return (r.names == nil || slices.Contains(r.names, name)) && r.owners.admits(owner)
}

func (p *Policy) addExpose(rules []ExposeRule) (problems []error) {
	for i, in := range rules {
		ref := RuleRef{Endpoint: p.endpoint, List: "expose.rules", Index: i, Text: "allow " + strings.Join(in.Names, " "), Position: in.Position}
		r, err := parseExpose(in)
		if err != nil {
			problems = append(problems, fmt.Errorf("%s: %w", ref.Describe(), err))
			continue
		}
		r.ref = ref
		p.expose = append(p.expose, r)
	}
	return problems
}

func parseExpose(in ExposeRule) (exposeRule, error) {
	r := exposeRule{names: slices.Clone(in.Names)}
	switch {
	case len(in.Names) == 0:
		return r, errors.New("it names no service: write one, or * for all")
	case slices.Contains(in.Names, "*") && len(in.Names) > 1:
		return r, errors.New("* is every service and stands alone")
	case in.Names[0] == "*":
		r.names = nil
	}
	for _, name := range r.names {
		if !tunnel.ValidServiceName(name) {
			return r, fmt.Errorf("%q cannot name a service: use [a-z0-9-], at most 63", name)
		}
	}
	var err, reachErr error
	r.owners, err = newAudience(in.Users, in.Groups)
	r.reachable, reachErr = newAudience(in.ReachableBy, in.ReachableByGroups)
	return r, errors.Join(err, reachErr)
}

// MayExpose says whether the owner may publish a service of that name.
func (p *Policy) MayExpose(owner Subject, name string) Decision {
	if owner.Ticket != "" {
		return p.deny(p.builtin("tickets"), "a ticket publishes nothing")
	}
	if owner.Anonymous || owner.Identity == "" {
		return p.deny(p.builtin("expose"), "an anonymous client publishes nothing: its services would have no name")
	}
	for i := range p.expose {
		if r := &p.expose[i]; r.concerns(owner, name) {
			return p.allow(r.ref, "the rule allows the service")
		}
	}
	return p.deny(p.builtin("expose"), "no rule allows the service %q", framecodec.SafeText([]byte(name)))
}

// MayReach says whether the subject may open streams to the owner's service. A
// rule that allows the one and denies the other does not stand in the way of one
// that allows both.
func (p *Policy) MayReach(s, owner Subject, name string) Decision {
	target := tunnel.ServiceTarget(tunnel.KindNamed, owner.Identity, name)
	if d := p.checkTicket(s, target); !d.Allowed {
		return d
	}
	d := p.MayExpose(owner, name)
	if !d.Allowed || s.Ticket != "" { // a ticket for it is a grant of its own
		return d
	}
	first := true
	for i := range p.expose {
		r := &p.expose[i]
		if !r.concerns(owner, name) {
			continue
		}
		if !r.reachable.empty() && r.reachable.admits(s) {
			return p.allow(r.ref, "the service may be reached")
		}
		if first {
			d, first = p.deny(r.ref, "the service is for other users or groups"), false
		}
	}
	return d
}
