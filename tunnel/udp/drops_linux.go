package udp

import (
	"net"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Places in what SO_MEMINFO tells (linux/sock_diag.h).
const (
	meminfoDrops = 8
	meminfoVars  = 9
)

// kernelDrops returns how many packets that were for the socket the kernel has
// dropped since it was opened (a 32-bit count there). ok is false where that
// cannot be read: before Linux 4.12, or when the socket is closed.
func kernelDrops(conn *net.UDPConn) (n uint64, ok bool) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return 0, false
	}
	var info [meminfoVars]uint32
	size := uint32(unsafe.Sizeof(info))
	err = raw.Control(func(fd uintptr) {
		_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, fd, unix.SOL_SOCKET, unix.SO_MEMINFO,
			uintptr(unsafe.Pointer(&info)), uintptr(unsafe.Pointer(&size)), 0) // x/sys has no typed call for this option
		ok = errno == 0 && size == uint32(unsafe.Sizeof(info))
	})
	return uint64(info[meminfoDrops]), ok && err == nil
}
