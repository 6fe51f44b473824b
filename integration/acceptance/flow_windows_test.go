package acceptance

import (
	"errors"
	"syscall"
)

// isReset tells the end of a connection that the other side cut.
func isReset(err error) bool { return errors.Is(err, syscall.WSAECONNRESET) }
