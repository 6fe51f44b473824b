package reactor

import (
	"errors"
	"fmt"
	"io"
	"net"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/culvertgate/culvert/framecodec"
	"github.com/culvertgate/culvert/internal/faultpoint"
	"github.com/culvertgate/culvert/tunnel"
)

// Bits of socket.use. The low bits count the calls in flight: the descriptor is
// closed by the last of them, so that its number can't be somebody else's while
// a system call of ours is on its way.
const (
	useClosed = 1 << 31
	useAbrupt = 1 << 30
	useCount  = useAbrupt - 1
)

// socket is an Endpoint that owns a descriptor. There may be a hundred thousand:
// every field counts.
type socket struct {
	poll   *poller
	ready  tunnel.Readiness
	prefix atomic.Pointer[[]byte] // bytes that come before the socket's own
	watch  chan struct{}          // closed at the very end; nil: nobody asked
	key    ticket                 // set by Bind, before the socket is in epoll
	fd     int
	use    atomic.Uint32
	failed atomic.Uint32 // errno of the first failure: the kernel tells it only once
	// interest is what epoll is asked for: streamEvents or flowEvents.
	interest atomic.Uint32
	// ended: the peer's half close or an error came with an edge. The next short
	// read then does not mean that nothing more is to be noticed.
	ended    atomic.Bool
	fin      atomic.Bool // the end was a half close, not (yet) an error
	wants    atomic.Bool // a write took less than all: Writable is owed
	finished atomic.Bool // CloseWrite was called
	bound    bool
	deaf     bool // epoll did not take it: nothing is ever told of it
	stream   bool // TCP: may be reset
}

// adoptSocket takes over a plain TCP or unix stream connection; taken is false
// for any other, which is left alone.
func (r *Reactor) adoptSocket(c net.Conn, prefix []byte, watch chan struct{}) (_ tunnel.Endpoint, taken bool, _ error) {
	var plain systemConn
	var isTCP bool
	switch c := c.(type) {
	case *net.TCPConn:
		plain, isTCP = c, true
	case *net.UnixConn:
		if c.LocalAddr().Network() != "unix" { // datagrams and sequenced packets are no streams
			return nil, false, nil
		}
		plain = c
	default:
		return nil, false, nil
	}
	fd, err := takeOver(plain)
	if err != nil {
		return nil, false, err
	}
	s := &socket{poll: r.poll, watch: watch, fd: fd, stream: isTCP}
	s.interest.Store(streamEvents)
	if len(prefix) > 0 {
		kept := append([]byte(nil), prefix...)
		s.prefix.Store(&kept)
	}
	return s, true, nil
}

// systemConn is a connection with a descriptor.
type systemConn interface {
	net.Conn
	syscall.Conn
}

// takeOver closes c and returns a duplicate of its descriptor, which keeps the
// connection.
func takeOver(c systemConn) (fd int, err error) {
	fd = -1
	raw, err := c.SyscallConn()
	if err == nil {
		fd, err = duplicate(raw)
	}
	_ = c.Close()
	if err != nil {
		return -1, fmt.Errorf("adopting %T: %w", c, err)
	}
	return fd, nil
}

func duplicate(raw syscall.RawConn) (int, error) {
	fd := -1
	var dupErr error
	err := raw.Control(func(old uintptr) {
		fd, dupErr = unix.FcntlInt(old, unix.F_DUPFD_CLOEXEC, 0)
	})
	if err != nil {
		return -1, err
	}
	if dupErr != nil {
		return -1, fmt.Errorf("duplicating the descriptor: %w", dupErr)
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		_ = unix.Close(fd)
		return -1, fmt.Errorf("fcntl: %w", err)
	}
	return fd, nil
}

// acquire keeps the descriptor open until release; false: it is closed.
func (s *socket) acquire() bool {
	for {
		use := s.use.Load()
		if use&useClosed != 0 {
			return false
		}
		if s.use.CompareAndSwap(use, use+1) {
			return true
		}
	}
}

func (s *socket) release() {
	if use := s.use.Add(^uint32(0)); use&useClosed != 0 && use&useCount == 0 {
		s.destroy(use&useAbrupt != 0)
	}
}

