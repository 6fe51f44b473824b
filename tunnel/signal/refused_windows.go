package signal

import (
	"errors"

	"golang.org/x/sys/windows"
)

// isRefused reports whether nobody listens at the address.
func isRefused(err error) bool { return errors.Is(err, windows.WSAECONNREFUSED) }

// isReset reports whether the other side has broken the connection off.
func isReset(err error) bool {
	return errors.Is(err, windows.WSAECONNRESET) || errors.Is(err, windows.WSAECONNABORTED)
}
