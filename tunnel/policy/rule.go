package policy

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"github.com/culvertgate/culvert/tunnel"
)

// Rule is one line of a dynamic block.
type Rule struct {
	// Text says which targets: tcp/10.0.0.0/8:22,8000-8100, tcp/[2001:db8::/32]:53,
	// tcp/db.example:5432, tcp/*.example:443 (every depth below, not example
	// itself), tcp/*:443 (every name and public address); udp/ likewise, for flows
	// of datagrams. A deny may leave out the network (it then speaks of both), the
	// ports or all of it: 10.0.0.13. It may end in the word private.
	Text string
	// Deny refuses what matches, whatever the other rules say.
	Deny bool
	// Private lets a name lead to private addresses (RFC 1918, fc00::/7).
	Private bool
	// Users and Groups are whom the rule concerns; both empty: everybody.
	Users, Groups []string
	// Position is where the rule stands in the Caddyfile, such as Caddyfile:12;
	// empty where that is not known.
	Position string
}

// rule is a parsed Rule. Exactly one of prefix, name, suffix and every is set.
type rule struct {
	ref      RuleRef
	deny     bool
	private  bool
	kind     tunnel.Kind // 0: every network
	prefix   netip.Prefix
	name     string
	suffix   string // with its leading dot
	every    bool
	ports    ports
	audience audience
}

// concerns reports whether the rule speaks about this subject, network and port.
func (r *rule) concerns(s Subject, kind tunnel.Kind, port uint16) bool {
	return (r.kind == 0 || r.kind == kind) && r.ports.contains(port) && r.audience.admits(s)
}

// covers reports whether the rule's literal or CIDR holds the address.
func (r *rule) covers(a netip.Addr) bool { return r.prefix.IsValid() && r.prefix.Contains(a) }

// matchesName reports whether the rule allows or denies the name itself.
func (r *rule) matchesName(name string) bool {
	switch {
	case r.every:
		return true
	case r.name != "":
		return r.name == name
	default:
		return r.suffix != "" && strings.HasSuffix(name, r.suffix)
	}
}

func parseRule(in Rule) (rule, error) {
	r := rule{deny: in.Deny, private: in.Private}
	text, err := r.cutPrivate(in.Text)
	if err != nil {
		return r, err
	}
	if text, err = r.cutNetwork(text); err != nil {
		return r, err
	}
	if text, err = r.cutPorts(text); err != nil {
		return r, err
	}
	if err = r.parsePattern(text); err != nil {
		return r, err
	}
	if r.private && (r.deny || r.prefix.IsValid()) {
		return r, errors.New("private belongs to an allow rule with a name: an address rule opens what it covers anyway")
	}
	if r.private && r.every {
		return r, errors.New("* never opens private addresses: name the networks (tcp/10.0.0.0/8:443) or the domain (tcp/*.internal.example:443 private)")
	}
	r.audience, err = newAudience(in.Users, in.Groups)
	return r, err
}

func (r *rule) cutPrivate(text string) (string, error) {
	words := strings.Fields(text)
	switch {
	case len(words) == 1:
		return words[0], nil
	case len(words) == 2 && words[1] == "private":
		r.private = true
		return words[0], nil
	default:
		return "", errors.New("a rule is one word such as tcp/10.0.0.0/8:22, or a name's followed by private")
	}
}

func (r *rule) cutNetwork(text string) (string, error) {
	network, rest, found := strings.Cut(text, "/")
	switch {
	case found && network == "tcp":
		r.kind = tunnel.KindTCP
		return rest, nil
	case found && network == "udp":
		r.kind = tunnel.KindUDP
		return rest, nil
	case found && network == "unix":
		return "", errors.New("a client cannot name a unix socket: make it a named target")
	case !r.deny:
		return "", fmt.Errorf("write the network in front: tcp/%s (udp/ for datagrams)", text)
	default:
		return text, nil
	}
}

// cutPorts splits host:ports, [v6 address or CIDR]:ports.
func (r *rule) cutPorts(text string) (string, error) {
	host, list, found := text, "", false
	if inner, ok := strings.CutPrefix(text, "["); ok {
		var rest string
		if host, rest, ok = strings.Cut(inner, "]"); !ok || !strings.Contains(host, ":") || (rest != "" && rest[0] != ':') {
			return "", errors.New("brackets hold an IPv6 address or CIDR, ports follow behind a colon: [2001:db8::/32]:443")
		}
		list, found = strings.CutPrefix(rest, ":")
	} else if strings.Count(text, ":") > 1 {
		if !r.deny {
			return "", errors.New("write an IPv6 address or CIDR in brackets: [2001:db8::/32]:443")
		}
	} else {
		host, list, found = strings.Cut(text, ":")
	}
	if !found {
		if !r.deny {
			return "", fmt.Errorf("an allow rule needs its ports: %s:443 (every port: 1-65535)", text)
		}
		return host, nil
	}
	var err error
	r.ports, err = parsePorts(list)
	return host, err
}

func (r *rule) parsePattern(text string) error {
	if text == "*" {
		r.every = true
		return nil
	}
	if strings.Contains(text, "/") {
		p, err := parsePrefix(text)
		r.prefix = p
		return err
	}
	suffix, isSuffix := strings.CutPrefix(text, "*.")
	h, err := parseHost(suffix)
	switch {
	case err != nil && strings.Contains(suffix, "*"):
		return fmt.Errorf("%q: a * stands alone or for everything in front of a domain: *.example.com", text)
	case err != nil:
		return fmt.Errorf("%q: %w", text, err)
	case isSuffix && h.name == "":
		return fmt.Errorf("%q: write a network of addresses as a CIDR: 10.0.0.0/8", text)
	case isSuffix:
		r.suffix = "." + h.name
	case h.name != "":
		r.name = h.name
	default:
		r.prefix = netip.PrefixFrom(h.addr, h.addr.BitLen())
	}
	return nil
}

func parsePrefix(text string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(text)
	if err != nil {
		return p, fmt.Errorf("%q is not a CIDR such as 10.0.0.0/8 or 2001:db8::/32", text)
	}
	if p.Addr().Is4In6() {
		return netip.Prefix{}, fmt.Errorf("%q: write IPv4 networks in their own form, such as 10.0.0.0/8", text)
	}
	if m := p.Masked(); m != p {
		return netip.Prefix{}, fmt.Errorf("%q has bits beyond its length: write %s, or %s without a length", text, m, p.Addr())
	}
	return p, nil
}
