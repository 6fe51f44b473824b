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
	// unix//run/app.sock. A literal is the operator's word for that address,
	// whatever it is. A host name may lead to public and private addresses, but
	// not to this host, link-local or other special ones: whoever answers for the
	// name in DNS is not the operator. localhost is not looked up: it means
	// 127.0.0.1, then ::1.
	Addresses []string
	// Users and Groups are who may open it; both empty: everybody at the endpoint.
	Users, Groups []string
	Title         string // for people; may be empty
	App           string // what the console opens it with; may be empty
	Position      string // in the Caddyfile; empty where not known
}

// TargetInfo is a named target as its users see it.
type TargetInfo struct {
	Name    string `json:"name"`
	Kind    string `json:"kind"` // stream
	Title   string `json:"title,omitempty"`
	App     string `json:"app,omitempty"`
	Default bool   `json:"default,omitempty"` // of peers that name none
}

type namedTarget struct {
	ref      RuleRef
	info     TargetInfo
	audience audience
	steps    []step
}

func parseTarget(in NamedTarget, ref RuleRef) (*namedTarget, error) {
	if !tunnel.ValidTargetName(in.Name) {
		return nil, fmt.Errorf("%q cannot name a target: use [a-z0-9][a-z0-9_.-]*, and not socks5", in.Name)
	}
	if len(in.Addresses) == 0 {
		return nil, errors.New("it has no address: add one such as tcp/10.0.0.5:22")
	}
	t := &namedTarget{ref: ref, info: TargetInfo{Name: in.Name, Kind: "stream", Title: in.Title, App: in.App}}
	for _, text := range in.Addresses {
		steps, err := parseAddress(text)
		if err != nil {
			return nil, fmt.Errorf("address %q: %w", text, err)
		}
		t.steps = append(t.steps, steps...)
	}
	for i := range t.steps {
		t.steps[i].grant = grant{by: &t.ref, exact: t.steps[i].name == "", private: true}
	}
	var err error
	t.audience, err = newAudience(in.Users, in.Groups)
	return t, err
}

func parseAddress(text string) ([]step, error) {
	network, rest, _ := strings.Cut(text, "/")
	switch network {
	case "tcp":
		return parseHostPort(rest)
	case "unix":
		return parsePath(rest)
	case "udp":
		return nil, errors.New("udp targets are not available in this version: use tcp/host:port")
	default:
		return nil, errors.New("write it as tcp/host:port or unix//path")
	}
}

func parseHostPort(s string) ([]step, error) {
	hostText, portText, err := net.SplitHostPort(s)
	if err != nil {
		return nil, errors.New("write it as tcp/host:port, an IPv6 address in brackets")
	}
	port, err := parsePort(portText)
	if err != nil {
		return nil, err
	}
	h, err := parseHost(hostText)
	switch {
	case err != nil:
		return nil, err
	case isLocalhost(h.name):
		return []step{
			{address: Address{AddrPort: netip.AddrPortFrom(loopback4, port)}},
			{address: Address{AddrPort: netip.AddrPortFrom(netip.IPv6Loopback(), port)}},
		}, nil
	case h.name != "":
		return []step{{name: h.name, port: port}}, nil
	case h.addr.IsUnspecified():
		return nil, errors.New("this is a listener's address: write 127.0.0.1 for this host")
	default:
		return []step{{address: Address{AddrPort: netip.AddrPortFrom(h.addr, port)}}}, nil
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