// Bind adds the socket to epoll, which reports its present state: whatever came
// before is not lost.
func (s *socket) Bind(ready tunnel.Readiness) {
	if !s.acquire() {
		return
	}
	defer s.release()
	s.ready = ready
	s.bound = true
	s.key = s.poll.sockets.add(s)
	if err := s.poll.add(s); err != nil {
		s.deaf = true
		_ = s.fail(errnoOf(err)) // told by the next TryRead or TryWrite
		s.poll.r.later(func() { s.tell(true, true) })
		return
	}
	if s.prefix.Load() != nil {
		s.poll.r.later(func() { s.tell(true, false) })
	}
}

// event is called by the poller's goroutine.
func (s *socket) event(mask uint32) {
	const broken = unix.EPOLLHUP | unix.EPOLLERR
	const end = unix.EPOLLRDHUP | broken
	if mask&end != 0 {
		if mask&broken == 0 {
			s.fin.Store(true)
		}
		s.ended.Store(true)
	}
	// One edge reports both directions: a request that comes in would make every
	// stream look writable. Only those that were blocked are told.
	writable := mask&broken != 0 || mask&unix.EPOLLOUT != 0 && s.wants.Load()
	s.tell(mask&(unix.EPOLLIN|end) != 0, writable)
}

// tell calls the Readiness. A Close that comes meanwhile makes the call
// spurious, which is harmless.
func (s *socket) tell(readable, writable bool) {
	ok := s.poll.r.guard(s, func() {
		faultpoint.Here(faultpoint.Reactor)
		if readable {
			s.ready.Readable()
		}
		if writable {
			s.wants.Store(false)
			s.ready.Writable()
		}
	})
	if !ok { // the stream is to find out
		s.poll.r.guard(s, func() {
			s.ready.Readable()
			s.ready.Writable()
		})
	}
}

// TryRead implements tunnel.Endpoint. Errors are those of read(2).
func (s *socket) TryRead(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if !s.acquire() {
		return 0, errFailed
	}
	defer s.release()
	if s.prefix.Load() != nil {
		return s.readPrefix(p), nil
	}
	// What arrived before a failure can still be read: ask the kernel first.
	for {
		n, err := unix.Read(s.fd, p)
		switch {
		case err == unix.EINTR:
			continue
		case err == unix.EAGAIN && !s.deaf:
			return 0, tunnel.ErrWouldBlock
		case err == unix.EAGAIN:
			return 0, syscall.Errno(s.failed.Load())
		case err != nil:
			return 0, s.fail(errnoOf(err))
		case n == 0:
			return 0, s.endOfRead()
		}
		// The caller takes a short read for an empty socket, but the edge that
		// told of the end is gone: have it reported again.
		if n < len(p) && s.ended.Load() && s.bound {
			_ = s.poll.again(s) // fails only when the reactor is closed
		}
		return n, nil
	}
}

// readPrefix hands out the bytes that were read before the socket came here.
// The socket may hold more, and its edge may be over: the read that empties the
// prefix has the state reported again.
func (s *socket) readPrefix(p []byte) int {
	prefix := *s.prefix.Load()
	n := copy(p, prefix)
	if n < len(prefix) {
		rest := prefix[n:]
		s.prefix.Store(&rest)
		return n
	}
	s.prefix.Store(nil)
	if n < len(p) && s.bound {
		_ = s.poll.again(s)
	}
	return n
}

// endOfRead tells a FIN from a reset whose error a write has taken already: the
// kernel reports it once, and a clean end would pass for complete data.
func (s *socket) endOfRead() error {
	alone := s.use.Load()&useCount == 1 // before failed: a write stores that while it is counted
	switch errno := syscall.Errno(s.failed.Load()); {
	case errno == unix.EPIPE: // a reset behind the FIN: the peer's data is complete
		return io.EOF
	case errno != 0:
		return errno
	case alone || !s.stream || s.fin.Load() || s.finished.Load() || !s.isReset():
		return io.EOF
	default:
		return s.fail(unix.ECONNRESET)
	}
}

