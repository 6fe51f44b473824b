//go:build !windows

package policy

import (
	"errors"
	"syscall"
)

// isRefused reports whether nobody listens at the address.
func isRefused(err error) bool { return errors.Is(err, syscall.ECONNREFUSED) }
