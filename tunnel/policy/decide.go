package policy

import (
	"cmp"
	"fmt"
	"net/netip"

	"github.com/culvertgate/culvert/framecodec"
	"github.com/culvertgate/culvert/tunnel"
)

// Decide says whether the subject may open the target, as far as that can be
// known without resolving a name (then NeedsResolve is set and each address is
// still to be checked). It does no I/O, but for a stat of a target's unix
// socket where one of ours is forbidden.
func (p *Policy) Decide(s Subject, t tunnel.Target) Decision {
	steps, d := p.plan(s, t)
	if !d.Allowed {
		return d
	}
	for i := range steps {
		if steps[i].name != "" {
			d.NeedsResolve = true
			return d
		}
	}
	var first Decision
	for i := range steps {
		if got := p.checkAddress(s, t.Kind, steps[i].grant, steps[i].address); got.Allowed {
			return got
		} else if i == 0 {
			first = got
		}
	}
	return first
}

// CheckAddress says whether a stream of the subject to the target may be
// connected to this address: what a running stream is asked after a reload.
func (p *Policy) CheckAddress(s Subject, t tunnel.Target, a Address) Decision {
	steps, d := p.plan(s, t)
	if !d.Allowed {
		return d
	}
	refused := p.deny(d.Rule, "%s/%s is not an address of the target", a.Network(), a)
	if a.UDP != isFlow(t.Kind) {
		return refused
	}
	for i := range steps {
		st := &steps[i]
		if st.name == "" && st.address != a || st.name != "" && st.port != a.Port {
			continue
		}
		got := p.checkAddress(s, t.Kind, st.grant, a)
		if got.Allowed {
			return got
		}
		refused = got
	}
	return refused
}

// plan finds what to try for a target, or says why nothing may be tried.
func (p *Policy) plan(s Subject, t tunnel.Target) ([]step, Decision) {
	if d := p.checkTicket(s, t); !d.Allowed {
		return nil, d
	}
	switch t.Kind {
	case tunnel.KindNamed, tunnel.KindNamedDatagram:
		return p.planNamed(s, t)
	case tunnel.KindTCP, tunnel.KindUDP:
		return p.planDynamic(s, t)
	default:
		return nil, p.unknown("this endpoint knows no targets of kind %d", t.Kind)
	}
}

// checkTicket refuses what a ticket is not for.
func (p *Policy) checkTicket(s Subject, t tunnel.Target) Decision {
	if s.Ticket != "" && (!t.Named() || t.Host != "" && t.Host != s.Ticket) {
		return p.deny(p.builtin("tickets"), "the ticket is for %s", s.Ticket)
	}
	return Decision{Allowed: true}
}

func (p *Policy) unknown(format string, args ...any) Decision {
	d := p.deny(p.builtin("targets"), format, args...)
	d.Code = framecodec.CodeUnknownTarget
	return d
}

func (p *Policy) planNamed(s Subject, asked tunnel.Target) ([]step, Decision) {
	name := asked.Host
	if name == "" {
		if isFlow(asked.Kind) {
			return nil, p.unknown("the peer names no target, and default_target is for streams only")
		}
		if name = cmp.Or(s.Ticket, p.defaultTarget); name == "" {
			return nil, p.unknown("the peer names no target and the endpoint has no default_target")
		}
	}
	t := p.targets[name]
	switch {
	case t == nil:
		return nil, p.unknown("this endpoint has no target %q", framecodec.SafeText([]byte(name)))
	case !t.open(s):
		return nil, p.deny(t.ref, "the target is for other users or groups")
	case t.kind != asked.Kind:
		return nil, p.unknown("the target %q is a %s target, and the peer asks for a %s", name, t.info.Kind, KindWord(asked.Kind))
	default:
		return t.steps, p.allow(t.ref, "named target")
	}
}

func (p *Policy) planDynamic(s Subject, t tunnel.Target) ([]step, Decision) {
	if !p.dynamic {
		return nil, p.deny(p.builtin("dynamic"), "clients cannot name addresses here: the endpoint has no dynamic block")
	}
	h, err := parseHost(t.Host)
	if err != nil {
		return nil, p.deny(p.builtin("host"), "%v", err)
	}
	if t.Port == 0 {
		return nil, p.deny(p.builtin("host"), "the port is 0")
	}
	if h.name != "" {
		return p.planName(s, t, h.name)
	}
	st := step{address: Address{Addr: h.addr, Port: t.Port, UDP: isFlow(t.Kind)}, grant: grant{dynamic: true}}
	if p.covering(s, t.Kind, h.addr, t.Port, false) == nil {
		st.grant.by = p.everything(s, t)
	}
	d := p.checkAddress(s, t.Kind, st.grant, st.address)
	return []step{st}, d
}

// everything returns the rule for all names and public addresses, or nil.
func (p *Policy) everything(s Subject, t tunnel.Target) *RuleRef {
	for i := range p.rules {
		if r := &p.rules[i]; !r.deny && r.every && r.concerns(s, t.Kind, t.Port) {
			return &r.ref
		}
	}
	return nil
}

