package udp

import (
	"errors"

	"golang.org/x/sys/windows"
)

// ofPacket reports whether err tells of one packet and not of the socket: Windows
// fails a read when a packet is longer than the buffer, and when one that was
// sent earlier met a closed port. Strangers can cause both.
func ofPacket(err error) bool {
	return errors.Is(err, windows.WSAEMSGSIZE) || errors.Is(err, windows.WSAECONNRESET) || errors.Is(err, windows.WSAENETRESET)
}
