package tunnel_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/culvertgate/culvert/tunnel"
)

var errScriptReset = errors.New("connection reset by script")

// script is an Endpoint that gives `left` bytes of one generator and expects the
// bytes of another. It reads and writes partially, blocks at random and signals
// later, and can be stalled, resumed and broken.
type script struct {
	c    *chaos
	name string

	mu        sync.Mutex
	ready     tunnel.Readiness
	source    *rand.ChaCha8
	left      int
	expect    *rand.ChaCha8
	got       int
	check     []byte // reused
	fault     error  // what the engine did wrong
	noRead    bool   // stalled: TryRead gives nothing
	noWrite   bool   // stalled: TryWrite takes nothing
	broken    error
	sawEnd    bool // io.EOF was returned
	finished  bool // CloseWrite was called
	closed    bool
	code      tunnel.Code
	owedRead  bool // Readable is owed
	owedWrite bool // Writable is owed
}

func newScript(c *chaos, name string, source, expect uint64, left int) *script {
	key := func(n uint64) (k [32]byte) {
		k[0], k[1], k[2] = byte(n), byte(n>>8), byte(n>>16)
		return k
	}
	return &script{c: c, name: name, left: left,
		source: rand.NewChaCha8(key(source)), expect: rand.NewChaCha8(key(expect))}
}

func (e *script) faultf(format string, args ...any) {
	if e.fault == nil {
		e.fault = fmt.Errorf(e.name+": "+format, args...)
	}
}

func (e *script) Bind(r tunnel.Readiness) {
	time.Sleep(time.Duration(e.c.roll(4)) * 20 * time.Microsecond) // nobody may be faster
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.ready != nil {
		e.faultf("bound twice")
	}
	e.ready = r
	e.c.later(r.Readable)
}

func (e *script) TryRead(p []byte) (int, error) {
	dice := e.c.roll(1 << 20)
	e.mu.Lock()
	defer e.mu.Unlock()
	switch {
	case e.ready == nil:
		e.faultf("read before Bind")
		return 0, tunnel.ErrWouldBlock
	case len(p) == 0:
		e.faultf("read without room")
		return 0, nil
	case e.sawEnd:
		e.faultf("read behind the end")
		return 0, io.EOF
	case e.broken != nil:
		return 0, e.broken
	case e.noRead:
		e.owedRead = true
		return 0, tunnel.ErrWouldBlock
	case e.left == 0:
		e.sawEnd = true
		return 0, io.EOF
	case dice%5 == 0:
		e.c.later(e.ready.Readable)
		return 0, tunnel.ErrWouldBlock
	}
	n := min(len(p), e.left)
	if dice%3 == 0 {
		n = 1 + dice%n
	}
	_, _ = e.source.Read(p[:n])
	e.left -= n
	if e.left == 0 && dice%2 == 0 {
		e.sawEnd = true
		return n, io.EOF
	}
	if n < len(p) {
		e.c.later(e.ready.Readable)
	}
	return n, nil
}

func (e *script) TryWrite(p []byte) (int, error) {
	dice := e.c.roll(1 << 20)
	e.mu.Lock()
	defer e.mu.Unlock()
	n := len(p)
	switch {
	case e.ready == nil:
		e.faultf("written before Bind")
		return 0, tunnel.ErrWouldBlock
	case n == 0:
		e.faultf("nothing written")
		return 0, nil
	case e.finished:
		e.faultf("written behind CloseWrite")
		return n, nil
	case e.broken != nil:
		return 0, e.broken
	case e.noWrite:
		e.owedWrite = true
		return 0, tunnel.ErrWouldBlock
	case dice%5 == 0:
		e.c.later(e.ready.Writable)
		return 0, tunnel.ErrWouldBlock
	case dice%3 == 0:
		n = dice % (n + 1)
	}
	e.check = append(e.check[:0], p[:n]...)
	_, _ = e.expect.Read(e.check)
	if !bytes.Equal(e.check, p[:n]) {
		e.faultf("wrong bytes within [%d, %d)", e.got, e.got+n)
	}
	e.got += n
	if n < len(p) {
		e.c.later(e.ready.Writable)
	}
	return n, nil
}

func (e *script) CloseWrite() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.finished || e.ready == nil {
		e.faultf("CloseWrite twice or before Bind")
	}
	e.finished = true
	return nil
}

func (e *script) Close(code tunnel.Code) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.closed {
		e.closed, e.code = true, code
	}
}

// Broken implements tunnel.Breaker.
func (e *script) Broken() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.broken
}

// stall has the script neither give nor take from now on.
func (e *script) stall(read, write bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.noRead, e.noWrite = e.noRead || read, e.noWrite || write
}

// resume ends a stall, and signals what is owed and nothing else.
func (e *script) resume() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.noRead, e.noWrite = false, false
	if e.ready != nil && e.owedRead {
		e.c.later(e.ready.Readable)
	}
	if e.ready != nil && e.owedWrite {
		e.c.later(e.ready.Writable)
	}
	e.owedRead, e.owedWrite = false, false
}

// reset breaks the script's connection.
func (e *script) reset(err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.broken = err
	if e.ready != nil {
		e.c.later(e.ready.Readable)
		e.c.later(e.ready.Writable)
	}
}

func (e *script) isClosed() (bool, tunnel.Code) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.closed, e.code
}
