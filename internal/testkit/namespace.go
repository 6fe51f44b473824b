package testkit

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

// Namespace is a network of its own: loopback, and a pair of Ethernet
// interfaces whose two ends are both inside, so that it has an address that is
// not loopback. Nothing gets in or out unless Connect joins it to another.
// Methods are safe for concurrent use unless they say otherwise.
type Namespace struct {
	name   string
	number uint32
	rules  atomic.Int32

	closing  sync.Once
	closeErr error
}

var namespaces atomic.Uint32

// OpenNamespace makes a network. It needs the ip and nft programs and the
// permission of root.
func OpenNamespace() (*Namespace, error) {
	number := namespaces.Add(1)
	if number > 0xff {
		return nil, errors.New("one process makes at most 255 network namespaces")
	}
	n := &Namespace{name: fmt.Sprintf("culvert-%d-%d", os.Getpid(), number), number: number}
	if err := run("ip", "netns", "add", n.name); err != nil {
		return nil, err
	}
	for _, args := range []string{
		"link set lo up",
		"link add ether0 type veth peer name ether1",
		// No link-local addresses: they would appear among ICE candidates a while
		// after the start and make tests differ.
		"link set ether0 addrgenmode none up",
		"link set ether1 addrgenmode none up",
		"addr add " + n.Addr().String() + "/24 dev ether0",
	} {
		if err := n.ip(args); err != nil {
			return nil, errors.Join(err, n.Close())
		}
	}
	return n, nil
}

// NewNamespace is OpenNamespace for a test, which is skipped where that is not
// permitted.
func NewNamespace(t testing.TB) *Namespace {
	t.Helper()
	NeedNamespaces(t)
	n, err := OpenNamespace()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	})
	return n
}

// Close removes the network's name; the network itself lives on until the last
// process and socket in it is gone.
func (n *Namespace) Close() error {
	n.closing.Do(func() { n.closeErr = run("ip", "netns", "delete", n.name) })
	return n.closeErr
}

// Name is the network's name for `ip netns exec`.
func (n *Namespace) Name() string { return n.name }

// Addr returns the network's own address that is not loopback.
func (n *Namespace) Addr() netip.Addr { return netip.AddrFrom4([4]byte{10, 203, byte(n.number), 1}) }

// AddAddress gives the network another address of its own.
func (n *Namespace) AddAddress(prefix netip.Prefix) error {
	return n.ip("addr add " + prefix.String() + " dev ether0")
}

// Connect joins two networks by a cable and returns the addresses of its ends:
// n's and the other's.
func (n *Namespace) Connect(other *Namespace) (here, there netip.Addr, err error) {
	here = netip.AddrFrom4([4]byte{10, 204, byte(n.number), byte(other.number)})
	there = netip.AddrFrom4([4]byte{10, 205, byte(n.number), byte(other.number)})
	mine, theirs := fmt.Sprintf("to%d", other.number), fmt.Sprintf("to%d", n.number)
	for _, step := range []struct {
		in   *Namespace
		args string
	}{
		{n, "link add " + mine + " type veth peer name " + theirs + " netns " + other.name},
		{n, "link set " + mine + " addrgenmode none up"},
		{other, "link set " + theirs + " addrgenmode none up"},
		{n, fmt.Sprintf("addr add %s peer %s dev %s", here, there, mine)},
		{other, fmt.Sprintf("addr add %s peer %s dev %s", there, here, theirs)},
	} {
		if err := step.in.ip(step.args); err != nil {
			return here, there, err
		}
	}
	return here, there, nil
}

// Connect6 gives both ends of the cable that Connect has laid an address of IPv6
// too, and returns the other's.
func (n *Namespace) Connect6(other *Namespace) (there netip.Addr, err error) {
	address := func(host byte) netip.Addr {
		return netip.AddrFrom16([16]byte{0: 0xfd, 1: 0xcb, 2: 0x20, 3: 0x61, 5: byte(n.number), 7: byte(other.number), 15: host})
	}
	there = address(2)
	return there, errors.Join(
		n.ip(fmt.Sprintf("addr add %s/64 dev to%d nodad", address(1), other.number)),
		other.ip(fmt.Sprintf("addr add %s/64 dev to%d nodad", there, n.number)))
}

// Command prepares a program that runs inside. Its process number is that of
// the program itself.
func (n *Namespace) Command(name string, args ...string) *exec.Cmd {
	ip, err := lookCommand("ip")
	if err != nil {
		ip = "ip" // Start reports that it is not there
	}
	return exec.Command(ip, append([]string{"netns", "exec", n.name, name}, args...)...)
}

// Do calls f with the calling thread inside the network. Sockets that f opens
// belong to the network and may be used anywhere; goroutines that f starts run
// outside, so names should be literals (a look-up may start some).
func (n *Namespace) Do(f func() error) error {
	runtime.LockOSThread()
	leave, err := enterNetwork("/run/netns/" + n.name)
	if err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("entering network %s: %w", n.name, err)
	}
	defer func() {
		// A thread that could not go back stays locked and ends with its goroutine.
		// Ending it always would be simpler, but the kernel kills the children that
		// a thread has started when it ends (dieWithParent).
		if leave() == nil {
			runtime.UnlockOSThread()
		}
	}()
	return f()
}

// Listen opens a listener inside.
func (n *Namespace) Listen(network, address string) (l net.Listener, err error) {
	err = n.Do(func() error {
		l, err = net.Listen(network, address)
		return err
	})
	return l, err
}

// ListenPacket opens a packet socket inside.
func (n *Namespace) ListenPacket(network, address string) (c net.PacketConn, err error) {
	err = n.Do(func() error {
		c, err = net.ListenPacket(network, address)
		return err
	})
	return c, err
}

// DialContext connects from inside; address is literal.
func (n *Namespace) DialContext(ctx context.Context, network, address string) (c net.Conn, err error) {
	err = n.Do(func() error {
		var d net.Dialer
		c, err = d.DialContext(ctx, network, address)
		return err
	})
	return c, err
}

// HTTPClient returns a client whose requests come from inside, each over a
// connection of its own so that none stays open.
func (n *Namespace) HTTPClient() *http.Client {
	return &http.Client{Transport: &http.Transport{DialContext: n.DialContext, DisableKeepAlives: true}}
}

func (n *Namespace) ip(args string) error {
	return run("ip", append([]string{"-n", n.name}, strings.Fields(args)...)...)
}

// run runs a program to its end and puts what it printed into the error.
func run(name string, args ...string) error {
	path, err := lookCommand(name)
	if err != nil {
		return err
	}
	if out, err := exec.Command(path, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}
