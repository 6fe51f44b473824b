package twonets

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/culvertgate/culvert/internal/testkit"
)

// numbered is a server whose connections begin with the number of the client's
// end, so that both ends of a stream can be held against each other.
type numbered struct {
	mu      sync.Mutex
	next    uint64
	waiting map[uint64]*arrival
}

// arrival is the target's end of a stream.
type arrival struct {
	conn chan *net.TCPConn
	over chan struct{} // closed by who has got it
}

// serveNumbered serves a port of the targets' network.
func (w *world) serveNumbered(port uint16) *numbered {
	w.t.Helper()
	n := &numbered{waiting: map[uint64]*arrival{}}
	w.serveTCP(port, func(c *net.TCPConn) {
		var number [8]byte
		if _, err := io.ReadFull(c, number[:]); err != nil {
			return
		}
		n.mu.Lock()
		key := binary.BigEndian.Uint64(number[:])
		a := n.waiting[key]
		delete(n.waiting, key)
		n.mu.Unlock()
		if a == nil {
			return // its client has given up
		}
		a.conn <- c // has room
		select {
		case <-a.over:
		case <-w.t.Context().Done(): // of a test that has failed
		}
	})
	return n
}

// through is a stream through the tunnel with both its ends here.
type through struct {
	near, far *net.TCPConn
	closed    func()  // tells the server of far
	up, down  *course // nil until it flows
	stopping  chan struct{}
	wg        sync.WaitGroup
}

// open makes one by the client's entry to a named target.
func (f *trial) open(within time.Duration) (*through, error) {
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	c, err := f.near.DialContext(ctx, "tcp", fmt.Sprintf("127.0.0.1:%d", tcpEntry))
	if err != nil {
		return nil, err
	}
	return f.target.join(c.(*net.TCPConn), within)
}

// join waits until the other end of near has come.
func (n *numbered) join(near *net.TCPConn, within time.Duration) (*through, error) {
	n.mu.Lock()
	n.next++
	number, a := n.next, &arrival{make(chan *net.TCPConn, 1), make(chan struct{})}
	n.waiting[number] = a
	n.mu.Unlock()
	defer func() {
		n.mu.Lock()
		delete(n.waiting, number)
		n.mu.Unlock()
	}()
	if _, err := near.Write(binary.BigEndian.AppendUint64(nil, number)); err != nil {
		return nil, errors.Join(err, near.Close())
	}
	// An open that fails resets the connection, which need not wait for anybody.
	failed := make(chan error, 1)
	_ = near.SetReadDeadline(time.Now().Add(within))
	go func() {
		var one [1]byte
		_, err := near.Read(one[:]) // the target's welcome
		if err == nil && one[0] != 'W' {
			err = fmt.Errorf("the target said %q", one)
		}
		failed <- err
	}()
	var far *net.TCPConn
	for {
		select {
		case far = <-a.conn:
			if _, err := far.Write([]byte("W")); err != nil {
				close(a.over)
				return nil, errors.Join(err, near.Close(), <-failed)
			}
		case err := <-failed:
			if err == nil {
				err = near.SetReadDeadline(time.Time{})
			}
			if err != nil {
				close(a.over)
				return nil, errors.Join(fmt.Errorf("a stream is not opened: %w", err), near.Close())
			}
			return &through{near: near, far: far, closed: sync.OnceFunc(func() { close(a.over) }), stopping: make(chan struct{})}, nil
		}
	}
}

// mustOpen opens a stream that is closed with the trial.
func (f *trial) mustOpen() *through {
	f.t.Helper()
	x, err := f.open(patience)
	f.check(err)
	f.opened = append(f.opened, x)
	return x
}

// drop closes both ends, whatever they are at.
func (x *through) drop() {
	_ = x.near.Close()
	_ = x.far.Close()
	x.closed()
	x.wg.Wait()
}

// echo passes text there and back.
func (x *through) echo(text string) error {
	for _, way := range [][2]*net.TCPConn{{x.near, x.far}, {x.far, x.near}} {
		if err := pass(way[0], way[1], []byte(text)); err != nil {
			return err
		}
	}
	return nil
}

