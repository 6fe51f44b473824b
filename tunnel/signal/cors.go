package signal

import (
	"net/http"
	"strings"
)

// ExpiresHeader tells, on the 201 and on the answer to renew, how many seconds
// the identity's time still lasts; absent: it does not end. (RFC 9725 leaves a
// session limit to a header of the server's own.)
const ExpiresHeader = "Culvert-Expires-In"

const (
	corsMethods = "POST, PATCH, DELETE, GET, OPTIONS"
	corsExpose  = "Location, Link, ETag, Retry-After, " + ExpiresHeader
	corsHeaders = "Authorization, Content-Type, If-Match, Traceparent"
	corsMaxAge  = "600" // seconds a browser may remember a preflight

	// maxRequestedHeaders bounds what is echoed from a preflight, in bytes.
	maxRequestedHeaders = 1 << 10
)

// setCORS admits a listed origin. It is set on errors too: a page must be able
// to read why.
func setCORS(h http.Header, allowed string) {
	h.Add("Vary", "Origin")
	if allowed == "" {
		return
	}
	h.Set("Access-Control-Allow-Origin", allowed)
	h.Set("Access-Control-Allow-Credentials", "true")
	h.Set("Access-Control-Expose-Headers", corsExpose)
}

// isPreflight reports whether an OPTIONS request is a browser's question before
// a cross-origin request (Fetch standard, CORS-preflight fetch). It carries no
// credentials and gets none.
func isPreflight(r *http.Request) bool {
	return r.Method == http.MethodOptions && r.Header.Get("Origin") != "" &&
		r.Header.Get("Access-Control-Request-Method") != ""
}

// setPreflight answers what the page may send. With credentials "*" is not
// allowed, so the headers that a listed origin asks for are named back to it.
func setPreflight(h http.Header, r *http.Request, allowed string) {
	if allowed == "" {
		return
	}
	headers := corsHeaders
	if asked := r.Header.Get("Access-Control-Request-Headers"); asked != "" && len(asked) <= maxRequestedHeaders && isTokenList(asked) {
		headers += ", " + asked
	}
	h.Add("Vary", "Access-Control-Request-Headers")
	h.Set("Access-Control-Allow-Methods", corsMethods)
	h.Set("Access-Control-Allow-Headers", headers)
	h.Set("Access-Control-Max-Age", corsMaxAge)
}

// isTokenList reports whether s is a list of header names (RFC 9110 section
// 5.6.2) and nothing that could end the header.
func isTokenList(s string) bool {
	return strings.IndexFunc(s, func(r rune) bool {
		return !strings.ContainsRune("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.!#$%&'*+^`|~, \t", r)
	}) < 0
}
