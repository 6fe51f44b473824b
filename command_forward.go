package culvert

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/culvertgate/culvert/tunnel"
)

// forward is a local address whose connections go to a target.
type forward struct {
	network string // tcp or unix
	address string
	target  tunnel.Target // of SOCKS: none
}

// parseForward reads LOCAL=TARGET: 2222=ssh, 0.0.0.0:5432=tcp/10.0.0.7:5432,
// unix//run/user/1000/db.sock=db.
func parseForward(s string) (forward, error) {
	local, name, ok := strings.Cut(s, "=")
	if !ok {
		return forward{}, fmt.Errorf("--forward %q: want LOCAL=TARGET, such as 2222=ssh", s)
	}
	f, err := parseLocal(local)
	if err != nil {
		return f, fmt.Errorf("--forward %q: %w", s, err)
	}
	f.target, err = parseCommandTarget(name)
	if err != nil {
		return f, fmt.Errorf("--forward %q: %w", s, err)
	}
	return f, nil
}

// parseLocal reads an address to listen on. A port alone is one of this machine
// only: what can be reached from elsewhere is written out.
func parseLocal(s string) (forward, error) {
	s = strings.TrimPrefix(s, "tcp/")
	if path, ok := strings.CutPrefix(s, "unix/"); ok {
		if path == "" {
			return forward{}, errors.New("unix/ needs a path, such as unix//run/user/1000/db.sock")
		}
		return forward{network: "unix", address: path}, nil
	}
	if _, err := strconv.ParseUint(s, 10, 16); err == nil {
		return forward{network: "tcp", address: "127.0.0.1:" + s}, nil
	}
	_, port, err := net.SplitHostPort(s)
	if err != nil {
		return forward{}, fmt.Errorf("%q is no address: want port, host:port or unix//path", s)
	}
	if _, err := strconv.ParseUint(port, 10, 16); err != nil {
		return forward{}, fmt.Errorf("%q: the port is a number from 0 to 65535", s)
	}
	return forward{network: "tcp", address: s}, nil
}

// parseCommandTarget reads a target as users type it.
func parseCommandTarget(s string) (tunnel.Target, error) {
	target, err := tunnel.ParseTarget(s)
	switch {
	case err != nil:
		return target, errors.New(strings.TrimPrefix(err.Error(), tunnel.CodeOf(err).String()+": "))
	case target.Kind == tunnel.KindUDP:
		return target, fmt.Errorf("%q: this command carries no UDP; a Caddy with an entry on a udp/ listener does", s)
	}
	return target, nil
}

// listen opens the address. A unix socket can be used by its owner only.
func (f forward) listen() (net.Listener, error) {
	if f.network != "unix" {
		l, err := net.Listen(f.network, f.address)
		if err != nil {
			return nil, fmt.Errorf("listening on %s: %w", f.address, err)
		}
		return l, nil
	}
	removeStaleSocket(f.address)
	restore := restrictUmask()
	defer restore()
	l, err := net.Listen("unix", f.address)
	if err != nil {
		return nil, fmt.Errorf("listening on unix/%s: %w", f.address, err)
	}
	if err := os.Chmod(f.address, 0o600); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

// removeStaleSocket removes a socket that nobody serves any more, and nothing
// else.
func removeStaleSocket(path string) {
	info, err := os.Lstat(path)
	if err != nil || info.Mode()&os.ModeSocket == 0 {
		return
	}
	conn, err := net.DialTimeout("unix", path, time.Second)
	if err == nil {
		_ = conn.Close() // served: listening will say that it is in use
		return
	}
	_ = os.Remove(path) // if it stays, listening says why
}

// beyondLoopback reports whether a listener can be reached from other machines.
func beyondLoopback(l net.Listener) bool {
	addr, ok := l.Addr().(*net.TCPAddr)
	return ok && !addr.IP.IsLoopback()
}