// planName looks for the rule that allows a name; without one, for a rule that
// could allow its addresses.
func (p *Policy) planName(s Subject, t tunnel.Target, name string) ([]step, Decision) {
	st := step{name: name, port: t.Port, grant: grant{dynamic: true}}
	byAddress := false
	for i := range p.rules {
		r := &p.rules[i]
		switch {
		case !r.concerns(s, t.Kind, t.Port):
		case r.deny && r.matchesName(name):
			return nil, p.deny(r.ref, "the rule denies the name")
		case r.deny:
		case r.matchesName(name):
			if st.grant.by == nil || r.private && !st.grant.private {
				st.grant.by, st.grant.private = &r.ref, r.private
			}
		case r.prefix.IsValid():
			byAddress = true
		}
	}
	switch {
	case st.grant.by != nil:
		return []step{st}, p.allow(*st.grant.by, "the rule allows the name")
	case byAddress:
		return []step{st}, p.allow(p.builtin("dynamic"), "no rule allows the name: each of its addresses needs one")
	default:
		return nil, p.deny(p.builtin("dynamic"), "no rule allows the name")
	}
}

// checkAddress is the check that every address passes before it is dialled, at
// connect and after a reload.
func (p *Policy) checkAddress(s Subject, kind tunnel.Kind, g grant, a Address) Decision {
	if a.Path != "" {
		return p.checkPath(g, a.Path)
	}
	addr, port := a.Addr, a.Port
	if !addr.IsValid() || addr.IsUnspecified() || addr.Zone() != "" || addr != unmap(addr) || port == 0 {
		return p.deny(p.builtin(addressList(classUnusable)), "%s is not an address to connect to", a)
	}
	var buf [5]netip.Addr
	for _, part := range embedded(append(buf[:0], addr), addr) {
		if d := p.checkPart(s, kind, g, netip.AddrPortFrom(part, port), part != addr); !d.Allowed {
			return d
		}
	}
	if g.by != nil {
		return p.allow(*g.by, "the address may be reached")
	}
	if r := p.covering(s, kind, addr, port, false); r != nil {
		return p.allow(r.ref, "the rule covers the address")
	}
	return p.deny(p.builtin("dynamic"), "no rule allows %s", a)
}

// checkPart judges the address itself, or one that is embedded in it.
func (p *Policy) checkPart(s Subject, kind tunnel.Kind, g grant, a netip.AddrPort, inside bool) Decision {
	what := spoken{a, inside}
	if l := p.forbiddenBy(transport(isFlow(kind)), a); l != nil {
		return p.deny(p.builtin(addressList(classForbidden)), "%s is %s: never reached, whatever the rules", what, l.What)
	}
	if g.dynamic {
		if r := p.covering(s, kind, a.Addr(), a.Port(), true); r != nil {
			return p.deny(r.ref, "the rule denies %s", what)
		}
	}
	c := p.classOf(a.Addr())
	if c == classUnusable {
		return p.deny(p.builtin(addressList(c)), "%s is not an address to connect to", what)
	}
	if c == classGlobal || g.exact || c == classPrivate && g.private {
		return Decision{Allowed: true}
	}
	if g.dynamic && p.covering(s, kind, a.Addr(), a.Port(), false) != nil {
		return Decision{Allowed: true}
	}
	return p.deny(p.builtin(addressList(c)), "%s is a %s address: %s", what, c, p.advice(c, g))
}

// spoken is an address as reasons name it.
type spoken struct {
	addr   netip.AddrPort
	inside bool
}

func (s spoken) String() string {
	if s.inside {
		return s.addr.String() + ", which is inside the address,"
	}
	return s.addr.String()
}

func (p *Policy) advice(c class, g grant) string {
	switch {
	case !g.dynamic:
		return "write the address itself in the target, a name does not lead there"
	case c == classPrivate:
		return "it needs a CIDR rule, or a name rule with the word private"
	default:
		return "it needs a CIDR rule"
	}
}

// covering finds a rule of the dynamic block whose addresses hold a.
func (p *Policy) covering(s Subject, kind tunnel.Kind, a netip.Addr, port uint16, deny bool) *rule {
	for i := range p.rules {
		r := &p.rules[i]
		if r.deny == deny && (r.covers(a) || deny && r.every) && r.concerns(s, kind, port) {
			return r
		}
	}
	return nil
}

func (p *Policy) classOf(a netip.Addr) class {
	c := classify(a)
	if (c == classGlobal || c == classPrivate) && p.local(a) {
		return classHost
	}
	return c
}

func (p *Policy) forbiddenBy(network string, a netip.AddrPort) *Listener {
	if p.forbidden == nil {
		return nil
	}
	for _, l := range p.forbidden() {
		if l.holds(network, a, p.local) {
			return &l
		}
	}
	return nil
}

func (p *Policy) checkPath(g grant, path string) Decision {
	if p.forbidden != nil {
		for _, l := range p.forbidden() {
			if l.Network == "unix" && sameSocket(l.Path, path) {
				return p.deny(p.builtin(addressList(classForbidden)), "%s is %s: never reached, whatever the rules", path, l.What)
			}
		}
	}
	if g.by == nil {
		return p.deny(p.builtin("targets"), "only a named target is a unix socket")
	}
	return p.allow(*g.by, fmt.Sprintf("the target's socket %s", path))
}
