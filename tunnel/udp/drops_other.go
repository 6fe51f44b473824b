//go:build !linux

package udp

import "net"

// kernelDrops tells nothing here.
func kernelDrops(*net.UDPConn) (n uint64, ok bool) { return 0, false }
