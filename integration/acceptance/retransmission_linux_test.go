package acceptance

import (
	"errors"
	"testing"

	"golang.org/x/sys/unix"
)

// tcpRTOMax is TCP_RTO_MAX_MS (include/uapi/linux/tcp.h), new in Linux 6.15.
const tcpRTOMax = 44

// needBoundedRetransmission skips a test whose bound older kernels cannot keep
// (docs/decisions/006).
func needBoundedRetransmission(t *testing.T) {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	check(t, err)
	_, unknown := unix.GetsockoptInt(fd, unix.IPPROTO_TCP, tcpRTOMax)
	check(t, unix.Close(fd))
	if errors.Is(unknown, unix.ENOPROTOOPT) {
		t.Skip("this kernel does not bound retransmission (TCP_RTO_MAX_MS); Linux 6.15 does")
	}
	check(t, unknown)
}
