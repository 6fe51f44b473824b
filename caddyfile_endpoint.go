package culvert

import (
	"encoding/json"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
)

// parseDirective reads the directive webrtc_tunnel. It is a plain directive and
// not a handler directive, because base_path is derived from the matcher.
func parseDirective(h httpcaddyfile.Helper) ([]httpcaddyfile.ConfigValue, error) {
	h.Next() // the directive's name
	inline := h.NextArg() && strings.HasPrefix(h.Val(), "/")
	h.Reset()
	h.Next()
	matcher, err := h.ExtractMatcherSet()
	if err != nil {
		return nil, err
	}
	e := new(Endpoint)
	if err := e.UnmarshalCaddyfile(h.Dispenser); err != nil {
		return nil, err
	}
	if e.BasePath == "" {
		base, ok := basePathOf(matcher)
		if !ok {
			return nil, h.Errf("webrtc_tunnel: the base path can't be told from this matcher, write base_path")
		}
		e.BasePath = base
	}
	if err := validateBasePath(e.BasePath); err != nil {
		return nil, h.WrapErr(err)
	}
	if inline && e.BasePath != "/" {
		// /tunnel, /tunnel* and /tunnel/* all mean the same endpoint.
		matcher = caddy.ModuleMap{"path": h.JSON([]string{e.BasePath, e.BasePath + "/*"})}
	}
	return h.NewRoute(matcher, e), nil
}

// basePathOf derives the base path from a matcher: its only path, / if it has
// none at all.
func basePathOf(matcher caddy.ModuleMap) (string, bool) {
	raw, ok := matcher["path"]
	if !ok {
		return "/", true
	}
	var paths []string
	if err := json.Unmarshal(raw, &paths); err != nil || len(paths) != 1 {
		return "", false
	}
	base := strings.TrimSuffix(strings.TrimSuffix(paths[0], "*"), "/")
	if base == "" {
		base = "/"
	}
	return base, true
}

// UnmarshalCaddyfile reads the endpoint's options. Syntax:
//
//	webrtc_tunnel [<matcher>] {
//		name <name>
//		base_path <path>
//		identity <placeholder>
//		allow_anonymous
//		groups <placeholder>
//		max_age <duration>
//		expires <placeholder>
//		origin <origin...>
//		allow_http
//		dialects <1|2...>
//		target <name> <address...> {
//			users <name...>
//			groups <name...>
//			title <text>
//			app <name>
//			proxy_protocol v1|v2
//			breaker off
//		}
//		dynamic {
//			allow <rule> [private] {
//				users <name...>
//				groups <name...>
//			}
//			deny <rule> {
//				users <name...>
//				groups <name...>
//			}
//			resolver <address>
//		}
//		expose {
//			allow <service...> {
//				users <name...>
//				groups <name...>
//				reachable_by <name...>
//				reachable_by_groups <name...>
//			}
//		}
//		tickets {
//			key <placeholder>
//		}
//		on_reload keep|drain|cut
//		health <path>
//		default_target <name>
//		limits {
//			tunnels_per_identity <n>
//			streams_per_tunnel <n>
//			opens_per_second <n>
//			rate <size>
//			stream_rate <size>
//			bytes_per_day <size>
//		}
//	}
func (e *Endpoint) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // the directive's name
	if d.NextArg() {
		return d.ArgErr()
	}
	limits := new(EndpointLimits)
	err := readBlock(d, "webrtc_tunnel", map[string]option{
		"name":            one(&e.Name),
		"base_path":       one(&e.BasePath),
		"identity":        one(&e.Identity),
		"allow_anonymous": flag(&e.AllowAnonymous),
		"groups":          one(&e.Groups),
		"max_age":         duration(&e.MaxAge, false),
		"expires":         one(&e.Expires),
		"origin":          repeated(&e.Origin),
		"allow_http":      flag(&e.AllowHTTP),
		"dialects":        {read: e.readDialects},
		"target":          {read: e.readTarget, repeatable: true},
		"dynamic":         {read: e.readDynamic},
		"expose":          {read: e.readExpose},
		"tickets": {read: func(d *caddyfile.Dispenser) error {
			if d.NextArg() {
				return d.ArgErr()
			}
			e.Tickets = new(Tickets)
			return readBlock(d, "tickets", map[string]option{"key": one(&e.Tickets.Key)})
		}},
		"on_reload":      one(&e.OnReload),
		"health":         one(&e.Health),
		"default_target": one(&e.DefaultTarget),
		"limits": block("limits", map[string]option{
			"tunnels_per_identity": number(&limits.TunnelsPerIdentity),
			"streams_per_tunnel":   number(&limits.StreamsPerTunnel),
			"opens_per_second":     number(&limits.OpensPerSecond),
			"rate":                 size(&limits.Rate),
			"stream_rate":          size(&limits.StreamRate),
			"bytes_per_day":        size(&limits.BytesPerDay),
		}),
	})
	if *limits != (EndpointLimits{}) {
		e.Limits = limits
	}
	return err
}

