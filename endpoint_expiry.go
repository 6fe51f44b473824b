package culvert

import (
	"strconv"
	"strings"
	"time"
)

// parseExpiry reads when a credential ends. What can't be read is over already,
// so that a mistake locks out instead of letting in.
func parseExpiry(s string) time.Time {
	if at, ok := readExpiry(s); ok {
		return at
	}
	return time.Unix(1, 0)
}

// readExpiry reads seconds since 1970 (as in a token's exp, RFC 7519 section
// 4.1.4), also with a fraction, or RFC 3339. Nothing means never.
func readExpiry(s string) (time.Time, bool) {
	s = strings.TrimSpace(s)
	if s == "" {
		return time.Time{}, true
	}
	if seconds, err := strconv.ParseFloat(s, 64); err == nil && seconds > 0 && seconds < 1<<40 {
		return time.Unix(int64(seconds), 0), true
	}
	at, err := time.Parse(time.RFC3339, s)
	return at, err == nil
}

// constant reports whether a text has no placeholder, so that it is the same for
// each request.
func constant(s string) bool { return !strings.Contains(s, "{") }