// pass has data go from one end to the other.
func pass(from, to *net.TCPConn, data []byte) error {
	if _, err := from.Write(data); err != nil {
		return err
	}
	got := make([]byte, len(data))
	_ = to.SetReadDeadline(time.Now().Add(patience))
	defer func() { _ = to.SetReadDeadline(time.Time{}) }()
	if _, err := io.ReadFull(to, got); err != nil {
		return err
	}
	if !bytes.Equal(got, data) {
		return fmt.Errorf("%q arrived for %q", got, data)
	}
	return nil
}

// finish ends both directions in order.
func (x *through) finish() error {
	for _, way := range [][2]*net.TCPConn{{x.near, x.far}, {x.far, x.near}} {
		if err := way[0].CloseWrite(); err != nil {
			return err
		}
		if got := endOf(way[1], patience); got != sawEnd {
			return fmt.Errorf("the other side saw %s", got)
		}
	}
	return nil
}

// What a socket sees in the end.
const (
	sawEnd     = "EOF"
	sawReset   = "RST"
	sawNothing = "nothing"
)

// endOf reads until the end and says what that was.
func endOf(c *net.TCPConn, within time.Duration) string {
	_ = c.SetReadDeadline(time.Now().Add(within))
	_, err := io.Copy(io.Discard, c)
	return endName(err)
}

func endName(err error) string {
	var timeout net.Error
	switch {
	case err == nil, errors.Is(err, io.EOF):
		return sawEnd
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return sawReset
	case errors.As(err, &timeout) && timeout.Timeout():
		return sawNothing
	default:
		return err.Error()
	}
}

// course is a direction of a stream on which known bytes flow.
type course struct {
	seed      uint64
	sent, got atomic.Int64
	wrong     atomic.Bool
	ended     atomic.Pointer[string] // what the reader saw
	reset     atomic.Bool            // what the writer saw

	mu   sync.Mutex
	last time.Time     // when bytes came
	gap  time.Duration // the longest time without any, from the second on
}

// pace is what a stream of a trial carries each way unless it is told otherwise:
// enough to be under way at any moment, little enough for a busy machine.
const (
	paceChunk = 8 << 10
	paceEvery = 10 * time.Millisecond
)

// flow has bytes flow both ways until stop; with n, not more than n each way,
// as fast as they go.
func (x *through) flow(n int64) {
	x.up, x.down = &course{seed: 1}, &course{seed: 2}
	x.wg.Go(func() { x.up.write(x.near, x.stopping, n) })
	x.wg.Go(func() { x.up.read(x.far) })
	x.wg.Go(func() { x.down.write(x.far, x.stopping, n) })
	x.wg.Go(func() { x.down.read(x.near) })
}

func (c *course) write(to *net.TCPConn, stopping <-chan struct{}, n int64) {
	limit := n
	if n == 0 {
		limit = 1 << 50
	}
	from, buf := testkit.Payload(c.seed, limit), make([]byte, paceChunk)
	ticker := time.NewTicker(paceEvery)
	defer ticker.Stop()
	for {
		if n == 0 {
			select {
			case <-ticker.C:
			case <-stopping:
				_ = to.CloseWrite()
				return
			}
		}
		k, err := io.ReadFull(from, buf)
		if k > 0 {
			// Counted before it is written: what arrives was sent.
			c.sent.Add(int64(k))
			w, werr := to.Write(buf[:k])
			c.sent.Add(int64(w - k))
			if werr != nil {
				c.reset.Store(errors.Is(werr, syscall.ECONNRESET))
				return
			}
		}
		if err != nil {
			_ = to.CloseWrite()
			return
		}
	}
}

func (c *course) read(from *net.TCPConn) {
	want, buf, check := testkit.Payload(c.seed, 1<<50), make([]byte, 64<<10), make([]byte, 64<<10)
	for {
		n, err := from.Read(buf)
		if n > 0 {
			_, _ = io.ReadFull(want, check[:n])
			if !bytes.Equal(buf[:n], check[:n]) {
				c.wrong.Store(true)
			}
			c.mu.Lock()
			now := time.Now()
			if !c.last.IsZero() {
				c.gap = max(c.gap, now.Sub(c.last))
			}
			c.last = now
			c.mu.Unlock()
			c.got.Add(int64(n))
		}
		if err != nil {
			name := endName(err)
			c.ended.Store(&name)
			return
		}
	}
}

