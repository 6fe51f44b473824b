package signal

import (
	"net/http"
	"strings"
)

// Kind says what a request below the base path asks for; metrics and access
// lines name requests by it.
type Kind string

// The kinds of requests.
const (
	KindOffer     Kind = "offer"     // POST P
	KindRedirect  Kind = "redirect"  // GET P
	KindIndex     Kind = "index"     // GET P/
	KindTargets   Kind = "targets"   // GET P/targets
	KindPatch     Kind = "patch"     // PATCH P/s/<secret>
	KindDelete    Kind = "delete"    // DELETE P/s/<secret>
	KindExists    Kind = "exists"    // GET P/s/<secret>
	KindRenew     Kind = "renew"     // POST P/s/<secret>/renew
	KindStatus    Kind = "status"    // GET P/s/<secret>/status
	KindOptions   Kind = "options"   // OPTIONS of any resource
	KindPreflight Kind = "preflight" // OPTIONS sent by a browser before a cross-origin request
	KindUnknown   Kind = "unknown"   // no such resource, or not with this method
)

// resource is what a path below the base path leads to.
type resource int

const (
	resourceNone     resource = iota // below the base path, but nothing is there
	resourceEndpoint                 // P
	resourceIndex                    // P/
	resourceTargets                  // P/targets
	resourceSession                  // P/s/<secret>
	resourceRenew                    // P/s/<secret>/renew
	resourceStatus                   // P/s/<secret>/status
)

// methods lists what each resource answers, in the order of the Allow header.
// HEAD goes with GET: net/http leaves the body out.
var methods = map[resource][]struct {
	method string
	kind   Kind
}{
	resourceEndpoint: {{http.MethodPost, KindOffer}, {http.MethodGet, KindRedirect}, {http.MethodHead, KindRedirect}},
	resourceIndex:    {{http.MethodGet, KindIndex}, {http.MethodHead, KindIndex}},
	resourceTargets:  {{http.MethodGet, KindTargets}, {http.MethodHead, KindTargets}},
	resourceSession:  {{http.MethodPatch, KindPatch}, {http.MethodDelete, KindDelete}, {http.MethodGet, KindExists}, {http.MethodHead, KindExists}},
	resourceRenew:    {{http.MethodPost, KindRenew}},
	resourceStatus:   {{http.MethodGet, KindStatus}, {http.MethodHead, KindStatus}},
}

// maxSecret bounds what is looked up as a session's secret, in bytes.
const maxSecret = 128

// route is a request's path and method, understood.
type route struct {
	resource resource
	kind     Kind // KindUnknown: no such resource, or the method is not allowed
	secret   string
}

// cleanBase turns a base path as configured into the form that routes are cut
// by: "/" and "" are both the root of the site.
func cleanBase(base string) string { return strings.TrimRight(base, "/") }

// parseRoute finds what method and path mean below base. It returns false when
// the path is neither base nor below it: /tunnelfoo is not below /tunnel.
func parseRoute(base, method, path string) (route, bool) {
	base = cleanBase(base)
	rest, ok := strings.CutPrefix(path, base)
	if !ok || (rest != "" && rest[0] != '/') {
		return route{}, false
	}
	r := route{kind: KindUnknown}
	r.resource, r.secret = parseResource(rest)
	if base == "" && r.resource == resourceIndex && method == http.MethodPost {
		r.resource = resourceEndpoint // the root of a site has no path without a slash
	}
	if method == http.MethodOptions {
		r.kind = KindOptions
		return r, true
	}
	for _, m := range methods[r.resource] {
		if m.method == method {
			r.kind = m.kind
		}
	}
	return r, true
}

// parseResource understands the part of a path behind the base path.
func parseResource(rest string) (resource, string) {
	switch rest {
	case "":
		return resourceEndpoint, ""
	case "/":
		return resourceIndex, ""
	case "/targets":
		return resourceTargets, ""
	}
	rest, ok := strings.CutPrefix(rest, "/s/")
	if !ok {
		return resourceNone, ""
	}
	secret, sub, hasSub := strings.Cut(rest, "/")
	if secret == "" || len(secret) > maxSecret {
		return resourceNone, ""
	}
	switch {
	case !hasSub:
		return resourceSession, secret
	case sub == "renew":
		return resourceRenew, secret
	case sub == "status":
		return resourceStatus, secret
	}
	return resourceNone, ""
}

// allow returns the Allow header of a resource (RFC 9110 section 10.2.1).
func (r resource) allow() string {
	var names []string
	for _, m := range methods[r] {
		names = append(names, m.method)
	}
	return strings.Join(append(names, http.MethodOptions), ", ")
}
