package testkit

import (
	"fmt"
	"net/netip"
	"strings"
	"sync"
)

// Rule is a firewall rule of a Namespace that drops packets without a word.
type Rule struct {
	n      *Namespace
	table  string
	remove sync.Once
	err    error
}

// Drop adds a rule to what comes in, over loopback too: match is in the words
// of nft(8), such as "udp dport 3478". Only incoming packets are dropped,
// because a sender is told (EPERM) of its own that are dropped on their way
// out, and real networks do not tell.
func (n *Namespace) Drop(match ...string) (*Rule, error) {
	r := &Rule{n: n, table: fmt.Sprintf("testkit_%d", n.rules.Add(1))}
	var script strings.Builder
	fmt.Fprintf(&script, "table inet %s {\n chain incoming {\n  type filter hook input priority 0\n", r.table)
	for _, m := range match {
		fmt.Fprintf(&script, "  %s counter drop\n", m)
	}
	script.WriteString(" }\n}\n")
	nft, err := lookCommand("nft")
	if err != nil {
		return nil, err
	}
	cmd := n.Command(nft, "-f", "-")
	cmd.Stdin = strings.NewReader(script.String())
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("adding firewall rule %q: %w: %s", match, err, out)
	}
	return r, nil
}

// BlockUDP drops every UDP packet from or to a port that comes into this
// network. With both peers inside that is all of them; with peers in two
// networks it must be called on both to cut both directions.
func (n *Namespace) BlockUDP(port uint16) (*Rule, error) {
	return n.Drop(fmt.Sprintf("udp dport %d", port), fmt.Sprintf("udp sport %d", port))
}

// BlackHole makes every address of prefix one that swallows what is sent to it:
// connections there hang in SYN-SENT, look-ups there are never answered. The
// prefix must not be in use. Removing the rule leaves the addresses, which then
// refuse connections.
func (n *Namespace) BlackHole(prefix netip.Prefix) (*Rule, error) {
	if err := n.ip("route add local " + prefix.Masked().String() + " dev lo"); err != nil {
		return nil, err
	}
	family := "ip"
	if prefix.Addr().Is6() {
		family = "ip6"
	}
	return n.Drop(family + " daddr " + prefix.Masked().String())
}

// Remove takes the rule back; further calls do nothing.
func (r *Rule) Remove() error {
	r.remove.Do(func() {
		nft, err := lookCommand("nft")
		if err != nil {
			r.err = err
			return
		}
		if out, err := r.n.Command(nft, "delete", "table", "inet", r.table).CombinedOutput(); err != nil {
			r.err = fmt.Errorf("removing a firewall rule: %w: %s", err, out)
		}
	})
	return r.err
}
