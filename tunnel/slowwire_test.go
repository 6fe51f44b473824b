package tunnel_test

import (
	"sync"
	"testing"
	"time"

	"github.com/culvertgate/culvert/tunnel"
)

// slowWire is a wire of a given rate and one-way delay. It lives in a synctest
// bubble, where both are exact.
type slowWire struct {
	*wire
	rate  int // bytes a second
	delay time.Duration
	line  chan timedMessage
	once  *sync.Once
	gone  chan struct{}
}

type timedMessage struct {
	at  time.Time // when its last byte arrives
	msg []byte
}

func newSlowWires(t *testing.T, rate int, delay time.Duration) (a, b *slowWire) {
	x, y := newWires()
	once, gone := new(sync.Once), make(chan struct{})
	ends := [2]*slowWire{}
	var running sync.WaitGroup
	for i, w := range []*wire{x, y} {
		ends[i] = &slowWire{wire: w, rate: rate, delay: delay, line: make(chan timedMessage, 1<<16), once: once, gone: gone}
		running.Go(ends[i].run)
	}
	t.Cleanup(func() {
		_ = ends[0].Close(0)
		running.Wait()
	})
	return ends[0], ends[1]
}

func (w *slowWire) run() {
	free := time.Now() // when the path has taken all that was written before
	for {
		select {
		case <-w.gone:
			return
		case m := <-w.line:
			if free.Before(m.at) {
				free = m.at
			}
			free = free.Add(time.Duration(len(m.msg)) * time.Second / time.Duration(w.rate))
			time.Sleep(time.Until(free.Add(w.delay)))
			w.peer.receive(m.msg)
		}
	}
}

func (w *slowWire) WriteMessage(p []byte) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return errWireClosed
	}
	w.buffered += len(p)
	w.line <- timedMessage{time.Now(), append([]byte(nil), p...)}
	return nil
}

func (w *slowWire) Close(code tunnel.Code) error {
	w.once.Do(func() { close(w.gone) })
	return w.wire.Close(code)
}
