package testkit

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
)

// The ports that tests choose from. A port that the kernel chooses may be taken
// again before the process that it is for has bound it: by the kernel for any
// outgoing connection, or by another test process, which would not even be an
// error, because Caddy's listeners share a port (SO_REUSEPORT). Below the
// kernel's own range (ip_local_port_range begins at 32768) only we choose, and
// what one test process has chosen is its own until it ends.
const (
	firstPort = 20_000
	lastPort  = 31_999
)

// FreeTCP returns a loopback address whose TCP port is free. No other test of
// this machine is given it until this process ends.
func FreeTCP(t testing.TB) string {
	t.Helper()
	address, err := freeTCP()
	if err != nil {
		t.Fatal(err)
	}
	return address
}

// FreeUDP is FreeTCP for a UDP port.
func FreeUDP(t testing.TB) string {
	t.Helper()
	address, err := choosePort(func(address string) error {
		c, err := net.ListenPacket("udp", address)
		if err != nil {
			return err
		}
		return c.Close()
	})
	if err != nil {
		t.Fatal(err)
	}
	return address
}

func freeTCP() (string, error) {
	return choosePort(func(address string) error {
		l, err := net.Listen("tcp", address)
		if err != nil {
			return err
		}
		return l.Close()
	})
}

// choosePort returns an address of the loopback interface that try can bind.
func choosePort(try func(address string) error) (string, error) {
	var last error
	for range 100 {
		port := firstPort + rand.IntN(lastPort-firstPort+1)
		ours, err := ports.reserve(port)
		if err != nil {
			return "", fmt.Errorf("reserving a port: %w", err)
		}
		if !ours {
			continue
		}
		address := net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
		if last = try(address); last == nil {
			return address, nil
		}
	}
	return "", errors.Join(errors.New("no free port on 127.0.0.1 in a hundred tries"), last)
}

// reservations are the ports of this process. Others see them as locks of a
// file, one byte for each port, which go with the process.
type reservations struct {
	mu   sync.Mutex
	file *os.File     // guarded by mu
	own  map[int]bool // guarded by mu
}

var ports = reservations{own: map[int]bool{}}

// reserve reports false when the port has been given out before, here or by
// another process of the same user.
func (r *reservations) reserve(port int) (bool, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.own[port] {
		return false, nil
	}
	if r.file == nil {
		name := filepath.Join(os.TempDir(), fmt.Sprintf("culvert-test-ports-%d", os.Getuid()))
		file, err := os.OpenFile(name, os.O_CREATE|os.O_RDWR, 0o600)
		if err != nil {
			return false, err
		}
		r.file = file
	}
	ours, err := lockByte(r.file, int64(port))
	if ours {
		r.own[port] = true
	}
	return ours, err
}
