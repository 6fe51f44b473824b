package tunnel

import (
	"fmt"
	"math/rand/v2"
	"strings"
)

// traceparentLength is that of a traceparent of version 00, in bytes.
const traceparentLength = 2 + 1 + 32 + 1 + 16 + 1 + 2

// ValidTraceparent reports whether s is a traceparent (W3C Trace Context, version
// 00) that names a trace and a parent.
func ValidTraceparent(s string) bool {
	if len(s) != traceparentLength || s[:3] != "00-" || s[35] != '-' || s[52] != '-' {
		return false
	}
	trace, parent, flags := s[3:35], s[36:52], s[53:]
	const hex = "0123456789abcdef"
	return strings.Trim(trace+parent+flags, hex) == "" && strings.Trim(trace, "0") != "" && strings.Trim(parent, "0") != ""
}

// NewTraceparent returns one that begins a trace, not sampled: with it a stream is
// found in the logs of both sides.
func NewTraceparent() string {
	return fmt.Sprintf("00-%016x%016x-%016x-00", rand.Uint64()|1, rand.Uint64(), rand.Uint64()|1)
}
