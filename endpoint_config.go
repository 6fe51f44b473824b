package culvert

import (
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"

	"github.com/culvertgate/culvert/tunnel"
)

// Target is a named place that a gateway dials for its clients.
type Target struct {
	// Addresses are tcp/host:port or unix//path; several are tried in order. Or all
	// of them are udp/host:port: then it is a datagram target. Required.
	Addresses []string `json:"addresses,omitempty"`
	// Users who may open it. Default: everybody who may use the endpoint.
	Users []string `json:"users,omitempty"`
	// Groups whose members may open it, besides users.
	Groups []string `json:"groups,omitempty"`
	// Title is shown to people instead of the name.
	Title string `json:"title,omitempty"`
	// App says what it is opened with, such as vnc or ssh.
	App string `json:"app,omitempty"`
	// ProxyProtocol, v1 or v2, begins each connection with a header that tells the target the client's address
	// (port 0: it is not known). Stream targets only; at a unix socket the header's destination is 0.0.0.0:0 or
	// [::]:0. Default: no header.
	ProxyProtocol string `json:"proxy_protocol,omitempty"`
	// Breaker, off, has every open tried however often the target has failed. Default: a target that fails often is
	// given a rest, from 5 seconds to a minute, and opens are answered breaker_open meanwhile.
	Breaker string `json:"breaker,omitempty"`
	// Position is where the target stands in the Caddyfile; explain and logs show it.
	Position string `json:"position,omitempty"`
}

// Dynamic lets clients name addresses themselves. Nothing is allowed but what a rule allows.
type Dynamic struct {
	// Rules are considered together: one that denies wins over any that allows.
	Rules []*Rule `json:"rules,omitempty"`
	// Resolver is the address of the DNS server that looks names up. Default: the system's.
	Resolver string `json:"resolver,omitempty"`
}

// Rule allows or denies addresses: exactly one of Allow and Deny is set.
type Rule struct {
	// Allow is tcp/HOST:PORTS, where HOST is an address, a CIDR, a name, *.name or *, and PORTS is a list of ports
	// and ranges such as 22,8000-8100.
	Allow string `json:"allow,omitempty"`
	// Deny is the same; network and ports may be left out.
	Deny string `json:"deny,omitempty"`
	// Users for whom the rule counts. Default: all.
	Users []string `json:"users,omitempty"`
	// Groups for whose members the rule counts, besides users.
	Groups []string `json:"groups,omitempty"`
	// Private lets a name lead to private addresses (RFC 1918, fc00::/7).
	Private bool `json:"private,omitempty"`
	// Position is where the rule stands in the Caddyfile; explain and logs show it.
	Position string `json:"position,omitempty"`
}

// Expose lets clients publish services of their own machines: each is a target
// client:IDENTITY/NAME then, for entries of this Caddy (webrtc_tunnel local) and for
// other clients of the endpoint where a rule lets them. Nothing is allowed but what a
// rule allows.
type Expose struct {
	// Rules are considered in order: the first one that allows.
	Rules []*ExposeRule `json:"rules,omitempty"`
}

// ExposeRule says who may publish services, and who may reach them.
type ExposeRule struct {
	// Allow lists the names of services ([a-z0-9-]), or * for all. Required.
	Allow []string `json:"allow,omitempty"`
	// Users who may publish them. Default: every identity of the endpoint.
	Users []string `json:"users,omitempty"`
	// Groups whose members may publish them, besides users.
	Groups []string `json:"groups,omitempty"`
	// ReachableBy lists the users who may open streams to them. Default: no client; entries of this Caddy may.
	ReachableBy []string `json:"reachable_by,omitempty"`
	// ReachableByGroups lists groups whose members may, besides reachable_by.
	ReachableByGroups []string `json:"reachable_by_groups,omitempty"`
	// Position is where the rule stands in the Caddyfile; explain and logs show it.
	Position string `json:"position,omitempty"`
}

