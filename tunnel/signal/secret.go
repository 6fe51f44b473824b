package signal

import (
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"strings"
)

// secretBytes is the randomness of a session's secret: 192 bits, of which
// security.md asks 128.
const secretBytes = 24

// NewSecret returns a new secret for a session's URL: base64url without
// padding. It is not the public id and must not be logged.
func NewSecret() string { return random(secretBytes) }

// NewETag returns a new strong entity tag, quotes included. It names an ICE
// session (RFC 9725 section 4.3.1) and tells nothing about it.
func NewETag() string { return `"` + random(12) + `"` }

func random(n int) string {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails (crypto/rand documents it)
	return base64.RawURLEncoding.EncodeToString(b)
}

// SecretEqual compares two secrets in a time that does not depend on where they
// differ. Look-ups in a map by the secret itself are not such a comparison: key
// the map by something else (a hash), then call this.
func SecretEqual(a, b string) bool {
	return subtle.ConstantTimeCompare([]byte(a), []byte(b)) == 1
}

// Any reports whether the condition is "*".
func (m Match) Any() bool { return strings.TrimSpace(string(m)) == "*" }

// Holds reports whether the condition holds for the current entity tag, by
// strong comparison: a weak tag (W/"…") never matches.
func (m Match) Holds(etag string) bool {
	if etag == "" {
		return false
	}
	if m.Any() {
		return true
	}
	for tag := range strings.SplitSeq(string(m), ",") {
		if strings.TrimSpace(tag) == etag {
			return true
		}
	}
	return false
}
