// Package reactor makes tunnel.Endpoints of network connections.
//
// On Linux a plain TCP or unix stream socket is taken over at the level of its
// descriptor: it is duplicated, the net.Conn is closed, and one goroutine per
// Reactor watches all of them with edge-triggered epoll. An idle connection
// then costs a small struct and a slot in a table: no goroutine, no buffer.
// Everything else (TLS, wrapped connections, other systems) is a portable
// Endpoint: one goroutine that reads, and one that writes while something is
// pending.
//
// A connected UDP socket becomes the Endpoint of a flow: a call moves one
// datagram. On Linux it is watched like the others, and the kernel's buffers are
// its queues; on other systems it has a short queue for each direction and the
// goroutines of a portable Endpoint.
//
// Goroutines: one per Reactor (Linux), one or two per portable Endpoint. Close
// ends and awaits all of them.
//
// Locks: Reactor.mu, poller.control, table.mu, portable.mu and portableFlow.mu. None is held
// while another one is taken, nor during a Readiness call, nor during a
// blocking call on a connection.
package reactor

import (
	"fmt"
	"net"
	"runtime/debug"
	"sync"
	"time"

	"github.com/culvertgate/culvert/internal/faultpoint"
	"github.com/culvertgate/culvert/tunnel"
)

// Config says how a Reactor behaves. The zero value is usable.
type Config struct {
	// OnPanic is told of a panic in a Readiness call or in a wrapped connection;
	// the Endpoint concerned has then been closed. It must not block. Nil: the
	// panic is not recovered.
	OnPanic func(v any, stack []byte)
}

// Reactor watches the sockets of one process. Its methods are safe for
// concurrent use.
type Reactor struct {
	cfg  Config
	poll *poller // nil where the system has none

	mu       sync.Mutex
	closed   bool
	portable map[abandoner]struct{}
	running  sync.WaitGroup // goroutines of portable Endpoints and of later
}

// abandoner is a portable Endpoint as Close needs it: it is ended abruptly, and
// its stream is told.
type abandoner interface{ abandon() }

// New starts a Reactor. It fails when the system gives no epoll descriptor.
func New(cfg Config) (*Reactor, error) {
	r := &Reactor{cfg: cfg, portable: make(map[abandoner]struct{})}
	poll, err := newPoller(r)
	if err != nil {
		return nil, fmt.Errorf("starting the reactor: %w", err)
	}
	r.poll = poll
	return r, nil
}

// Adopt takes c over, also when it fails (c is then closed). prefix is what was
// read from c already; it is copied and comes first out of TryRead. Deadlines
// of c are cleared. The caller must Close the Endpoint. A *net.UDPConn becomes a
// flow's Endpoint; it must be connected, and there is no prefix.
func (r *Reactor) Adopt(c net.Conn, prefix []byte) (tunnel.Endpoint, error) {
	return r.adopt(c, prefix, nil)
}

// AdoptWatch is Adopt for a caller that must not return before c is no longer
// used: the channel is closed after the Endpoint has been closed, what it still
// had to write is written or given up, and no goroutine touches c any more.
func (r *Reactor) AdoptWatch(c net.Conn, prefix []byte) (tunnel.Endpoint, <-chan struct{}, error) {
	watch := make(chan struct{})
	ep, err := r.adopt(c, prefix, watch)
	if err != nil {
		return nil, nil, err
	}
	return ep, watch, nil
}

func (r *Reactor) adopt(c net.Conn, prefix []byte, watch chan struct{}) (tunnel.Endpoint, error) {
	if r.isClosed() {
		_ = c.Close()
		return nil, fmt.Errorf("adopting %T: the reactor is closed: %w", c, net.ErrClosed)
	}
	if udp, ok := c.(*net.UDPConn); ok {
		return r.adoptFlow(udp, prefix, watch)
	}
	if ep, taken, err := r.adoptSocket(c, prefix, watch); taken || err != nil {
		return ep, err
	}
	if err := c.SetDeadline(time.Time{}); err != nil {
		_ = c.Close()
		return nil, fmt.Errorf("adopting %T: %w", c, err)
	}
	return r.adoptPortable(c, prefix, watch)
}

// Close closes what Endpoints are left, abruptly, ends the goroutines and waits
// for them. Sessions should be over by then. It must not be called from within
// a Readiness call.
func (r *Reactor) Close() error {
	r.mu.Lock()
	if r.closed {
		r.mu.Unlock()
		r.running.Wait()
		return nil
	}
	r.closed = true
	left := make([]abandoner, 0, len(r.portable))
	for p := range r.portable {
		left = append(left, p)
	}
	r.mu.Unlock()
	for _, p := range left {
		p.abandon()
	}
	err := r.poll.close()
	r.running.Wait()
	return err
}

func (r *Reactor) isClosed() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.closed
}

// keep notes a portable Endpoint for Close.
func (r *Reactor) keep(p abandoner) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return net.ErrClosed
	}
	r.portable[p] = struct{}{}
	return nil
}

func (r *Reactor) forget(p abandoner) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.portable, p)
}

// later runs f soon, outside of the caller's stack: a Readiness must not be
// called from within Bind. After Close it does nothing.
func (r *Reactor) later(f func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return
	}
	r.running.Go(f)
}

// tell calls the Readiness of a portable Endpoint; nil: it is not bound.
func (r *Reactor) tell(ep tunnel.Endpoint, ready tunnel.Readiness, readable, writable bool) {
	if ready == nil {
		return
	}
	call := func() {
		faultpoint.Here(faultpoint.Reactor)
		if readable {
			ready.Readable()
		}
		if writable {
			ready.Writable()
		}
	}
	if !r.guard(ep, call) {
		readable, writable = true, true
		r.guard(ep, call) // so that the stream finds out
	}
}

// guard runs f, a call into code that is not ours. A panic closes ep and is
// handed to OnPanic; ok is false then.
func (r *Reactor) guard(ep tunnel.Endpoint, f func()) (ok bool) {
	if r.cfg.OnPanic != nil {
		defer func() {
			if v := recover(); v != nil {
				ep.Close(codeInternal)
				r.cfg.OnPanic(v, debug.Stack())
			}
		}()
	}
	f()
	return true
}

// errFailed is what an Endpoint says that was closed by this package.
var errFailed = &tunnel.Error{Code: codeInternal, Text: "the connection was given up here", Err: net.ErrClosed}
