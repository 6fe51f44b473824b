package reactor

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/culvertgate/culvert/tunnel"
)

// patience bounds every wait: what it cuts is a lost wake-up or a hang.
const patience = 20 * time.Second

var errLost = errors.New("no wake-up came")

// stream does with an Endpoint what a session does, and no more: it calls
// TryRead and TryWrite again only after it was told to.
type stream struct {
	ep                 tunnel.Endpoint
	readable, writable chan struct{}
	empty, full        bool
}

func newStream(ep tunnel.Endpoint) *stream {
	s := &stream{
		ep: ep, readable: make(chan struct{}, 1), writable: make(chan struct{}, 1),
		empty: true, // the first bytes are told after Bind
	}
	ep.Bind(s)
	return s
}

func (s *stream) Readable() { signal(s.readable) }
func (s *stream) Writable() { signal(s.writable) }

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

func await(c <-chan struct{}) error {
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-c:
		return nil
	case <-timer.C:
		return errLost
	}
}

func (s *stream) Read(p []byte) (int, error) {
	for {
		if s.empty {
			if err := await(s.readable); err != nil {
				return 0, err
			}
			s.empty = false
		}
		n, err := s.ep.TryRead(p)
		s.empty = n < len(p)
		if errors.Is(err, tunnel.ErrWouldBlock) {
			if n != 0 {
				return n, fmt.Errorf("ErrWouldBlock with %d bytes", n)
			}
			continue
		}
		return n, err
	}
}

func (s *stream) Write(p []byte) (int, error) {
	written := 0
	for written < len(p) {
		if s.full {
			if err := await(s.writable); err != nil {
				return written, err
			}
		}
		n, err := s.ep.TryWrite(p[written:])
		written += n
		s.full = written < len(p)
		if err != nil && !errors.Is(err, tunnel.ErrWouldBlock) {
			return written, err
		}
	}
	return written, nil
}

// kind is a sort of connection that the whole suite runs over.
type kind struct {
	name  string
	pair  func(t *testing.T) (ours, theirs net.Conn)
	epoll bool // taken over at the descriptor, on Linux
	half  bool // can end one direction
	rst   bool // an abrupt end reaches the other side as ECONNRESET
	mute  bool // an abrupt end can't be told from a good one (net.Pipe)
}

// opaque hides what it wraps from Adopt, but not its inside.
type opaque struct{ net.Conn }

func (o opaque) NetConn() net.Conn { return o.Conn }

func kinds() []kind {
	return []kind{
		{name: "tcp", pair: tcpPair, epoll: true, half: true, rst: true},
		{name: "unix", pair: unixPair, epoll: true, half: true, mute: true},
		{name: "portable", pair: wrapped(tcpPair), half: true, rst: true},
		{name: "portable-unix", pair: wrapped(unixPair), half: true, mute: true},
		{name: "tls", pair: tlsPair(tls.VersionTLS13), half: true, rst: true},
		{name: "tls12", pair: tlsPair(tls.VersionTLS12), half: true, rst: true}, // a Read may say data and the end at once
		{name: "pipe", pair: pipePair, mute: true},
	}
}

func eachKind(t *testing.T, f func(t *testing.T, k kind)) {
	for _, k := range kinds() {
		t.Run(k.name, func(t *testing.T) {
			noLeaks(t)
			f(t, k)
		})
	}
}

// noLeaks is called first in a test: it fails when goroutines or descriptors are
// left after all other clean-up.
func noLeaks(t testing.TB) {
	t.Helper()
	_ = pollerWarm()
	before := descriptors()
	t.Cleanup(func() {
		if t.Failed() {
			return
		}
		goleak.VerifyNone(t)
		eventually(t, "the number of descriptors from before", func() bool { return descriptors() <= before })
	})
}

// pollerWarm has Go's own poller open its descriptors, once, before they are
// counted.
var pollerWarm = sync.OnceValue(func() error {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	return l.Close()
})

// descriptors counts those that the process has open; 0 where there is no /proc.
func descriptors() int {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return 0
	}
	return len(entries)
}

func listenerPair(t testing.TB, network, address string) (net.Conn, net.Conn) {
	t.Helper()
	l, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	type result struct {
		c   net.Conn
		err error
	}
	accepted := make(chan result, 1)
	go func() {
		c, err := l.Accept()
		accepted <- result{c, err}
	}()
	ours, err := net.Dial(network, l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	theirs := <-accepted
	if theirs.err != nil {
		t.Fatal(theirs.err)
	}
	t.Cleanup(func() { _ = theirs.c.Close() })
	return ours, theirs.c
}

func tcpPair(t *testing.T) (net.Conn, net.Conn) { return listenerPair(t, "tcp", "127.0.0.1:0") }

func unixPair(t *testing.T) (net.Conn, net.Conn) {
	return listenerPair(t, "unix", filepath.Join(t.TempDir(), "s"))
}

func wrapped(pair func(*testing.T) (net.Conn, net.Conn)) func(*testing.T) (net.Conn, net.Conn) {
	return func(t *testing.T) (net.Conn, net.Conn) {
		ours, theirs := pair(t)
		return opaque{ours}, theirs
	}
}

func pipePair(t *testing.T) (net.Conn, net.Conn) {
	ours, theirs := net.Pipe()
	t.Cleanup(func() { _ = theirs.Close() })
	return ours, theirs
}

var serverTLS = sync.OnceValue(func() *tls.Config {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		panic(err)
	}
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
})

func tlsPair(version uint16) func(t *testing.T) (net.Conn, net.Conn) {
	return func(t *testing.T) (net.Conn, net.Conn) {
		ours, theirs := tcpPair(t)
		server := tls.Server(ours, serverTLS())
		client := tls.Client(theirs, &tls.Config{InsecureSkipVerify: true, MinVersion: version, MaxVersion: version})
		done := make(chan error, 1)
		go func() { done <- server.Handshake() }()
		if err := errors.Join(client.Handshake(), <-done); err != nil {
			t.Fatal(err)
		}
		return server, client
	}
}

// open adopts one end of a pair into a reactor that lives as long as the test.
func open(t *testing.T, k kind) (*stream, net.Conn) {
	t.Helper()
	r := newReactor(t)
	ours, theirs := k.pair(t)
	ep := adopt(t, r, ours, nil)
	return newStream(ep), theirs
}

func newReactor(t testing.TB) *Reactor {
	t.Helper()
	r, err := New(Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.Close() })
	return r
}

func adopt(t testing.TB, r *Reactor, c net.Conn, prefix []byte) tunnel.Endpoint {
	t.Helper()
	ep, err := r.Adopt(c, prefix)
	if err != nil {
		t.Fatal(err)
	}
	return ep
}

// readAll is io.ReadAll with a bound in time for a net.Conn.
func readAll(c net.Conn) ([]byte, error) {
	_ = c.SetReadDeadline(time.Now().Add(patience))
	return io.ReadAll(c)
}

// eventually polls a condition.
func eventually(t testing.TB, what string, condition func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !condition(); {
		if time.Now().After(end) {
			t.Fatalf("never came: %s", what)
		}
		time.Sleep(time.Millisecond)
	}
}
