package policy

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"unicode/utf8"

	"golang.org/x/net/idna"
)

// host is a host as a rule or a peer names it, after strict parsing: exactly
// one of the two is set.
type host struct {
	addr netip.Addr // unmapped, without a zone
	name string     // ASCII, lower case, no final dot
}

// Limits of RFC 1035 section 2.3.4, for names without their final dot.
const (
	maxName  = 253
	maxLabel = 63
)

// names maps what people write to what DNS is asked (UTS #46, as browsers do).
// Underscores stay possible, container networks use them; what else may stand
// in a label is checked behind it.
var names = idna.New(
	idna.MapForLookup(),
	idna.Transitional(false),
	idna.BidiRule(),
	idna.StrictDomainName(false),
	idna.CheckHyphens(false),
)

// parseHost reads one host: an IPv4 address of four decimal numbers, an IPv6
// address without brackets and zone, or a name. All else is refused, above all
// the many other ways to write an IPv4 address, which resolvers and browsers
// read differently (security.md, "Where a stream may go" 1).
func parseHost(s string) (host, error) {
	if s == "" {
		return host{}, errors.New("the host is empty")
	}
	if len(s) > 4*maxName {
		return host{}, errors.New("the host is too long")
	}
	if strings.Contains(s, "%") {
		return host{}, errors.New("a host has no zone id and no escapes")
	}
	if a, err := netip.ParseAddr(s); err == nil {
		return host{addr: unmap(a)}, nil
	}
	if strings.Contains(s, ":") {
		return host{}, errors.New("this is not an IPv6 address")
	}
	name, err := parseName(s)
	return host{name: name}, err
}

func parseName(s string) (string, error) {
	if !utf8.ValidString(s) {
		return "", errors.New("this is not a host name")
	}
	for i := range len(s) {
		if s[i] <= ' ' || s[i] == 0x7f {
			return "", errors.New("a host holds no space and no control character")
		}
	}
	name, err := names.ToASCII(s)
	if err != nil {
		return "", errors.New("this is not a host name")
	}
	name = strings.ToLower(strings.TrimSuffix(name, "."))
	if len(name) > maxName {
		return "", fmt.Errorf("a host name has at most %d bytes", maxName)
	}
	last := ""
	for label := range strings.SplitSeq(name, ".") {
		if err := checkLabel(label); err != nil {
			return "", err
		}
		last = label
	}
	if numeric(last) {
		return "", errors.New("an IPv4 address is four decimal numbers without leading zeros")
	}
	return name, nil
}

func checkLabel(label string) error {
	if label == "" || len(label) > maxLabel {
		return fmt.Errorf("each part of a host name has 1 to %d bytes", maxLabel)
	}
	for i := range len(label) {
		c := label[i]
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' && c != '_' {
			return fmt.Errorf("a host name holds letters, digits, hyphens and dots, not %q", c)
		}
	}
	return nil
}

// numeric reports whether a last label makes its host a number and so an IPv4
// address in some reader's eyes (WHATWG URL, "ends in a number"): 127.1,
// 0x7f000001, 2130706433, 0177.0.0.1.
func numeric(label string) bool {
	if strings.Trim(label, "0123456789") == "" {
		return true
	}
	digits, hex := strings.CutPrefix(label, "0x")
	return hex && strings.Trim(digits, "0123456789abcdef") == ""
}
