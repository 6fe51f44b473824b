package reactor

import (
	"errors"
	"io"
	"net"
)

var errPanicked = errors.New("the connection panicked")

// read is the reader goroutine of a portable Endpoint.
func (p *portable) read() {
	defer p.r.running.Done()
	defer p.readerGone()
	large := false  // the last read filled its room: more is there
	var after error // came with the data that was handed over last
	for p.handedOver() {
		if after != nil {
			p.handOver(nil, nil, after)
			return
		}
		room := p.small[:]
		var b *buffer
		if large {
			b = buffers.Get().(*buffer)
			room = b[:]
		}
		n, err := 0, errPanicked
		p.r.guard(p, func() { n, err = p.conn.Read(room) })
		large = n == len(room)
		if n > 0 { // the stream may take a short read for all there is: the end is told when it has taken it
			after, err = err, nil
		}
		if !p.handOver(room[:n], b, err) {
			return
		}
	}
}

// handedOver tells the stream of what lies ready and waits until it was taken;
// false: the Endpoint is closed.
func (p *portable) handedOver() bool {
	p.mu.Lock()
	waiting := len(p.in) > 0 && !p.closed
	p.mu.Unlock()
	if waiting {
		p.tell(true, false)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for len(p.in) > 0 && !p.closed {
		p.taken.Wait()
	}
	return !p.closed
}

// handOver publishes a read; false: it was the last one.
func (p *portable) handOver(data []byte, large *buffer, err error) bool {
	last := p.publish(data, large, err)
	if last {
		p.tell(true, err != nil && !errors.Is(err, io.EOF))
	}
	return !last
}

func (p *portable) publish(data []byte, large *buffer, err error) (last bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed || len(data) == 0 {
		if large != nil {
			buffers.Put(large)
		}
	} else {
		p.in, p.inLarge = data, large
	}
	p.readErr = err
	return p.closed || err != nil
}

// write is the writer goroutine. It ends when nothing is to be written.
func (p *portable) write() {
	defer p.r.running.Done()
	for {
		b, n, next := p.nextWrite()
		err := errPanicked
		switch next {
		case stepData:
			p.roomAgain()
			p.r.guard(p, func() { _, err = p.conn.Write(b[:n]) })
			buffers.Put(b)
		case stepFinish:
			p.r.guard(p, func() { err = endOf(p.conn) })
		case stepClose:
			p.r.guard(p, p.closeConn)
			p.writerGone()
			return
		case stepRest:
			return
		}
		p.wrote(err)
	}
}

type step int

const (
	stepRest step = iota // nothing is left: the goroutine ends
	stepData
	stepFinish
	stepClose
)

// nextWrite takes what is to be done next. For stepRest the running mark falls
// in the same critical section, so that a TryWrite behind it starts a new
// goroutine.
func (p *portable) nextWrite() (*buffer, int, step) {
	p.mu.Lock()
	defer p.mu.Unlock()
	dead := p.abrupt || p.writeErr != nil
	if dead && p.out != nil {
		buffers.Put(p.out)
		p.out, p.outLen = nil, 0
	}
	switch {
	case p.outLen > 0:
		b, n := p.out, p.outLen
		p.out, p.outLen = nil, 0
		return b, n, stepData
	case p.finish && !p.finished && !dead:
		p.finished = true
		return nil, 0, stepFinish
	case p.closed:
		return nil, 0, stepClose
	default:
		p.writing = false
		return nil, 0, stepRest
	}
}

// roomAgain tells a stream that was refused room that it has some.
func (p *portable) roomAgain() {
	p.mu.Lock()
	owed := p.wants && !p.closed
	p.wants = false
	p.mu.Unlock()
	if owed {
		p.tell(false, true)
	}
}

// wrote notes a failure and tells the stream of it.
func (p *portable) wrote(err error) {
	if err == nil {
		return
	}
	p.mu.Lock()
	if p.writeErr == nil {
		p.writeErr = err
	}
	p.mu.Unlock()
	p.tell(true, true)
}

// closeConn closes all layers. An abrupt end resets, whoever comes first: this
// or the Close that asked for it.
func (p *portable) closeConn() {
	p.mu.Lock()
	abrupt := p.abrupt
	p.mu.Unlock()
	if abrupt {
		reset(p.conn)
	}
	_ = p.conn.Close() // nobody is left to be told
}

// endOf ends the writing direction of c, if it can.
func endOf(c net.Conn) error {
	w := writeEnd(c)
	if w == nil {
		return nil
	}
	return w.CloseWrite()
}

// readerGone and writerGone: the later of the two gives everything back.
func (p *portable) readerGone() {
	p.mu.Lock()
	p.reading = false
	over := p.gone
	p.mu.Unlock()
	if over {
		p.release()
	}
}

func (p *portable) writerGone() {
	p.mu.Lock()
	p.gone = true
	over := !p.reading
	p.mu.Unlock()
	if over {
		p.release()
	}
}

// release runs exactly once, when no goroutine touches the connection any more.
func (p *portable) release() {
	p.r.forget(p)
	if p.watch != nil {
		close(p.watch)
	}
}
