//go:build !windows

package udp

// ofPacket reports whether err tells of one packet and not of the socket. Only
// Windows has such errors: elsewhere a long packet is cut, and a socket that is
// not connected hears nothing of closed ports.
func ofPacket(error) bool { return false }
