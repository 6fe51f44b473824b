package culvert

import (
	"encoding/json"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/rewrite"
	"go.uber.org/zap"
)

// place is a list of routes on the way down to the endpoint that is being
// provisioned, and which of them leads there.
type place struct {
	routes caddyhttp.RouteList
	at     int
}

// placesOf returns the way to the endpoint that is being provisioned, from the
// server inwards. A handler is not told of the routes around it; but they are
// provisioned in order, so in each list the one with handlers that are not loaded
// yet is ours.
func placesOf(ctx caddy.Context) []place {
	server, ok := ctx.Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server)
	if !ok {
		return nil
	}
	lists := []caddyhttp.RouteList{server.Routes}
	for _, module := range ctx.Modules() {
		if sub, ok := module.(*caddyhttp.Subroute); ok {
			lists = append(lists, sub.Routes)
		}
	}
	var way []place
	for _, list := range lists {
		at := slices.IndexFunc(list, func(r caddyhttp.Route) bool { return len(r.HandlersRaw) > 0 && len(r.Handlers) == 0 })
		if at >= 0 {
			way = append(way, place{list, at})
		}
	}
	return way
}

// warnOfCuts tells at load when handle_path or `uri strip_prefix` around the
// endpoint leaves nothing for it: it goes by the path as clients write it, a
// matcher by what is left.
func (e *Endpoint) warnOfCuts(ctx caddy.Context) {
	warn := func(why, write string) {
		ctx.Logger().Warn("requests will miss the endpoint: "+why, zap.String("endpoint", e.Name), zap.String("base_path", e.BasePath), zap.String("write", write))
	}
	cut := ""
	for _, p := range placesOf(ctx) {
		cut += cutBy(p.routes[:p.at])
		for _, paths := range pathMatchers(p.routes[p.at]) {
			switch {
			case cut != "" && !slices.ContainsFunc(paths, func(s string) bool { return !below(s, cut) }):
				warn("a matcher inside of handle_path looks at the path that is left", "the directive without that matcher, and base_path")
			case cut == "" && slices.Contains(paths, e.BasePath+"/*") && !slices.ContainsFunc(paths, func(s string) bool { return matchesBase(s, e.BasePath) }):
				warn(e.BasePath+"/* does not match "+e.BasePath+", where offers are posted", e.BasePath+"*")
			}
		}
		cut += cutBesides(p.routes[p.at])
	}
	if cut != "" && !below(e.BasePath, cut) {
		warn("handle_path or uri strip_prefix cuts "+cut+" off, and base_path is the path before that", "base_path "+strings.TrimSuffix(cut+e.BasePath, "/"))
	}
}

// cutBy returns what routes in front cut off every path.
func cutBy(routes caddyhttp.RouteList) (cut string) {
	for _, r := range routes {
		if len(r.MatcherSets) > 0 {
			continue
		}
		for _, h := range r.Handlers {
			if rw, ok := h.(*rewrite.Rewrite); ok {
				cut += strings.TrimSuffix(rw.StripPathPrefix, "/")
			}
		}
	}
	return cut
}

// cutBesides returns what handlers of the endpoint's own route cut off in front
// of it. They are loaded together, so there is only what was configured.
func cutBesides(r caddyhttp.Route) (cut string) {
	for _, raw := range r.HandlersRaw {
		var h struct {
			Handler string `json:"handler"`
			Strip   string `json:"strip_path_prefix"`
		}
		if json.Unmarshal(raw, &h) != nil || h.Handler == appName || h.Handler == "subroute" {
			break
		}
		if h.Handler == "rewrite" {
			cut += strings.TrimSuffix(h.Strip, "/")
		}
	}
	return cut
}

// pathMatchers returns the paths of each of a route's matchers that has some.
func pathMatchers(r caddyhttp.Route) (list [][]string) {
	for _, set := range r.MatcherSets {
		for _, m := range set {
			if paths, ok := m.(*caddyhttp.MatchPath); ok {
				list = append(list, *paths)
			}
		}
	}
	return list
}

// below reports whether a path is cut or below it.
func below(path, cut string) bool { return path == cut+"*" || strings.HasPrefix(path+"/", cut+"/") }

// matchesBase reports whether a path of a matcher matches the base path itself.
func matchesBase(pattern, base string) bool {
	prefix, wide := strings.CutSuffix(pattern, "*")
	return pattern == base || wide && strings.HasPrefix(base, prefix)
}
