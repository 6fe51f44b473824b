package culvert

import (
	"slices"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// hostOf returns the first host name of the site that the endpoint being
// provisioned belongs to, or "". A handler is not told of the routes around it;
// but they are provisioned in order, so in each list on the way down the one
// with handlers that are not loaded yet is ours.
func hostOf(ctx caddy.Context) string {
	server, ok := ctx.Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server)
	if !ok {
		return ""
	}
	lists := []caddyhttp.RouteList{server.Routes}
	for _, module := range ctx.Modules() {
		if sub, ok := module.(*caddyhttp.Subroute); ok {
			lists = append(lists, sub.Routes)
		}
	}
	host := ""
	for _, list := range lists {
		at := slices.IndexFunc(list, func(r caddyhttp.Route) bool { return len(r.HandlersRaw) > 0 && len(r.Handlers) == 0 })
		if at < 0 {
			continue
		}
		if h := hostMatcher(list[at]); h != "" {
			host = h // the innermost one says most
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