func (e *Endpoint) readDialects(d *caddyfile.Dispenser) error {
	args := d.RemainingArgs()
	if len(args) == 0 {
		return d.ArgErr()
	}
	for _, arg := range args {
		n, err := strconv.Atoi(arg)
		if err != nil || n != 1 && n != 2 {
			return d.Errf("dialect %q is neither 1 nor 2", arg)
		}
		e.Dialects = append(e.Dialects, n)
	}
	return nil
}

func (e *Endpoint) readTarget(d *caddyfile.Dispenser) error {
	args := d.RemainingArgs()
	if len(args) < 2 {
		return d.ArgErr()
	}
	name := args[0]
	if _, ok := e.Target[name]; ok {
		return d.Errf("duplicate target %q", name)
	}
	if e.Target == nil {
		e.Target = map[string]*Target{}
	}
	t := &Target{Addresses: args[1:], Position: position(d)}
	e.Target[name] = t
	return readBlock(d, "target", map[string]option{
		"users":  many(&t.Users),
		"groups": many(&t.Groups),
		"title":  one(&t.Title),
		"app":    one(&t.App),

		"proxy_protocol": one(&t.ProxyProtocol),
		"breaker":        one(&t.Breaker),
	})
}

func (e *Endpoint) readDynamic(d *caddyfile.Dispenser) error {
	if d.NextArg() {
		return d.ArgErr()
	}
	e.Dynamic = new(Dynamic)
	return readBlock(d, "dynamic", map[string]option{
		"allow":    {read: e.Dynamic.readRule, repeatable: true},
		"deny":     {read: e.Dynamic.readRule, repeatable: true},
		"resolver": one(&e.Dynamic.Resolver),
	})
}

func (e *Endpoint) readExpose(d *caddyfile.Dispenser) error {
	if d.NextArg() {
		return d.ArgErr()
	}
	e.Expose = new(Expose)
	return readBlock(d, "expose", map[string]option{
		"allow": {repeatable: true, read: func(d *caddyfile.Dispenser) error {
			r := &ExposeRule{Position: position(d), Allow: d.RemainingArgs()}
			if len(r.Allow) == 0 || slices.Contains(r.Allow, "") {
				return d.ArgErr()
			}
			e.Expose.Rules = append(e.Expose.Rules, r)
			return readBlock(d, "allow", map[string]option{
				"users":               many(&r.Users),
				"groups":              many(&r.Groups),
				"reachable_by":        many(&r.ReachableBy),
				"reachable_by_groups": many(&r.ReachableByGroups),
			})
		}},
	})
}

// position is kept with targets and rules, because explain and refusals in the
// log show it.
func position(d *caddyfile.Dispenser) string {
	return filepath.Base(d.File()) + ":" + strconv.Itoa(d.Line())
}

// readRule reads an allow or deny line.
func (y *Dynamic) readRule(d *caddyfile.Dispenser) error {
	r := &Rule{Position: position(d)}
	verb, args := d.Val(), d.RemainingArgs()
	switch {
	case len(args) == 0 || args[0] == "":
		return d.ArgErr()
	case verb == "deny" && len(args) == 1:
		r.Deny = args[0]
	case verb == "allow" && len(args) == 1:
		r.Allow = args[0]
	case verb == "allow" && len(args) == 2 && args[1] == "private":
		r.Allow, r.Private = args[0], true
	default:
		return d.ArgErr()
	}
	y.Rules = append(y.Rules, r)
	return readBlock(d, verb, map[string]option{
		"users":  many(&r.Users),
		"groups": many(&r.Groups),
	})
}

var (
	_ caddyfile.Unmarshaler = (*App)(nil)
	_ caddyfile.Unmarshaler = (*Endpoint)(nil)
	_ caddyfile.Unmarshaler = (*Entry)(nil)
)
