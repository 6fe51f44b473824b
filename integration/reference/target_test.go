package reference

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/culvertgate/culvert/internal/testkit"
)

// patience is how long one step may take before a test gives up.
const patience = 30 * time.Second

func loopback(port int) string {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), uint16(port)).String()
}

// serve gives every connection to a port of a namespace to handle, until the
// test ends.
func serve(t testing.TB, n *testkit.Namespace, port int, handle func(*net.TCPConn)) {
	t.Helper()
	serveAt(t, n, loopback(port), handle)
}

func serveAt(t testing.TB, n *testkit.Namespace, address string, handle func(*net.TCPConn)) {
	t.Helper()
	l := must[net.Listener](t)(n.Listen("tcp", address))
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return // closed below
			}
			wg.Go(func() { handle(c.(*net.TCPConn)) })
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		wg.Wait()
	})
}

// serveEcho sends everything back, and the end behind it.
func serveEcho(t testing.TB, n *testkit.Namespace, port int) {
	t.Helper()
	serve(t, n, port, func(c *net.TCPConn) {
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(patience))
		if _, err := io.Copy(c, c); err == nil { // else the other end is told by the reset
			_ = c.CloseWrite()
		}
	})
}

// serveWord says a word to everybody and ends.
func serveWord(t testing.TB, n *testkit.Namespace, port int, word string) {
	t.Helper()
	serve(t, n, port, say(word))
}

func say(word string) func(*net.TCPConn) {
	return func(c *net.TCPConn) {
		_, _ = io.WriteString(c, word) // the test misses it if that fails
		_ = c.Close()
	}
}

// target is a server whose connections the test itself holds.
type target struct{ arrived chan *net.TCPConn }

func startTarget(t testing.TB, n *testkit.Namespace, port int) *target {
	t.Helper()
	g := &target{arrived: make(chan *net.TCPConn, 16)}
	serve(t, n, port, func(c *net.TCPConn) { g.arrived <- c })
	return g
}

// stream is a connection through a tunnel, with both its ends in this process.
type stream struct {
	near *net.TCPConn // the opener's
	far  *net.TCPConn // the target's
}

// open makes a stream by an entry that leads to the target. It is closed at the
// end of the test.
func (g *target) open(t testing.TB, n *testkit.Namespace, entry string) stream {
	t.Helper()
	s := stream{near: dial(t, n, entry)}
	select {
	case s.far = <-g.arrived:
	case <-time.After(patience):
		t.Fatal("a stream does not reach its target")
	}
	check(t, s.far.SetDeadline(time.Now().Add(patience)))
	t.Cleanup(func() { _ = s.far.Close() }) // again: the test may have closed it
	// A target takes a connection before its gateway knows; after an answer both
	// sides do.
	check(t, greet(s.near, s.far), greet(s.far, s.near))
	return s
}

func greet(from, to *net.TCPConn) error {
	if _, err := from.Write([]byte{'!'}); err != nil {
		return err
	}
	_, err := io.ReadFull(to, make([]byte, 1))
	return err
}

// dial connects from inside a namespace. The connection is closed at the end of
// the test.
func dial(t testing.TB, n *testkit.Namespace, address string) *net.TCPConn {
	t.Helper()
	c := must[*net.TCPConn](t)(tryDial(n, address))
	t.Cleanup(func() { _ = c.Close() }) // again: the test may have closed it
	return c
}

func tryDial(n *testkit.Namespace, address string) (*net.TCPConn, error) {
	var c net.Conn
	err := n.Do(func() (err error) {
		c, err = net.DialTimeout("tcp", address, patience)
		return err
	})
	if err != nil {
		return nil, err
	}
	return c.(*net.TCPConn), c.SetDeadline(time.Now().Add(patience))
}

// reset closes a connection with RST.
func reset(c *net.TCPConn) error { return errors.Join(c.SetLinger(0), c.Close()) }
