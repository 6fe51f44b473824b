package policy

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"strings"

	"github.com/culvertgate/culvert/tunnel"
)

// NamedTarget is one target of the configuration.
type NamedTarget struct {
	Name string // [a-z0-9][a-z0-9_.-]*, not socks5
	// Addresses are tried in order: tcp/10.0.0.5:22, tcp/db.example:5432,
	// unix//run/app.sock; or all of them udp/10.0.0.53:53, of which the first that
	// the system has a route for is taken (nobody answers a connect of UDP). A literal is the operator's word for that address,
	// whatever it is. A host name may lead to public and private addresses, but
	// not to this host, link-local or other special ones: whoever answers for the
	// name in DNS is not the operator. localhost is not looked up: it means
	// 127.0.0.1, then ::1.
	Addresses []string
	// Users and Groups are who may open it; both empty: everybody at the endpoint.
	Users, Groups []string
	Title         string // for people; may be empty
	App           string // what the console opens it with; may be empty
	// ProxyProtocol is v1 or v2: each connection begins with a header that tells
	// the client's address. Empty: none. For stream targets only.
	ProxyProtocol string
	// Breaker is off where opens are tried however often they have failed; empty:
	// the target is given a rest then.
	Breaker  string
	Position string // in the Caddyfile; empty where not known
}

// TargetInfo is a named target as its users see it.
type TargetInfo struct {
	Name    string `json:"name"`
	Kind    string `json:"kind"` // stream or datagram
	Title   string `json:"title,omitempty"`
	App     string `json:"app,omitempty"`
	Default bool   `json:"default,omitempty"` // of peers that name none
}

type namedTarget struct {
	ref      RuleRef
	kind     tunnel.Kind // KindNamed or KindNamedDatagram
	info     TargetInfo
	audience audience
	breaker  bool
	steps    []step
}

func parseTarget(in NamedTarget, ref RuleRef) (*namedTarget, error) {
	if !tunnel.ValidTargetName(in.Name) {
		return nil, fmt.Errorf("%q cannot name a target: use [a-z0-9][a-z0-9_.-]*, and not socks5", in.Name)
	}
	if len(in.Addresses) == 0 {
		return nil, errors.New("it has no address: add one such as tcp/10.0.0.5:22")
	}
	t := &namedTarget{ref: ref, info: TargetInfo{Name: in.Name, Title: in.Title, App: in.App}}
	for i, text := range in.Addresses {
		kind, steps, err := parseAddress(text)
		if err != nil {
			return nil, fmt.Errorf("address %q: %w", text, err)
		}
		if i > 0 && kind != t.kind {
			return nil, fmt.Errorf("address %q is for a %s target, %q is for a %s target: make two targets of them", text, KindWord(kind), in.Addresses[0], KindWord(t.kind))
		}
		t.kind = kind
		t.steps = append(t.steps, steps...)
	}
	t.info.Kind = KindWord(t.kind)
	proxy, err := parseProxyProtocol(in.ProxyProtocol, t.kind)
	if err != nil {
		return nil, err
	}
	if t.breaker, err = parseBreaker(in.Breaker); err != nil {
		return nil, err
	}
	for i := range t.steps {
		t.steps[i].grant = grant{by: &t.ref, exact: t.steps[i].name == "", private: true, proxy: proxy}
	}
	t.audience, err = newAudience(in.Users, in.Groups)
	return t, err
}

// open reports whether the target is for the subject: a ticket is a grant of its
// own.
func (t *namedTarget) open(s Subject) bool {
	if s.Ticket != "" {
		return t.info.Name == s.Ticket
	}
	return t.audience.admits(s)
}

// parseBreaker reports whether failures of the target are counted.
func parseBreaker(text string) (bool, error) {
	switch text {
	case "":
		return true, nil
	case "off":
		return false, nil
	default:
		return false, fmt.Errorf("breaker %q: the only word is off", text)
	}
}

// KindWord tells streams from flows, for people and in target lists.
func KindWord(k tunnel.Kind) string {
	if isFlow(k) {
		return "datagram"
	}
	return "stream"
}

func parseAddress(text string) (tunnel.Kind, []step, error) {
	network, rest, _ := strings.Cut(text, "/")
	switch network {
	case "tcp":
		steps, err := parseHostPort(rest, false)
		return tunnel.KindNamed, steps, err
	case "udp":
		steps, err := parseHostPort(rest, true)
		return tunnel.KindNamedDatagram, steps, err
	case "unix":
		steps, err := parsePath(rest)
		return tunnel.KindNamed, steps, err
	default:
		return 0, nil, errors.New("write it as tcp/host:port, udp/host:port or unix//path")
	}
}

func parseHostPort(s string, udp bool) ([]step, error) {
	hostText, portText, err := net.SplitHostPort(s)
	if err != nil {
		return nil, fmt.Errorf("write it as %s/host:port, an IPv6 address in brackets", transport(udp))
	}
	port, err := parsePort(portText)
	if err != nil {
		return nil, err
	}
	literal := func(a netip.Addr) step { return step{address: Address{Addr: a, Port: port, UDP: udp}} }
	h, err := parseHost(hostText)
	switch {
	case err != nil:
		return nil, err
	case isLocalhost(h.name):
		return []step{literal(loopback4), literal(netip.IPv6Loopback())}, nil
	case h.name != "":
		return []step{{name: h.name, port: port}}, nil
	case h.addr.IsUnspecified():
		return nil, errors.New("this is a listener's address: write 127.0.0.1 for this host")
	default:
		return []step{literal(h.addr)}, nil
	}
}

// maxSocketPath is sun_path of Linux without its final zero byte.
const maxSocketPath = 107

func parsePath(path string) ([]step, error) {
	if !filepath.IsAbs(path) || strings.ContainsRune(path, 0) {
		return nil, errors.New("write the path from the root: unix//run/app.sock")
	}
	if len(path) > maxSocketPath {
		return nil, fmt.Errorf("the path of a unix socket has at most %d bytes", maxSocketPath)
	}
	return []step{{address: Address{Path: filepath.Clean(path)}}}, nil
}