// EndpointLimits bound what one client may use. Zero means the default.
type EndpointLimits struct {
	// TunnelsPerIdentity that may be open at once. Default: 8.
	TunnelsPerIdentity int `json:"tunnels_per_identity,omitempty"`
	// StreamsPerTunnel that may be open at once. Default: 4096.
	StreamsPerTunnel int `json:"streams_per_tunnel,omitempty"`
	// OpensPerSecond of one tunnel. Default: 0, no limit.
	OpensPerSecond int `json:"opens_per_second,omitempty"`
	// Rate of one tunnel, payload bytes a second in each direction, at least 1024. Default: 0, no limit.
	Rate int64 `json:"rate,omitempty"`
	// StreamRate is the same of each stream. Default: 0, no limit.
	StreamRate int64 `json:"stream_rate,omitempty"`
	// BytesPerDay of one identity (UTC), payload of both directions together. Default: 0, no limit.
	BytesPerDay int64 `json:"bytes_per_day,omitempty"`
}

// What becomes of running streams that a new policy refuses.
const (
	reloadKeep  = "keep"
	reloadDrain = "drain"
	reloadCut   = "cut"
)

const defaultIdentity = "{http.auth.user.id}"

func (l *EndpointLimits) applyDefaults() {
	orDefault(&l.TunnelsPerIdentity, 8)
	orDefault(&l.StreamsPerTunnel, 4096)
}

func (l *EndpointLimits) validate() error {
	return errors.Join(
		atLeast("tunnels_per_identity", l.TunnelsPerIdentity, 1),
		atLeast("streams_per_tunnel", l.StreamsPerTunnel, 1),
		atLeast("opens_per_second", l.OpensPerSecond, 0),
		validateRate("rate", l.Rate),
		validateRate("stream_rate", l.StreamRate),
		atLeast("bytes_per_day", l.BytesPerDay, 0))
}

// leastRate is what a terminal needs, in bytes a second. Less is a unit that was
// forgotten.
const leastRate = 1 << 10

func validateRate(name string, v int64) error {
	if v != 0 && v < leastRate {
		return fmt.Errorf("limits %s: %d bytes a second are less than 1KiB; write a unit, such as %dMiB, or leave it out", name, v, max(v, 1))
	}
	return nil
}

// validate checks what can be said about the fields alone; rules and addresses
// are the policy's to judge.
func (e *Endpoint) validate() error {
	if err := validateBasePath(e.BasePath); err != nil {
		return err
	}
	for _, o := range e.Origin {
		if err := validateOrigin(o); err != nil {
			return err
		}
	}
	for i, d := range e.Dialects {
		if d != 1 && d != 2 || slices.Contains(e.Dialects[:i], d) {
			return fmt.Errorf("dialects: %d is not one of 1 and 2, each once", d)
		}
	}
	for name := range e.Target {
		if !tunnel.ValidTargetName(name) {
			return fmt.Errorf("target %q: a name is [a-z0-9][a-z0-9_.-]* and not socks5", name)
		}
	}
	if _, ok := e.Target[e.DefaultTarget]; e.DefaultTarget != "" && !ok {
		return fmt.Errorf("default_target %q is not a target of this endpoint", e.DefaultTarget)
	}
	if e.Dynamic != nil {
		for i, r := range e.Dynamic.Rules {
			if (r.Allow == "") == (r.Deny == "") {
				return fmt.Errorf("dynamic.rules[%d]: give either allow or deny", i)
			}
		}
	}
	if _, ok := readExpiry(e.Expires); constant(e.Expires) && !ok {
		return fmt.Errorf("expires %q is neither a placeholder, such as one of a token's exp, nor a time (seconds since 1970 or RFC 3339): nobody would be let in", e.Expires)
	}
	if !slices.Contains([]string{reloadKeep, reloadDrain, reloadCut}, e.OnReload) {
		return fmt.Errorf("on_reload %q is none of keep, drain and cut", e.OnReload)
	}
	if err := validateHealth(e.Health); err != nil {
		return err
	}
	if e.MaxAge < 0 {
		return errors.New("max_age must not be negative")
	}
	return e.Limits.validate()
}

func validateBasePath(p string) error {
	switch {
	case !strings.HasPrefix(p, "/"):
		return fmt.Errorf("base_path %q must begin with a slash", p)
	case p != "/" && strings.HasSuffix(p, "/"):
		return fmt.Errorf("base_path %q must not end with a slash", p)
	case strings.ContainsAny(p, "*?#{}% ") || strings.Contains(p, "//"):
		return fmt.Errorf("base_path %q is a plain path: no *, placeholder, query or escape", p)
	}
	return nil
}

func validateOrigin(o string) error {
	u, err := url.Parse(o)
	if err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" || u.Scheme+"://"+u.Host != o {
		return fmt.Errorf("origin %q is not of the form https://host[:port]", o)
	}
	return nil
}
