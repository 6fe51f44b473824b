package acceptance

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/culvertgate/culvert/internal/testkit"
)

// patience is how long one step of a stream may take before a test gives up.
const patience = 30 * time.Second

// target is the real server behind the gateway. A connection begins with the
// number that the test gave its near end, so that both ends can be held
// against each other.
type target struct {
	listener net.Listener
	served   chan struct{}

	mu      sync.Mutex
	waiting map[uint64]chan *net.TCPConn // guarded by mu
	early   []*net.TCPConn               // nobody waits for them; guarded by mu
	next    uint64                       // guarded by mu
	greet   sync.WaitGroup
}

// startTarget listens at targetPort of a namespace until the test ends.
func startTarget(t testing.TB, n *testkit.Namespace) *target {
	t.Helper()
	l, err := n.Listen("tcp", loopback(targetPort).String())
	if err != nil {
		t.Fatal(err)
	}
	g := &target{listener: l, served: make(chan struct{}), waiting: map[uint64]chan *net.TCPConn{}}
	go g.serve()
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
		<-g.served
		g.greet.Wait()
		for _, c := range g.early {
			_ = c.Close() // given up by its test
		}
	})
	return g
}

func (g *target) serve() {
	defer close(g.served)
	for {
		c, err := g.listener.Accept()
		if err != nil {
			return
		}
		g.greet.Go(func() { g.hand(c.(*net.TCPConn)) })
	}
}

// hand gives a connection to whoever waits for its number.
func (g *target) hand(c *net.TCPConn) {
	var number [8]byte
	_ = c.SetReadDeadline(time.Now().Add(patience))
	if _, err := io.ReadFull(c, number[:]); err != nil {
		_ = c.Close() // ended before it said its number
		return
	}
	_ = c.SetReadDeadline(time.Time{})
	g.mu.Lock()
	defer g.mu.Unlock()
	key := binary.BigEndian.Uint64(number[:])
	if w, ok := g.waiting[key]; ok {
		delete(g.waiting, key)
		w <- c // has room
		return
	}
	g.early = append(g.early, c)
}

// expect returns a new number and where its connection will arrive.
func (g *target) expect() (number []byte, arrives chan *net.TCPConn) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.next++
	arrives = make(chan *net.TCPConn, 1)
	g.waiting[g.next] = arrives
	return binary.BigEndian.AppendUint64(nil, g.next), arrives
}

// stream is a connection through a tunnel, with both its ends in this process.
type stream struct {
	near *net.TCPConn // the opener's
	far  *net.TCPConn // the target's
}

// open makes a stream through an entry that leads to the target.
func (p *pair) open(g *target, port int) (stream, error) {
	near, err := p.dial(port)
	if err != nil {
		return stream{}, err
	}
	return g.join(near)
}

// join waits until what was sent into near has reached the target, and the
// target's answer near: then both sides of the tunnel have seen it opened.
func (g *target) join(near *net.TCPConn) (stream, error) {
	number, arrives := g.expect()
	if _, err := near.Write(number); err != nil {
		return stream{}, errors.Join(err, near.Close())
	}
	timeout := time.NewTimer(patience)
	defer timeout.Stop()
	select {
	case far := <-arrives:
		s := stream{near, far}
		if err := pass(far, near, []byte("welcome")); err != nil {
			s.close()
			return stream{}, fmt.Errorf("the target's first bytes: %w", err)
		}
		return s, nil
	case <-timeout.C:
		return stream{}, errors.Join(errors.New("a stream does not reach its target"), near.Close())
	}
}

// mustOpen is open for a test, which closes the stream at its end.
func (p *pair) mustOpen(g *target, port int) stream {
	p.t.Helper()
	s, err := p.open(g, port)
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(s.close)
	return s
}

// close closes both ends, whatever they are at.
func (s stream) close() {
	_ = s.near.Close()
	_ = s.far.Close()
}

// pass sends a few bytes from one end to the other and compares.
func pass(from, to *net.TCPConn, want []byte) error {
	if _, err := from.Write(want); err != nil {
		return err
	}
	got := make([]byte, len(want))
	_ = to.SetReadDeadline(time.Now().Add(patience))
	if _, err := io.ReadFull(to, got); err != nil {
		return err
	}
	_ = to.SetReadDeadline(time.Time{})
	if !bytes.Equal(got, want) {
		return fmt.Errorf("got %q, want %q", got, want)
	}
	return nil
}

// echo passes a few bytes each way.
func (s stream) echo() error {
	return errors.Join(pass(s.near, s.far, []byte("there")), pass(s.far, s.near, []byte("and back")))
}

// end is what a socket sees when its other end goes.
type end string

// What a socket can see.
const (
	sawFIN   end = "FIN"
	sawRST   end = "RST"
	sawAlive end = "nothing"
)

// seen reads a connection that has nothing more to say, and closes it.
func seen(c *net.TCPConn, timeout time.Duration) end {
	defer c.Close()
	_ = c.SetReadDeadline(time.Now().Add(timeout))
	n, err := io.Copy(io.Discard, c)
	switch {
	case n > 0:
		return end(fmt.Sprintf("%d bytes", n))
	case err == nil:
		return sawFIN
	case isReset(err):
		return sawRST
	case isTimeout(err):
		return sawAlive
	default:
		return end(err.Error())
	}
}

func isTimeout(err error) bool {
	var e net.Error
	return errors.As(err, &e) && e.Timeout()
}

// reset closes a connection with RST.
func reset(c *net.TCPConn) error { return errors.Join(c.SetLinger(0), c.Close()) }

// noise is the payload of large streams, repeated from a place that differs for
// each. Its length is odd, so that no chunk size lines up with it.
var noise = sync.OnceValue(func() []byte { return testkit.PayloadBytes(1, 8<<20|1) })

// sender writes size bytes of noise, tells progress (may be nil) how many are
// written, and returns their hash.
func send(w io.Writer, seed, size int, progress func(int)) (string, error) {
	source, at, sent, sum := noise(), seed*7919%len(noise()), 0, sha256.New()
	for sent < size {
		b := source[at:min(at+64<<10, at+size-sent, len(source))]
		n, err := w.Write(b)
		_, _ = sum.Write(b[:n]) // a hash takes everything
		sent += n
		if progress != nil {
			progress(sent)
		}
		if err != nil {
			return "", fmt.Errorf("after %d bytes: %w", sent, err)
		}
		at = (at + n) % len(source)
	}
	return hex.EncodeToString(sum.Sum(nil)), nil
}

// receive reads to the end and compares number and hash.
func receive(r io.Reader, size int, want func() (string, error)) error {
	got, n, err := testkit.Hash(r)
	if err != nil {
		return fmt.Errorf("after %d of %d bytes: %w", n, size, err)
	}
	sum, err := want()
	switch {
	case err != nil:
		return fmt.Errorf("the sender: %w", err)
	case n != int64(size) || got != sum:
		return fmt.Errorf("%d bytes arrived of %d, hash equal: %v", n, size, got == sum)
	}
	return nil
}

// transfer moves size bytes from one end to the other, with FIN behind them.
func transfer(from, to *net.TCPConn, seed, size int) error {
	type outcome struct {
		sum string
		err error
	}
	sent := make(chan outcome, 1)
	go func() {
		sum, err := send(from, seed, size, nil)
		sent <- outcome{sum, errors.Join(err, from.CloseWrite())}
	}()
	return receive(to, size, func() (string, error) {
		o := <-sent
		return o.sum, o.err
	})
}