// isReset reports whether the connection is gone. Multipath TCP answers for its
// first path only and is left out.
func (s *socket) isReset() bool {
	const stateClosed = 7 // TCP_CLOSE, include/net/tcp_states.h
	state, err := unix.GetsockoptByte(s.fd, unix.IPPROTO_TCP, unix.TCP_INFO)
	if err != nil || state != stateClosed {
		return false
	}
	protocol, err := unix.GetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_PROTOCOL)
	return err == nil && protocol == unix.IPPROTO_TCP
}

// TryWrite implements tunnel.Endpoint. Errors are those of write(2).
func (s *socket) TryWrite(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if !s.acquire() {
		return 0, errFailed
	}
	defer s.release()
	if errno := s.failed.Load(); errno != 0 {
		return 0, syscall.Errno(errno)
	}
	written, armed := 0, s.wants.Load()
	for {
		n, err := unix.Write(s.fd, p[written:])
		if n > 0 {
			written += n
		}
		switch {
		case written == len(p):
			return written, nil
		case err == unix.EINTR:
			continue
		case err != nil && err != unix.EAGAIN:
			return written, s.fail(errnoOf(err))
		case err == unix.EAGAIN && armed && written == 0:
			return 0, tunnel.ErrWouldBlock
		case err == unix.EAGAIN && armed:
			return written, nil
		}
		// Say that Writable is owed, then try again: the edge may have come
		// between the write and the word.
		s.wants.Store(true)
		armed = true
	}
}

// Broken implements tunnel.Breaker. The kernel tells an error once; it is kept
// for whoever asks next, behind the data that can still be read.
func (s *socket) Broken() error {
	if !s.acquire() {
		return errFailed
	}
	defer s.release()
	if s.failed.Load() == 0 {
		if errno := s.takeError(); errno != 0 {
			return s.fail(errno)
		}
	}
	if errno := s.failed.Load(); errno != 0 {
		return syscall.Errno(errno)
	}
	return nil
}

// takeError has the kernel tell a failure that nobody has met; 0: none.
func (s *socket) takeError() syscall.Errno {
	errno, err := unix.GetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_ERROR)
	if err != nil {
		return 0
	}
	return syscall.Errno(errno)
}

// CloseWrite implements tunnel.Endpoint.
func (s *socket) CloseWrite() error {
	if !s.acquire() {
		return net.ErrClosed
	}
	defer s.release()
	if errno := s.failed.Load(); errno != 0 {
		return syscall.Errno(errno)
	}
	s.finished.Store(true)
	if err := unix.Shutdown(s.fd, unix.SHUT_WR); err != nil {
		return s.fail(errnoOf(err))
	}
	return nil
}

// Close implements tunnel.Endpoint.
func (s *socket) Close(code tunnel.Code) {
	bits := uint32(useClosed)
	if code != framecodec.CodeNormal {
		bits |= useAbrupt
	}
	for {
		use := s.use.Load()
		if use&useClosed != 0 {
			return
		}
		if s.use.CompareAndSwap(use, use|bits) {
			if use&useCount == 0 {
				s.destroy(bits&useAbrupt != 0)
			}
			return
		}
	}
}

// destroy runs exactly once, when nobody uses the descriptor any more. Epoll
// goes first: the number may be reused as soon as it is closed.
func (s *socket) destroy(abrupt bool) {
	if s.bound {
		s.poll.remove(s)
		s.poll.sockets.remove(s.key)
	}
	if abrupt && s.stream {
		_ = unix.SetsockoptLinger(s.fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
	}
	_ = unix.Close(s.fd)
	if s.watch != nil {
		close(s.watch)
	}
}

// fail remembers the first error of the connection and returns it.
func (s *socket) fail(errno syscall.Errno) error {
	if s.failed.CompareAndSwap(0, uint32(errno)) {
		return errno
	}
	return syscall.Errno(s.failed.Load())
}

func errnoOf(err error) syscall.Errno {
	if errno, ok := errors.AsType[syscall.Errno](err); ok {
		return errno
	}
	return unix.EBADF
}
