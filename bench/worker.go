//go:build linux

package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"sync/atomic"
	"time"

	"github.com/culvertgate/culvert/internal/testkit"
)

const (
	// warmUp precedes every window: slow start, pools, growing windows.
	warmUp = 500 * time.Millisecond
	// patience bounds one step of a connection.
	patience = 20 * time.Second
)

// worker does the exercises inside the load process.
type worker struct {
	targets []*target
	held    []net.Conn
}

func newWorker() *worker { return &worker{} }

func (w *worker) close() { w.release() }

func (w *worker) do(r request) (answer, error) {
	switch r.Op {
	case "target":
		t, err := newTarget()
		if err != nil {
			return answer{}, err
		}
		w.targets = append(w.targets, t)
		return answer{Address: t.listener.Addr().String()}, nil
	case "ping":
		return answer{}, ping(r.Address)
	case "bulk":
		return w.bulk(r)
	case "requests":
		return w.requests(r)
	case "behind":
		return w.behind(r)
	case "setup":
		return w.setup(r)
	case "hold":
		return answer{}, w.hold(r)
	case "fill":
		return answer{}, w.fill()
	case "probe":
		return answer{}, w.probe()
	case "release":
		w.release()
		return answer{}, nil
	}
	return answer{}, fmt.Errorf("unknown exercise %q", r.Op)
}

// open connects through the tunnel and says what the target shall do.
func open(address string, mode byte) (net.Conn, error) {
	c, err := net.DialTimeout("tcp", address, patience)
	if err != nil {
		return nil, err
	}
	if _, err := c.Write([]byte{mode}); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

// exchange sends b and waits until it has come back.
func exchange(c net.Conn, b, scratch []byte) error {
	if _, err := c.Write(b); err != nil {
		return err
	}
	if _, err := io.ReadFull(c, scratch[:len(b)]); err != nil {
		return err
	}
	if string(scratch[:len(b)]) != string(b) {
		return errDiffers
	}
	return nil
}

// ping is one connection, used once.
func ping(address string) error {
	c, err := open(address, modeEcho)
	if err != nil {
		return err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(patience))
	return exchange(c, []byte{'?'}, make([]byte, 1))
}

// window measures from now for the time asked: what counter grows by, and the
// processor time that the peers take meanwhile.
func window(r request, counter func() int64) (grown float64, took, cpu time.Duration, err error) {
	before, err := cpuOf(r.PIDs)
	if err != nil {
		return 0, 0, 0, err
	}
	start, from := time.Now(), counter()
	time.Sleep(r.Window)
	to, end := counter(), time.Now()
	after, err := cpuOf(r.PIDs)
	return float64(to - from), end.Sub(start), after - before, err
}

func cpuOf(pids []int) (time.Duration, error) {
	var sum time.Duration
	for _, pid := range pids {
		t, err := testkit.CPUTime(pid)
		if err != nil {
			return 0, err
		}
		sum += t
	}
	return sum, nil
}

// flow is one bulk connection that runs until it is stopped.
type flow struct {
	conn  net.Conn
	moved func() int64
	done  chan error
	stop  atomic.Bool
}

func (w *worker) startFlow(address, direction string) (*flow, error) {
	mode := byte(modeSink)
	if direction == "down" {
		mode = modeSource
	}
	c, err := open(address, mode)
	if err != nil {
		return nil, err
	}
	f := &flow{conn: c, done: make(chan error, 1)}
	var received atomic.Int64
	if direction == "down" {
		f.moved = received.Load
		go func() { f.done <- f.read(&received) }()
	} else {
		f.moved = w.sunk
		go func() { f.done <- f.write() }()
	}
	return f, nil
}

// sunk is what all targets took; one bulk flow runs at a time.
func (w *worker) sunk() int64 {
	var sum int64
	for _, t := range w.targets {
		sum += t.received.Load()
	}
	return sum
}

func (f *flow) read(received *atomic.Int64) error {
	b := make([]byte, 256<<10)
	var at position
	for {
		n, err := f.conn.Read(b)
		if err == nil {
			err = at.check(b[:n])
		}
		if err != nil {
			return f.unlessStopped(err)
		}
		received.Add(int64(n))
	}
}

func (f *flow) write() error {
	var at position
	for {
		if _, err := f.conn.Write(at.next(64 << 10)); err != nil {
			return f.unlessStopped(err)
		}
	}
}

func (f *flow) unlessStopped(err error) error {
	if f.stop.Load() && !errors.Is(err, errDiffers) {
		return nil
	}
	return fmt.Errorf("bulk connection: %w", err)
}

// end stops the flow and waits until the target has seen it, so that no remains
// of it disturb the next exercise.
func (w *worker) end(f *flow) error {
	f.stop.Store(true)
	_ = f.conn.Close()
	err := <-f.done
	if quiet := testkit.WaitFor(patience, w.quiet); quiet != nil && err == nil {
		err = quiet
	}
	for _, t := range w.targets {
		if t.differs.Load() {
			return errDiffers
		}
	}
	return err
}

func (w *worker) quiet() error {
	for _, t := range w.targets {
		if n := t.open.Load(); n > 0 {
			return fmt.Errorf("the target still has %d connections", n)
		}
	}
	return nil
}
