//go:build unix

package culvert

import (
	"errors"
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// The descriptors that entries leave to others: an eighth of all, within these.
const (
	leastReserve = 16
	mostReserve  = 256
)

// descriptorsShort reports whether the process has few descriptors left, which
// entries must not take: layer4 gives a listener up for good when it can accept
// nothing for lack of them, and nobody is told. The system hands out the lowest
// number that is free (POSIX.1-2024, 2.6): so many are in use at least.
func descriptorsShort(conn net.Conn) bool {
	for inner := insideOf(conn); inner != nil; inner = insideOf(conn) {
		conn = inner
	}
	sc, ok := conn.(syscall.Conn)
	if !ok {
		return false
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return false
	}
	next, probeErr := 0, error(nil)
	if raw.Control(func(fd uintptr) {
		if next, probeErr = unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 0); probeErr == nil {
			_ = unix.Close(next) // a duplicate of what is open
		}
	}) != nil {
		return false
	}
	if probeErr != nil {
		return errors.Is(probeErr, unix.EMFILE)
	}
	var limit unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &limit) != nil {
		return false
	}
	most := uint64(limit.Cur) //nolint:unconvert // signed on FreeBSD
	return uint64(next)+min(max(most/8, leastReserve), mostReserve) >= most
}
