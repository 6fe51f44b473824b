package culvert

import (
	"strconv"
	"strings"
	"time"
)

// parseExpiry reads when a credential ends: seconds since 1970 (as in a token's
// exp, RFC 7519 section 4.1.4), also with a fraction, or RFC 3339. Nothing means
// never; what can't be read is over already, so that a mistake locks out
// instead of letting in.
func parseExpiry(s string) time.Time {
	s = strings.TrimSpace(s)
	if s == "" {
		return time.Time{}
	}
	if seconds, err := strconv.ParseFloat(s, 64); err == nil && seconds > 0 && seconds < 1<<40 {
		return time.Unix(int64(seconds), 0)
	}
	if at, err := time.Parse(time.RFC3339, s); err == nil {
		return at
	}
	return time.Unix(1, 0)
}
