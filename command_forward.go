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

// forward is a local address whose connections, or datagrams, go to a target.
type forward struct {
	network string // tcp, unix or udp
	address string
	target  tunnel.Target // of SOCKS: none
}

// datagrams reports whether it is one of datagrams: each address that sends has a
// flow.
func (f forward) datagrams() bool { return f.network == "udp" }

// parseForward reads LOCAL=TARGET: 2222=ssh, 0.0.0.0:5432=tcp/10.0.0.7:5432,
// unix//run/user/1000/db.sock=db, udp/127.0.0.1:5353=dns.
func parseForward(s string) (forward, error) {
	local, name, ok := strings.Cut(s, "=")
	if !ok {
		return forward{}, fmt.Errorf("--forward %q: want LOCAL=TARGET, such as 2222=ssh", s)
	}
	f, err := parseLocal(local)
	if err != nil {
		return f, fmt.Errorf("--forward %q: %w", s, err)
	}
	target, err := parseCommandTarget(name)
	if err != nil {
		return f, fmt.Errorf("--forward %q: %w", s, err)
	}
	if f, err = f.to(target); err != nil {
		return f, fmt.Errorf("--forward %q: %w", s, err)
	}
	return f, nil
}

// to leads the address to a target of its kind.
func (f forward) to(target tunnel.Target) (forward, error) {
	switch {
	case f.datagrams() && target.Kind == tunnel.KindTCP:
		return f, fmt.Errorf("%s takes no datagrams: leave udp/ out of the local address, or name a datagram target", target)
	case f.datagrams() && target.Host == "":
		return f, errors.New("datagrams need a target: give --target, also with a ticket")
	case f.datagrams():
		target = datagramsOf(target)
	case target.Datagrams():
		return f, fmt.Errorf("%s takes datagrams: write the local address as udp/127.0.0.1:PORT", target)
	}
	f.target = target
	return f, nil
}

// parseLocal reads an address to listen on. A port alone is one of this machine
// only: what can be reached from elsewhere is written out.
func parseLocal(s string) (forward, error) {
	network := "tcp"
	if rest, ok := strings.CutPrefix(s, "udp/"); ok {
		network, s = "udp", rest
	} else if path, ok := strings.CutPrefix(s, "unix/"); ok {
		if path == "" {
			return forward{}, errors.New("unix/ needs a path, such as unix//run/user/1000/db.sock")
		}
		return forward{network: "unix", address: path}, nil
	} else {
		s = strings.TrimPrefix(s, "tcp/")
	}
	if _, err := strconv.ParseUint(s, 10, 16); err == nil {
		return forward{network: network, address: "127.0.0.1:" + s}, nil
	}
	_, port, err := net.SplitHostPort(s)
	if err != nil {
		return forward{}, fmt.Errorf("%q is no address: want port, host:port, udp/host:port or unix//path", s)
	}
	if _, err := strconv.ParseUint(port, 10, 16); err != nil {
		return forward{}, fmt.Errorf("%q: the port is a number from 0 to 65535", s)
	}
	return forward{network: network, address: s}, nil
}

// parseCommandTarget reads a target as users type it.
func parseCommandTarget(s string) (tunnel.Target, error) {
	target, err := tunnel.ParseTarget(s)
	if err != nil {
		return target, errors.New(strings.TrimPrefix(err.Error(), tunnel.CodeOf(err).String()+": "))
	}
	return target, nil
}

// checkStreamTarget refuses a target where only streams are possible.
func checkStreamTarget(s string) error {
	target, err := parseCommandTarget(s)
	if err == nil && target.Datagrams() {
		return fmt.Errorf("%q takes datagrams, and this needs a stream: connect --forward udp/127.0.0.1:PORT=%s carries them", s, s)
	}
	return err
}

// listenUDP opens the address of one of datagrams.
func (f forward) listenUDP() (*net.UDPConn, error) {
	c, err := net.ListenPacket("udp", f.address)
	if err != nil {
		return nil, fmt.Errorf("listening on udp/%s: %w", f.address, err)
	}
	return c.(*net.UDPConn), nil
}

// listen opens the address of one of connections. A unix socket can be used by its owner only.
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

// beyondLoopback reports whether an address that is listened on can be reached from
// other machines.
func beyondLoopback(a net.Addr) bool {
	switch a := a.(type) {
	case *net.TCPAddr:
		return !a.IP.IsLoopback()
	case *net.UDPAddr:
		return !a.IP.IsLoopback()
	default:
		return false
	}
}
