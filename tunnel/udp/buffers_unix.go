//go:build unix

package udp

import (
	"net"
	"runtime"

	"golang.org/x/sys/unix"
)

// bufferSizes reads the sizes back, 0 for one that cannot be read.
func bufferSizes(conn *net.UDPConn) (read, write int) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return 0, 0
	}
	_ = raw.Control(func(fd uintptr) {
		read, _ = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF)
		write, _ = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_SNDBUF)
	})
	if runtime.GOOS == "linux" {
		return read / 2, write / 2
	}
	return read, write
}
