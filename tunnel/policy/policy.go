// Package policy decides where a stream may go. One Policy is one endpoint's
// targets and rules, made once from a Config and never changed; a reload makes
// a new one.
//
// There is one road for everything: Decide looks at the target as the peer
// wrote it, and each address that it leads to is checked before it is dialled,
// again by the socket's Control hook at connect, and again for running streams
// after a reload (CheckAddress). Explain walks the same road without dialling.
// security.md, "Where a stream may go", is the law of this package.
//
// How addresses are judged, in this order:
//
//   - The unspecified address and our own Listeners are refused, always.
//   - A deny rule of the dynamic block refuses what clients name.
//   - Special addresses (loopback, this host, link-local, metadata, ...) need
//     the operator's literal or CIDR: a rule that covers them, even 0.0.0.0/0,
//     or the literal of a named target. Private ones may instead be reached
//     through a name rule with the word private, or a named target's host name.
//   - IPv4 addresses inside NAT64, 6to4 and Teredo addresses are judged too, and
//     need a CIDR rule of their own where they are special.
//   - What is left needs a rule that allows it: a name rule for a name, a CIDR
//     rule (or tcp/*, udp/*) for an address. A name that no name rule allows is resolved
//     if the subject has CIDR rules for that port, and each of its addresses must
//     be covered; the outcome of that look-up is not told to the client.
//
// There are no goroutines and, apart from the cache of interface addresses, no
// locks in this package; everything is safe for concurrent use.
package policy

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/culvertgate/culvert/tunnel"
)

// Config is what a Policy is made of.
type Config struct {
	Endpoint string // name of the endpoint, for explanations
	Targets  []NamedTarget
	// Dynamic lets clients name hosts; nil: they cannot.
	Dynamic *Dynamic
	// Expose says who may publish services, and who may reach them; empty: nobody.
	Expose []ExposeRule
	// DefaultTarget is the named target of peers that name none (dialect 1).
	DefaultTarget string
	// Forbidden returns what is never reached. It is called for every check, must
	// be cheap, and the result is not changed or kept. nil: nothing.
	Forbidden func() []Listener
	// HostAddresses returns this host's addresses; nil: those of its interfaces
	// (the function HostAddresses). It is called for every check.
	HostAddresses func() []netip.Addr
	// Resolver looks names up; nil: Dynamic.Resolver, or the system's.
	Resolver Resolver
}

// Dynamic is the dynamic block.
type Dynamic struct {
	Rules []Rule
	// Resolver is the DNS server to ask, 10.0.0.53 or 10.0.0.53:5353; empty: as
	// the system does. Named targets use it too.
	Resolver string
}

// Policy is immutable and safe for concurrent use.
type Policy struct {
	endpoint      string
	targets       map[string]*namedTarget
	order         []*namedTarget
	dynamic       bool
	rules         []rule
	expose        []exposeRule
	defaultTarget string
	forbidden     func() []Listener
	hostAddresses func() []netip.Addr
	resolver      Resolver
}

// New checks everything and makes a Policy. The error names each thing to
// change, by its place in the configuration.
func New(cfg Config) (*Policy, error) {
	p := &Policy{
		endpoint:      cfg.Endpoint,
		targets:       make(map[string]*namedTarget, len(cfg.Targets)),
		defaultTarget: cfg.DefaultTarget,
		forbidden:     cfg.Forbidden,
		hostAddresses: cfg.HostAddresses,
		resolver:      cfg.Resolver,
	}
	if p.hostAddresses == nil {
		p.hostAddresses = HostAddresses
	}
	problems := append(p.addTargets(cfg.Targets), p.addExpose(cfg.Expose)...)
	if cfg.Dynamic != nil {
		p.dynamic = true
		problems = append(problems, p.addRules(cfg.Dynamic.Rules)...)
	}
	if p.resolver == nil {
		r, err := newResolver(cfg.Dynamic)
		p.resolver = r
		problems = append(problems, err)
	}
	if err := errors.Join(problems...); err != nil {
		return nil, err
	}
	return p, nil
}

