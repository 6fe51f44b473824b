package tunnel

import (
	"errors"
	"runtime"
	"testing"
	"time"
)

// deafCarrier takes everything and brings nothing until it is closed.
type deafCarrier struct{ closed chan struct{} }

func (c deafCarrier) Wait() error {
	<-c.closed
	return errors.New("closed")
}
func (c deafCarrier) ReadMessage([]byte) (int, error) { return 0, errors.New("nothing") }
func (c deafCarrier) WriteMessage([]byte) error       { return nil }
func (c deafCarrier) Buffered() int                   { return 0 }
func (c deafCarrier) NotifyLow(_ int, f func())       { f() }
func (c deafCarrier) MaxMessage() int                 { return maxMessage }
func (c deafCarrier) Close(Code) error {
	close(c.closed)
	return nil
}

// A stream that the sender has just taken out of its list, to give it a number,
// is in no list while the session ends. It must not be forgotten.
func TestNumberingMeetsTheEnd(t *testing.T) {
	for _, closing := range []bool{false, true} {
		s := NewSession(deafCarrier{make(chan struct{})}, Config{Dialect: Dialect2, Role: RoleClient})
		opening := make(chan struct{})
		st := &Stream{s: s, entry: true, extra: &streamExtra{opening: opening}}
		s.initWindows(st)
		st.mu.Lock() // the sender waits here, between the list and the table
		s.mu.Lock()
		s.live.Add(1)
		st.owed |= oweOpen
		s.queueControlLocked(st)
		s.mu.Unlock()
		for popped := false; !popped; runtime.Gosched() {
			s.mu.Lock()
			popped = !st.inControl
			s.mu.Unlock()
		}
		if closing {
			s.Close(0, "")
		} else {
			s.end(&Error{Code: 21})
		}
		st.mu.Unlock()
		select {
		case <-opening:
		case <-time.After(10 * time.Second):
			t.Fatal("who opens the stream waits for ever")
		}
		s.Wait()
		if n := s.live.Load(); n != 0 || st.endLocked().Code == 0 {
			t.Errorf("%d streams are left; the stream's end: %v", n, st.endLocked())
		}
	}
}

// fullEnd always has something.
type fullEnd struct{}

func (fullEnd) TryRead(p []byte) (int, error)  { return len(p), nil }
func (fullEnd) TryWrite(p []byte) (int, error) { return len(p), nil }
func (fullEnd) CloseWrite() error              { return nil }
func (fullEnd) Close(Code)                     {}
func (fullEnd) Bind(Readiness)                 {}

// A stream that is ready before its Open or its answer went out is not read.
func TestNothingBeforeTheAnswer(t *testing.T) {
	s := NewSession(deafCarrier{make(chan struct{})}, Config{Dialect: Dialect2, Role: RoleClient})
	s.Close(0, "")
	s.Wait() // the rest is called by hand
	for _, owed := range []uint8{oweOpen, oweOpened, oweOpened | oweWindow, 0, oweWindow} {
		st := &Stream{s: s, num: 1, ep: fullEnd{}, owed: owed}
		s.initWindows(st)
		b, _ := s.readStream(make([]byte, 0, messageSize), chunkSize, st)
		if want := owed&(oweOpen|oweOpened) == 0; (len(b) > 0) != want {
			t.Errorf("owed %b: %d bytes were read", owed, len(b))
		}
	}
}
