package policy

import (
	"errors"
	"syscall"
)

// forbidBroadcast takes back what package net allows every UDP socket: the system
// then refuses to connect it to a broadcast address.
func forbidBroadcast(c syscall.RawConn) error {
	var optionErr error
	err := c.Control(func(fd uintptr) {
		optionErr = syscall.SetsockoptInt(syscall.Handle(fd), syscall.SOL_SOCKET, syscall.SO_BROADCAST, 0)
	})
	return errors.Join(err, optionErr)
}