// longest is the longest standstill so far.
func (x *through) longest() time.Duration {
	most := time.Duration(0)
	for _, c := range []*course{x.up, x.down} {
		c.mu.Lock()
		most = max(most, c.gap)
		c.mu.Unlock()
	}
	return most
}

// flowing waits until n bytes have come each way.
func (f *trial) flowing(x *through, n int64) {
	f.t.Helper()
	testkit.Eventually(f.t, patience, func() error {
		if up, down := x.up.got.Load(), x.down.got.Load(); up < n || down < n {
			return fmt.Errorf("%d bytes up and %d down", up, down)
		}
		return nil
	})
}

// resumes waits until what is sent from now on comes both ways, and says how long
// that took.
func (f *trial) resumes(x *through, within time.Duration) time.Duration {
	f.t.Helper()
	began, up, down := time.Now(), x.up.sent.Load(), x.down.sent.Load()
	for x.up.got.Load() <= up || x.down.got.Load() <= down {
		if x.up.ended.Load() != nil || x.down.ended.Load() != nil {
			f.t.Errorf("a stream that was to live has ended after %v", time.Since(began))
			break
		}
		if time.Since(began) > within {
			f.t.Errorf("nothing has come for %v", within)
			break
		}
		time.Sleep(time.Millisecond) // the steps of the measurement
	}
	return time.Since(began)
}

// completes ends a stream in order and holds every byte of it: what it returns
// was sent and has not arrived.
func (f *trial) completes(x *through, within time.Duration) (lost int64) {
	f.t.Helper()
	close(x.stopping)
	f.over(x, within)
	for name, c := range map[string]*course{"up": x.up, "down": x.down} {
		if end := c.ended.Load(); end != nil && *end != sawEnd {
			f.t.Errorf("%s it ended with %s", name, *end)
		}
		lost += c.sent.Load() - c.got.Load()
	}
	return lost
}

// over waits until both readers have seen an end, and holds what came.
func (f *trial) over(x *through, within time.Duration) {
	f.t.Helper()
	if err := testkit.WaitFor(within, func() error {
		if x.up.ended.Load() == nil || x.down.ended.Load() == nil {
			return fmt.Errorf("no end yet, up %d of %d, down %d of %d bytes", x.up.got.Load(), x.up.sent.Load(), x.down.got.Load(), x.down.sent.Load())
		}
		return nil
	}); err != nil {
		f.t.Error(err)
	}
	f.exact(x)
}

// exact holds that what has come is what was sent.
func (f *trial) exact(x *through) {
	f.t.Helper()
	for name, c := range map[string]*course{"up": x.up, "down": x.down} {
		if c.wrong.Load() || c.got.Load() > c.sent.Load() {
			f.t.Errorf("%s came other bytes than were sent", name)
		}
	}
}

// broken waits until a stream is cut and returns what the client's program and
// the target saw.
func (f *trial) broken(x *through, within time.Duration) string {
	f.t.Helper()
	f.over(x, within)
	if near, far := x.nearSaw(), x.farSaw(); near != far {
		return near + ", target " + far
	}
	return x.nearSaw()
}

// nearSaw is how the client's program saw the stream end, farSaw how the target did.
func (x *through) nearSaw() string { return saw(x.down, x.up) }
func (x *through) farSaw() string  { return saw(x.up, x.down) }

// saw puts together what a socket's reader and writer saw: the system tells of a
// reset once, to whoever asks first, and reads end like those of a connection that
// was ended in order from then on. (A writer to one of those sees EPIPE.)
func saw(read, written *course) string {
	end := read.ended.Load()
	switch {
	case end == nil:
		return sawNothing
	case *end == sawEnd && written.reset.Load():
		return sawReset
	default:
		return *end
	}
}