func (p *Policy) addTargets(targets []NamedTarget) (problems []error) {
	for i, in := range targets {
		ref := RuleRef{Endpoint: p.endpoint, List: "targets", Index: i, Text: targetText(in), Position: in.Position}
		t, err := parseTarget(in, ref)
		if err == nil && p.targets[in.Name] != nil {
			err = errors.New("there is a target of this name already: join their addresses or rename one")
		}
		if err != nil {
			problems = append(problems, fmt.Errorf("%s: %w", ref.Describe(), err))
			continue
		}
		t.info.Default = in.Name == p.defaultTarget
		p.targets[in.Name] = t
		p.order = append(p.order, t)
	}
	if p.defaultTarget != "" && len(problems) == 0 {
		switch t := p.targets[p.defaultTarget]; {
		case t == nil:
			problems = append(problems, fmt.Errorf("default_target %q is not a target of this endpoint: add it or change default_target", p.defaultTarget))
		case t.kind != tunnel.KindNamed:
			problems = append(problems, fmt.Errorf("default_target %q is a datagram target: peers that cannot name one open streams, choose a tcp/ or unix/ target", p.defaultTarget))
		}
	}
	return problems
}

func targetText(in NamedTarget) string {
	return strings.Join(append([]string{in.Name}, in.Addresses...), " ")
}

func (p *Policy) addRules(rules []Rule) (problems []error) {
	for i, in := range rules {
		ref := RuleRef{Endpoint: p.endpoint, List: "dynamic.rules", Index: i, Text: ruleText(in), Position: in.Position}
		r, err := parseRule(in)
		if err != nil {
			problems = append(problems, fmt.Errorf("%s: %w", ref.Describe(), err))
			continue
		}
		r.ref = ref
		p.rules = append(p.rules, r)
	}
	return problems
}

func ruleText(in Rule) string {
	text := "allow " + in.Text
	if in.Deny {
		text = "deny " + in.Text
	}
	if in.Private {
		text += " private"
	}
	return text
}

// Endpoint returns the endpoint's name.
func (p *Policy) Endpoint() string { return p.endpoint }

// DefaultTarget returns the name of the target of peers that name none; empty
// where there is none.
func (p *Policy) DefaultTarget() string { return p.defaultTarget }

// Has reports whether there is a named target of that name, whoever may open it.
func (p *Policy) Has(name string) bool { return p.targets[name] != nil }

// Named returns the target of that name with the kind that it has here. A name
// that is not known is a stream target's, as in tunnel.ParseTarget.
func (p *Policy) Named(name string) tunnel.Target {
	kind := tunnel.KindNamed
	if t := p.targets[name]; t != nil {
		kind = t.kind
	}
	return tunnel.Target{Kind: kind, Host: name}
}

// Targets returns the named targets that the subject may open, in the order of
// the configuration.
func (p *Policy) Targets(s Subject) []TargetInfo {
	out := make([]TargetInfo, 0, len(p.order))
	for _, t := range p.order {
		if t.open(s) {
			out = append(out, t.info)
		}
	}
	return out
}

// Breaker returns what stands for a named target where its failures are counted;
// false: they are not, or there is no such target. The empty name is the default
// target's.
func (p *Policy) Breaker(name string) (RuleRef, bool) {
	if name == "" {
		name = p.defaultTarget
	}
	t := p.targets[name]
	if t == nil || !t.breaker {
		return RuleRef{}, false
	}
	return t.ref, true
}

// Breakers returns everything that failures are counted for: the names of the
// named targets, and the rules that let clients name addresses.
func (p *Policy) Breakers() (targets []string, rules []RuleRef) {
	for _, t := range p.order {
		if t.breaker {
			targets = append(targets, t.info.Name)
		}
	}
	for i := range p.rules {
		if !p.rules[i].deny {
			rules = append(rules, p.rules[i].ref)
		}
	}
	return targets, rules
}

// local reports whether an address is one of this host's, loopback included.
func (p *Policy) local(a netip.Addr) bool {
	return a.IsLoopback() || slices.Contains(p.hostAddresses(), a)
}
