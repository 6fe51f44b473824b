package culvert

import (
	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// hostOf returns the first host name of the site that the endpoint being
// provisioned belongs to, or "". The innermost one says most.
func hostOf(ctx caddy.Context) string {
	host := ""
	for _, p := range placesOf(ctx) {
		if h := hostMatcher(p.routes[p.at]); h != "" {
			host = h
		}
	}
	return host
}

func hostMatcher(r caddyhttp.Route) string {
	for _, set := range r.MatcherSets {
		for _, m := range set {
			if hosts, ok := m.(*caddyhttp.MatchHost); ok && len(*hosts) > 0 {
				return (*hosts)[0]
			}
		}
	}
	return ""
}
