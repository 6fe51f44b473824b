package signal

import (
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"

	"github.com/culvertgate/culvert/framecodec"
	"github.com/culvertgate/culvert/tunnel"
)

// origin is a web origin in normal form: lower case, default port left out
// (RFC 6454 section 6.2). Only http and https have one here.
type origin struct {
	scheme string
	host   string // with port, unless that is the scheme's own
}

// parseOrigin checks an origin as configured or sent, such as
// https://app.example.com, and returns its normal form. A path, a wildcard and
// the opaque origin "null" are errors.
func parseOrigin(s string) (origin, error) {
	u, err := url.Parse(s)
	switch {
	case err != nil, u.Host == "", u.Hostname() == "", strings.Contains(s, "*"):
		return origin{}, fmt.Errorf("origin %q: want scheme://host[:port], such as https://app.example.com", s)
	case u.Scheme != "https" && u.Scheme != "http":
		return origin{}, fmt.Errorf("origin %q: the scheme must be https or http", s)
	case u.Path != "", u.RawQuery != "", u.Fragment != "", u.User != nil, u.ForceQuery:
		return origin{}, fmt.Errorf("origin %q: an origin has no user, path or query", s)
	}
	return originOf(u.Scheme, u.Host), nil
}

// originOf normalises a scheme and the host with port of a URL or Host header.
func originOf(scheme, host string) origin {
	host = strings.ToLower(host)
	if name, port, err := net.SplitHostPort(host); err == nil {
		if (scheme == "https" && port == "443") || (scheme == "http" && port == "80") || port == "" {
			host = name
			if strings.Contains(name, ":") {
				host = "[" + name + "]"
			}
		}
	}
	return origin{scheme, host}
}

// String returns the serialised origin.
func (o origin) String() string { return o.scheme + "://" + o.host }

// hostname returns the host without port and brackets.
func (o origin) hostname() string {
	name, _, err := net.SplitHostPort(o.host)
	if err != nil {
		name = o.host
	}
	return strings.Trim(name, "[]")
}

// isLoopbackName reports whether a host name can only mean this machine, so
// that no DNS answer (rebinding) makes it another site's.
func isLoopbackName(host string) bool {
	if strings.EqualFold(host, "localhost") {
		return true
	}
	addr, err := netip.ParseAddr(strings.Trim(host, "[]"))
	return err == nil && addr.IsLoopback()
}

// checkOrigin applies the rules for browser requests (security.md, "Who may do
// what" 4). It returns the origin to answer CORS for: empty when the request is
// not cross-origin.
func (e *Endpoint) checkOrigin(r *http.Request, c Caller) (string, error) {
	sent := r.Header.Values("Origin")
	if len(sent) == 0 {
		if strings.EqualFold(r.Header.Get("Sec-Fetch-Site"), "cross-site") {
			return "", forbiddenOrigin("a request from another site must carry its origin")
		}
		return "", nil
	}
	if len(sent) > 1 || sent[0] == "null" {
		return "", forbiddenOrigin("an opaque origin is never admitted")
	}
	from, err := parseOrigin(sent[0])
	if err != nil {
		return "", forbiddenOrigin("the Origin header is malformed")
	}
	if e.origins[from] {
		return sent[0], nil
	}
	if isOwn(from, r.Host, c.TLSServerName) {
		return "", nil
	}
	return "", forbiddenOrigin("this origin is not listed at the gateway (option origin)")
}

// isOwn reports whether a request comes from a page of the site it goes to, and
// whether that may be believed: a Host header alone can be rebound by DNS, so it
// takes a TLS server name or the name of this machine.
func isOwn(from origin, host, serverName string) bool {
	if from != originOf(from.scheme, host) {
		return false
	}
	if isLoopbackName(from.hostname()) {
		return true
	}
	return from.scheme == "https" && serverName != "" && strings.EqualFold(from.hostname(), serverName)
}

func forbiddenOrigin(text string) error {
	return &tunnel.Error{Code: framecodec.CodeForbiddenOrigin, Text: text}
}
