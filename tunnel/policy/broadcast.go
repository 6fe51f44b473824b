package policy

import "github.com/culvertgate/culvert/tunnel"

// spelledOut reports whether the operator wrote this very address. Only then may
// it be a broadcast address: one of a subnet looks like any other, and a datagram
// to it would reach hosts of that subnet that a deny rule names.
func (p *Policy) spelledOut(s Subject, kind tunnel.Kind, g grant, a Address) bool {
	if g.exact || !g.dynamic {
		return g.exact
	}
	for i := range p.rules {
		r := &p.rules[i]
		if !r.deny && r.prefix.IsSingleIP() && r.covers(a.Addr) && r.concerns(s, kind, a.Port) {
			return true
		}
	}
	return false
}
