package policy

import (
	"errors"
	"net"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Dead targets are found by keep-alives and by a bound on retransmission.
// TCP_USER_TIMEOUT stays off, it would cut slow readers.
func TestTargetSocketOptions(t *testing.T) {
	l := listen(t)
	p := mustNew(t, Config{Targets: []NamedTarget{{Name: "a", Addresses: []string{"tcp/" + l.Addr().String()}}}})
	d := Dialer{Keepalive: 15 * time.Second}
	c, _, err := d.Dial(within(t, 5*time.Second), p, Subject{}, named("a"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for _, want := range []struct {
		what          string
		level, option int
		value         int
	}{
		{"TCP_NODELAY", unix.IPPROTO_TCP, unix.TCP_NODELAY, 1},
		{"SO_KEEPALIVE", unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1},
		{"TCP_KEEPIDLE", unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, 15},
		{"TCP_KEEPINTVL", unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, 5},
		{"TCP_KEEPCNT", unix.IPPROTO_TCP, unix.TCP_KEEPCNT, 3},
		{"TCP_USER_TIMEOUT", unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, 0},
	} {
		if got, err := option(t, c, want.level, want.option); err != nil || got != want.value {
			t.Errorf("%s is %d (%v), want %d", want.what, got, err, want.value)
		}
	}
	got, err := option(t, c, unix.IPPROTO_TCP, tcpRTOMax)
	if !errors.Is(err, syscall.ENOPROTOOPT) && got != 2000 { // kernels before 6.15 do not have it
		t.Errorf("TCP_RTO_MAX_MS is %d, %v", got, err)
	}
}

func option(t *testing.T, c net.Conn, level, option int) (value int, err error) {
	t.Helper()
	raw, rawErr := c.(syscall.Conn).SyscallConn()
	if rawErr == nil {
		rawErr = raw.Control(func(fd uintptr) { value, err = unix.GetsockoptInt(int(fd), level, option) })
	}
	if rawErr != nil {
		t.Fatal(rawErr)
	}
	return value, err
}
