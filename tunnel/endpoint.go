package tunnel

import "errors"

// ErrWouldBlock is returned by TryRead and TryWrite when nothing can be done
// now; Readable or Writable is signalled when that has changed.
var ErrWouldBlock = errors.New("operation would block")

// Endpoint is the local end of a stream: a socket in the reactor, the inner end
// of a net.Conn of ours, a test script. All methods return at once. TryRead is
// called by one goroutine at a time, TryWrite and CloseWrite by one at a time
// (reads and writes may overlap); Close may come from any and more than once.
type Endpoint interface {
	// TryRead reads into p. It returns ErrWouldBlock (and 0) when there is
	// nothing: the Readiness is then told Readable when there is. A short read
	// may mean that nothing more is there; if more may be, or the end is near,
	// Readable has been or will be signalled again only if the caller has seen
	// ErrWouldBlock or a read shorter than p. io.EOF: the other end has finished
	// its direction. Any other error: the connection was reset or broke.
	TryRead(p []byte) (int, error)
	// TryWrite writes a part of p, perhaps none (then 0 and ErrWouldBlock); when
	// it took less than all, Writable is signalled when there is room again.
	TryWrite(p []byte) (int, error)
	// CloseWrite sends the end of this direction (FIN) behind what was written.
	CloseWrite() error
	// Close releases everything. With CodeNormal both directions had ended;
	// with any other code the end is abrupt (a TCP socket is reset).
	Close(code Code)
	// Bind says who is told Readable and Writable. It is called once, before
	// anything else; the Endpoint signals the state it finds (a socket that
	// already has data: Readable) after Bind, never from within it.
	Bind(r Readiness)
}

// Breaker is an Endpoint that knows of its connection's failure (reset, time-out)
// without being read or written. A stream that may not read, for want of credit
// or because it has read the end already, asks it: nobody would notice otherwise.
type Breaker interface {
	// Broken returns the failure, or nil: also after a half close, and while
	// nothing is known. It returns at once and consumes nothing.
	Broken() error
}

// Readiness is what an Endpoint tells. The methods set a flag and may take the
// session's ready-list lock, nothing more; they are never called from inside a
// Try method or under a lock that a Try method takes. Spurious calls are
// harmless. An end (FIN or error) of the socket is Readable; an error is
// Writable too.
type Readiness interface {
	Readable()
	Writable()
}
