//go:build linux

package main

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// requestSize is what a request and its response carry, in bytes.
const requestSize = 64

func (w *worker) bulk(r request) (answer, error) {
	f, err := w.startFlow(r.Address, r.Direction)
	if err != nil {
		return answer{}, err
	}
	time.Sleep(warmUp)
	bytes, took, cpu, err := window(r, f.moved)
	err = errors.Join(err, w.end(f))
	if err == nil && bytes == 0 {
		err = errors.New("nothing moved")
	}
	return answer{Bytes: bytes, BytesPerSecond: bytes / took.Seconds(), CPU: cpu}, err
}

// requests: Count connections, each with one request on its way at a time.
func (w *worker) requests(r request) (answer, error) {
	var c callers
	for range r.Count {
		if err := c.add(r.Address); err != nil {
			c.end()
			return answer{}, err
		}
	}
	time.Sleep(warmUp)
	a, err := c.measure(r)
	c.end()
	return a, errors.Join(err, w.afterwards())
}

// behind: one request/response beside a bulk flow.
func (w *worker) behind(r request) (answer, error) {
	var c callers
	if err := c.add(r.Address); err != nil {
		return answer{}, err
	}
	f, err := w.startFlow(r.Address, r.Direction)
	if err != nil {
		c.end()
		return answer{}, err
	}
	time.Sleep(warmUp)
	before := f.moved()
	a, err := c.measure(r)
	if moved := f.moved() - before; moved == 0 && err == nil {
		err = errors.New("the bulk flow stood still")
	}
	c.end()
	return a, errors.Join(err, w.end(f))
}

// afterwards waits until nothing of an exercise is left.
func (w *worker) afterwards() error {
	deadline := time.Now().Add(patience)
	for w.quiet() != nil {
		if time.Now().After(deadline) {
			return w.quiet()
		}
		time.Sleep(time.Millisecond)
	}
	return nil
}

// callers are connections that send a request as soon as the last one is
// answered.
type callers struct {
	conns   []net.Conn
	running sync.WaitGroup
	counted atomic.Bool  // the window is open
	count   atomic.Int64 // responses within it
	stopped atomic.Bool

	mu    sync.Mutex
	times []time.Duration // guarded by mu
	errs  []error         // guarded by mu
}

func (c *callers) add(address string) error {
	conn, err := open(address, modeEcho)
	if err != nil {
		return err
	}
	c.conns = append(c.conns, conn)
	c.running.Go(func() {
		times, err := c.call(conn)
		c.mu.Lock()
		defer c.mu.Unlock()
		c.times = append(c.times, times...)
		if err != nil && !c.stopped.Load() {
			c.errs = append(c.errs, err)
		}
	})
	return nil
}

func (c *callers) call(conn net.Conn) ([]time.Duration, error) {
	var times []time.Duration
	var at position
	scratch := make([]byte, requestSize)
	for !c.stopped.Load() {
		b := at.next(requestSize)
		start := time.Now()
		if err := exchange(conn, b, scratch); err != nil {
			return times, fmt.Errorf("request: %w", err)
		}
		if c.counted.Load() {
			times = append(times, time.Since(start))
			c.count.Add(1)
		}
	}
	return times, nil
}

func (c *callers) measure(r request) (answer, error) {
	c.counted.Store(true)
	n, took, cpu, err := window(r, c.count.Load)
	c.counted.Store(false)
	c.stopped.Store(true)
	for _, conn := range c.conns {
		_ = conn.SetDeadline(time.Now().Add(patience)) // the last answers
	}
	c.running.Wait()
	c.mu.Lock()
	defer c.mu.Unlock()
	err = errors.Join(err, errors.Join(c.errs...))
	if err == nil && len(c.times) == 0 {
		err = errors.New("no response came")
	}
	slices.Sort(c.times)
	return answer{
		Count: n, PerSecond: n / took.Seconds(), CPU: cpu,
		P50: percentile(c.times, 50), P99: percentile(c.times, 99),
	}, err
}

// end closes the connections; it may be called again.
func (c *callers) end() {
	c.stopped.Store(true)
	for _, conn := range c.conns {
		_ = conn.Close()
	}
	c.running.Wait()
}

// percentile of sorted times; 0 when there are none.
func percentile(sorted []time.Duration, percent int) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[(len(sorted)-1)*percent/100]
}

// setup: connections opened, used once and closed, Count at a time.
func (w *worker) setup(r request) (answer, error) {
	var count, failed atomic.Int64
	var last atomic.Value
	var stop atomic.Bool
	var running sync.WaitGroup
	for range r.Count {
		running.Go(func() {
			for !stop.Load() {
				if err := ping(r.Address); err != nil {
					failed.Add(1)
					last.Store(err.Error())
					continue
				}
				count.Add(1)
			}
		})
	}
	time.Sleep(warmUp / 2)
	n, took, cpu, err := window(r, count.Load)
	stop.Store(true)
	running.Wait()
	if f := failed.Load(); f > 0 && err == nil {
		err = fmt.Errorf("%d connections failed, the last one: %v", f, last.Load())
	}
	return answer{Count: n, PerSecond: n / took.Seconds(), CPU: cpu}, err
}

// holders open idle connections at the same time, 16 of them.
const holders = 16

// hold opens Count more connections, uses each once, and keeps them.
func (w *worker) hold(r request) error {
	conns := make(chan net.Conn, r.Count)
	errs := make(chan error, holders)
	var next atomic.Int64
	for range holders {
		go func() {
			for next.Add(1) <= int64(r.Count) {
				c, err := open(r.Address, modeEcho)
				if err == nil {
					conns <- c
					err = use(c)
				}
				if err != nil {
					errs <- err
					return
				}
			}
			errs <- nil
		}()
	}
	var all error
	for range holders {
		all = errors.Join(all, <-errs)
	}
	close(conns)
	for c := range conns {
		w.held = append(w.held, c)
	}
	return all
}

func use(c net.Conn) error { return exchangeInTime(c, []byte{'!'}, make([]byte, 1)) }

func exchangeInTime(c net.Conn, b, scratch []byte) error {
	c.SetDeadline(time.Now().Add(patience))
	defer c.SetDeadline(time.Time{})
	return exchange(c, b, scratch)
}

// usedSize is what a used idle connection has carried each way, in bytes.
const usedSize = 64 << 10

// fill sends usedSize bytes each way through every held connection, as many at a
// time as opened them.
func (w *worker) fill() error {
	errs := make(chan error, holders)
	var next atomic.Int64
	for range holders {
		go func() {
			scratch := make([]byte, usedSize)
			var err error
			for err == nil {
				i := int(next.Add(1)) - 1
				if i >= len(w.held) {
					break
				}
				err = exchangeInTime(w.held[i], noise[:usedSize], scratch)
			}
			errs <- err
		}()
	}
	var all error
	for range holders {
		all = errors.Join(all, <-errs)
	}
	return all
}

// probe uses one in a hundred of the held connections: they must be alive.
func (w *worker) probe() error {
	for i := 0; i < len(w.held); i += 100 {
		if err := use(w.held[i]); err != nil {
			return fmt.Errorf("held connection %d of %d: %w", i, len(w.held), err)
		}
	}
	return nil
}

func (w *worker) release() {
	for _, c := range w.held {
		_ = c.Close()
	}
	w.held = nil
}
