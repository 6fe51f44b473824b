//go:build unix

package culvert

import (
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// The descriptors that entries leave to others: an eighth of all, within these.
const (
	leastReserve = 16
	mostReserve  = 256
)

// descriptorsShort reports whether conn has got one of the last descriptors of the
// process, which entries must not take: layer4 gives a listener up for good when it
// can accept nothing for lack of them, and nobody is told. The system hands out the
// lowest number that is free (POSIX.1-2024, 2.6), so the number says how many are
// in use at least.
func descriptorsShort(conn net.Conn) bool {
	for {
		inner, ok := conn.(interface{ NetConn() net.Conn })
		if !ok {
			break
		}
		conn = inner.NetConn()
	}
	sc, ok := conn.(syscall.Conn)
	if !ok {
		return false
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return false
	}
	number := uint64(0)
	if raw.Control(func(fd uintptr) { number = uint64(fd) }) != nil {
		return false
	}
	var limit unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &limit) != nil {
		return false
	}
	most := uint64(limit.Cur) //nolint:unconvert // signed on FreeBSD
	return number+min(max(most/8, leastReserve), mostReserve) >= most
}
