package testkit

import (
	"fmt"
	"net/netip"
	"os"
	"strings"
)

// PutBehindNAT joins n to outside by a router that masquerades, as a home's does:
// n reaches outside's address, which is returned, and nobody reaches n who was not
// asked. The router is a network of its own that does nothing else.
func (n *Namespace) PutBehindNAT(router, outside *Namespace) (netip.Addr, error) {
	_, gateway, err := n.Connect(router)
	if err != nil {
		return netip.Addr{}, err
	}
	_, address, err := router.Connect(outside)
	if err != nil {
		return address, err
	}
	if err := n.ip("route add default via " + gateway.String() + " onlink dev " + interfaceTo(router)); err != nil {
		return address, err
	}
	if err := router.Do(func() error { return os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0) }); err != nil {
		return address, fmt.Errorf("forwarding: %w", err)
	}
	nft, err := lookCommand("nft")
	if err != nil {
		return address, err
	}
	cmd := router.Command(nft, "-f", "-")
	cmd.Stdin = strings.NewReader(fmt.Sprintf(`table ip nat {
 chain out {
  type nat hook postrouting priority srcnat
  oifname "%[1]s" masquerade
 }
}
table ip guard {
 chain through {
  type filter hook forward priority filter
  iifname "%[1]s" ct state new drop
 }
}
`, interfaceTo(outside)))
	if out, err := cmd.CombinedOutput(); err != nil {
		return address, fmt.Errorf("masquerading: %w: %s", err, out)
	}
	return address, nil
}

// interfaceTo is the interface that Connect makes for another network.
func interfaceTo(other *Namespace) string { return fmt.Sprintf("to%d", other.number) }
