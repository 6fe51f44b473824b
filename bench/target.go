//go:build linux

package main

import (
	"bytes"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"

	"github.com/culvertgate/culvert/internal/testkit"
)

// The first byte of a connection says what the target does with it.
const (
	modeEcho   = 'E' // sends everything back
	modeSink   = 'U' // takes everything, and compares
	modeSource = 'D' // sends for ever
)

// noise is the payload, repeated. Its length is odd so that no chunk size of a
// tunnel ever lines up with it.
var noise = testkit.PayloadBytes(1, 8<<20|1)

// errDiffers: a tunnel that changes bytes has no speed.
var errDiffers = errors.New("the bytes that arrived are not those that were sent")

// position walks through noise.
type position int

// next returns the following n bytes or fewer.
func (p *position) next(n int) []byte {
	at := int(*p)
	end := min(at+n, len(noise))
	*p = position(end % len(noise))
	return noise[at:end]
}

// check compares what arrived.
func (p *position) check(b []byte) error {
	for len(b) > 0 {
		want := p.next(len(b))
		if !bytes.Equal(want, b[:len(want)]) {
			return errDiffers
		}
		b = b[len(want):]
	}
	return nil
}

// target is what the tunnels lead to.
type target struct {
	listener net.Listener
	received atomic.Int64 // bytes that sinks took
	open     atomic.Int64 // connections
	differs  atomic.Bool
}

func newTarget() (*target, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	t := &target{listener: l}
	go t.accept()
	return t, nil
}

// accept ends with the listener, that is with the process.
func (t *target) accept() {
	for {
		c, err := t.listener.Accept()
		if err != nil {
			return
		}
		t.open.Add(1)
		go func() {
			defer t.open.Add(-1)
			defer c.Close()
			t.serve(c)
		}()
	}
}

func (t *target) serve(c net.Conn) {
	var mode [1]byte
	if _, err := io.ReadFull(c, mode[:]); err != nil {
		return
	}
	switch mode[0] {
	case modeEcho:
		echo(c)
	case modeSink:
		t.sink(c)
	case modeSource:
		var at position
		for {
			if _, err := c.Write(at.next(64 << 10)); err != nil {
				return
			}
		}
	}
}

// large are the buffers of echoes that have more to read than a request.
var large = sync.Pool{New: func() any { return new([64 << 10]byte) }}

// echo waits with a small buffer: thousands of idle ones are held.
func echo(c net.Conn) {
	var small [256]byte
	more := false
	for {
		room := small[:]
		if more {
			b := large.Get().(*[64 << 10]byte)
			room = b[:]
		}
		n, err := c.Read(room)
		if err == nil {
			_, err = c.Write(room[:n])
		}
		if more {
			large.Put((*[64 << 10]byte)(room))
		}
		if err != nil {
			return
		}
		more = !more && n == len(small)
	}
}

func (t *target) sink(c net.Conn) {
	b := make([]byte, 256<<10)
	var at position
	for {
		n, err := c.Read(b)
		if at.check(b[:n]) != nil {
			t.differs.Store(true)
			return
		}
		t.received.Add(int64(n))
		if err != nil {
			return
		}
	}
}
