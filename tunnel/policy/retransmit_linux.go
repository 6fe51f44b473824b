package policy

import (
	"syscall"
	"time"
)

// tcpRTOMax is TCP_RTO_MAX_MS (include/uapi/linux/tcp.h, Linux 6.15).
const tcpRTOMax = 44

// Limits of the option, and the retransmissions after which Linux gives up
// (net.ipv4.tcp_retries2).
const (
	minRTOMax = time.Second
	maxRTOMax = 120 * time.Second
	retries   = 15
)

// boundRetransmission has the kernel give up a target that acknowledges nothing
// after about twice keepalive instead of 15 minutes. Keep-alives do not run
// while data is on the way. TCP_USER_TIMEOUT would do it too, but also ends a
// healthy connection whose reader has closed its window for that long (measured
// on 6.18: 3.5 s at 3 s), and nobody is cut for reading slowly. The cap on the
// retransmission time-out has no such effect, since answered window probes do
// not count. Older kernels do not know the option and keep their 15 minutes.
func boundRetransmission(c syscall.RawConn, keepalive time.Duration) error {
	if keepalive <= 0 {
		return nil
	}
	limit := min(max(2*keepalive/retries, minRTOMax), maxRTOMax)
	return c.Control(func(fd uintptr) {
		_ = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, tcpRTOMax, int(limit.Milliseconds()))
	})
}
