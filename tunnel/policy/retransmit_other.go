//go:build !linux

package policy

import (
	"syscall"
	"time"
)

// boundRetransmission: systems other than Linux keep their own limits.
func boundRetransmission(syscall.RawConn, time.Duration) error { return nil }
