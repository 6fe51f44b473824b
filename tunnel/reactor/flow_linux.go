package reactor

import (
	"net"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/culvertgate/culvert/tunnel"
)

// flowEvents: without EPOLLOUT, since each datagram that leaves the send buffer
// would be an edge. A flow that has once found the buffer full asks for it from
// then on.
const flowEvents = unix.EPOLLIN | unix.EPOLLET

// flow is a socket whose reads and writes are datagrams. Bind, Close and the
// descriptor's life are the socket's.
type flow struct {
	socket
	// beyond is filled by a datagram that is too large for its room, and only then:
	// of TryRead.
	beyond [1]byte
}

func (r *Reactor) adoptDatagrams(c *net.UDPConn, watch chan struct{}) (tunnel.Endpoint, error) {
	fd, err := takeOver(c)
	if err != nil {
		return nil, err
	}
	f := &flow{socket: socket{poll: r.poll, watch: watch, fd: fd}}
	f.interest.Store(flowEvents)
	return f, nil
}

// TryRead implements tunnel.Endpoint. A datagram that is larger than p is
// dropped: half of one would pass for a whole one.
func (f *flow) TryRead(p []byte) (int, error) {
	if !f.acquire() {
		return 0, errFailed
	}
	defer f.release()
	for {
		n, err := unix.Readv(f.fd, [][]byte{p, f.beyond[:]})
		switch {
		case err == unix.EAGAIN:
			return 0, f.nothingThere()
		case err == nil && n <= len(p):
			return n, nil
		case err == nil || err == unix.EINTR || isTooLarge(err): // the last tells of a datagram of ours
			continue
		case toldByPeer(err): // once: the next read does not meet it again
			_ = f.fail(errnoOf(err)) // told when all that came before is read
		default:
			return 0, f.fail(errnoOf(err))
		}
	}
}

// nothingThere is the answer of an empty socket: the flow's end, if there was one.
func (f *flow) nothingThere() error {
	if err := f.failure(); err != nil {
		return err
	}
	return tunnel.ErrWouldBlock
}

// failure returns how the flow has failed, or nil.
func (f *flow) failure() error {
	if errno := syscall.Errno(f.failed.Load()); errno != 0 {
		return endOfFlow(errno)
	}
	return nil
}

// TryWrite implements tunnel.Endpoint.
func (f *flow) TryWrite(p []byte) (int, error) {
	if !f.acquire() {
		return 0, errFailed
	}
	defer f.release()
	if err := f.failure(); err != nil {
		return 0, err
	}
	armed, second := f.wants.Load(), false
	for {
		err := unix.Send(f.fd, p, unix.MSG_NOSIGNAL)
		switch {
		case err == nil:
			return len(p), nil
		case err == unix.EINTR:
		case err == unix.EAGAIN && armed:
			return 0, tunnel.ErrWouldBlock
		case err == unix.EAGAIN: // as a stream's: Writable is owed, then once more
			armed = true
			f.wants.Store(true)
			if f.interest.Swap(flowEvents|unix.EPOLLOUT) == flowEvents && f.bound {
				_ = f.poll.again(&f.socket) // fails only when the reactor is closed
			}
		case isTooLarge(err) && !second: // it may be the news of an earlier datagram, told once
			second = true
		case costsOneDatagram(err):
			return len(p), nil
		default:
			_ = f.fail(errnoOf(err))
			return 0, f.failure()
		}
	}
}

// Broken implements tunnel.Breaker.
func (f *flow) Broken() error {
	if !f.acquire() {
		return errFailed
	}
	defer f.release()
	if errno := f.takeError(); toldByPeer(errno) {
		_ = f.fail(errno)
	}
	return f.failure()
}

// CloseWrite implements tunnel.Endpoint: a direction of datagrams has no end.
func (f *flow) CloseWrite() error { return nil }
