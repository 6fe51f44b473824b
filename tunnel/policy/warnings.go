package policy

import (
	"fmt"
	"net/netip"
)

// surprising are the addresses that a wide rule opens without saying so.
var surprising = []struct {
	addr netip.Addr
	bits int // of a rule that means the range
	what string
}{
	{loopback4, 8, "loopback"},
	{netip.IPv6Loopback(), 128, "loopback"},
	{netip.MustParseAddr("169.254.169.254"), 16, "link-local (cloud metadata)"},
	{netip.MustParseAddr("fe80::1"), 10, "link-local"},
}

// Warnings tells what the configuration allows or writes that its author may
// not have meant, one sentence each, for the log at load.
func (p *Policy) Warnings() []string {
	var out []string
	for i := range p.rules {
		r := &p.rules[i]
		if r.deny {
			continue
		}
		if isLocalhost(r.name) {
			out = append(out, fmt.Sprintf("%s: a name never leads to loopback; write %s/127.0.0.1 with the same ports", r.ref.Describe(), transport(isFlow(r.kind))))
		}
		for _, s := range surprising {
			if r.covers(s.addr) && r.prefix.Bits() < s.bits {
				out = append(out, fmt.Sprintf("%s: an address rule opens all that it covers, here %s addresses too; * stands for names and public addresses only", r.ref.Describe(), s.what))
				break
			}
		}
	}
	return out
}
