package policy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"slices"
	"strings"

	"github.com/culvertgate/culvert/framecodec"
	"github.com/culvertgate/culvert/tunnel"
)

// Resolver looks a name up. *net.Resolver is one; network is always "ip", the
// name is ASCII, lower case and without a final dot.
type Resolver interface {
	LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error)
}

// maxAddresses of one name are dialled; all that came are checked.
const maxAddresses = 16

// newResolver returns the system's resolver, or one that asks the server of the
// dynamic block only.
func newResolver(d *Dynamic) (Resolver, error) {
	// Go's own resolver can be cancelled and takes no thread while it waits, so
	// that a dead server costs nobody else; elsewhere the system knows things (VPN,
	// per-domain servers) that it does not.
	r := &net.Resolver{PreferGo: runtime.GOOS == "linux", Dial: dialDNS}
	if d == nil || d.Resolver == "" {
		return absolute{r}, nil
	}
	server, err := parseServer(d.Resolver)
	if err != nil {
		return nil, fmt.Errorf("dynamic.resolver %q: %w", d.Resolver, err)
	}
	r.PreferGo = true
	r.Dial = func(ctx context.Context, network, _ string) (net.Conn, error) {
		return dialDNS(ctx, network, server)
	}
	return asked{absolute{r}, server}, nil
}

// asked puts the server that was asked into errors: Go's resolver names the one
// of resolv.conf.
type asked struct {
	absolute
	server string
}

func (a asked) LookupNetIP(ctx context.Context, network, name string) ([]netip.Addr, error) {
	list, err := a.absolute.LookupNetIP(ctx, network, name)
	var dns *net.DNSError
	if errors.As(err, &dns) && dns.Server != "" {
		named := *dns
		named.Server = a.server
		return nil, &named
	}
	return list, err
}

func parseServer(s string) (string, error) {
	if a, err := netip.ParseAddr(strings.Trim(s, "[]")); err == nil {
		return netip.AddrPortFrom(a, 53).String(), nil
	}
	ap, err := netip.ParseAddrPort(s)
	if err != nil || ap.Port() == 0 {
		return "", errors.New("write the address of a DNS server, 10.0.0.53 or 10.0.0.53:5353")
	}
	return ap.String(), nil
}

// absolute asks for names with a dot as they are: the search list of
// resolv.conf would turn a.example into a.example.corp, which no rule allowed.
// A single label is looked up as the system does it.
type absolute struct{ r *net.Resolver }

func (a absolute) LookupNetIP(ctx context.Context, network, name string) ([]netip.Addr, error) {
	if strings.Contains(name, ".") {
		name += "."
	}
	return a.r.LookupNetIP(ctx, network, name)
}

// lookup resolves a name once and returns its addresses, unmapped, each once.
func lookup(ctx context.Context, r Resolver, name string) ([]netip.Addr, error) {
	list, err := r.LookupNetIP(ctx, "ip", name)
	if err != nil {
		return nil, resolveError(ctx, err)
	}
	out := make([]netip.Addr, 0, len(list))
	for _, a := range list {
		if a = unmap(a); a.IsValid() && !slices.Contains(out, a) {
			out = append(out, a)
		}
	}
	if len(out) == 0 {
		return nil, codeError(framecodec.CodeResolveFailed, errors.New("the name has no address"))
	}
	return out, nil
}

func resolveError(ctx context.Context, err error) error {
	code := framecodec.CodeResolveFailed
	var dns *net.DNSError
	switch {
	case errors.Is(ctx.Err(), context.Canceled):
		code = framecodec.CodeCancelled
	case ctx.Err() != nil, errors.Is(err, context.DeadlineExceeded), errors.As(err, &dns) && dns.IsTimeout:
		code = framecodec.CodeTimeout
	}
	return codeError(code, err)
}

// codeError is an error for the client with its cause for the operator.
func codeError(code tunnel.Code, cause error) *tunnel.Error {
	return &tunnel.Error{Code: code, Text: ClientText(code), Err: cause}
}

// addresses resolves the name of a step and checks every address. What it
// considered is returned in every case.
func (p *Policy) addresses(ctx context.Context, r Resolver, s Subject, t tunnel.Target, st *step) ([]Address, []Considered, error) {
	if st.name == "" {
		d := p.checkAddress(s, t.Kind, st.grant, st.address)
		return []Address{st.address}, []Considered{considered("", st.address, d)}, d.Err()
	}
	list, err := lookup(ctx, r, st.name)
	if err != nil {
		return nil, nil, p.hideLookup(st, err)
	}
	var usable []Address
	var seen []Considered
	var refused error
	for _, a := range list {
		at := Address{Addr: a, Port: st.port, UDP: isFlow(t.Kind)}
		d := p.checkAddress(s, t.Kind, st.grant, at)
		if !d.Allowed && refused == nil {
			refused = d.Err()
		}
		if len(seen) < maxAddresses || !d.Allowed && len(seen) < 2*maxAddresses {
			seen = append(seen, considered(st.name, at, d))
		}
		if len(usable) < maxAddresses {
			usable = append(usable, at)
		}
	}
	if refused != nil {
		return nil, seen, refused
	}
	return usable, seen, nil
}

// hideLookup keeps the outcome of a look-up from clients whose name no rule
// allows: else the gateway's DNS could be asked for anything.
func (p *Policy) hideLookup(st *step, err error) error {
	if st.grant.by != nil || tunnel.CodeOf(err) == framecodec.CodeCancelled {
		return err
	}
	cause := err
	if inner := errors.Unwrap(err); inner != nil {
		cause = inner
	}
	return p.deny(p.builtin("dynamic"), "no rule allows the name %s, and it leads to no address: %v", st.name, cause).Err()
}
