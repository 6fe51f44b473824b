package tunnel

import (
	"errors"
	"runtime"
	"testing"
	"time"

	"github.com/culvertgate/culvert/framecodec"
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

// Behind the highest number of a u32 there is none: a peer that goes on counting
// would get the first ones once more.
func TestPeerNumbersDoNotWrap(t *testing.T) {
	s := handSession(t, Dialect2)
	s.recv.highest = 1<<32 - 1
	for _, n := range []uint32{0, 1, 2, 3, 1<<32 - 1} {
		if s.onOpen2(framecodec.Open{Conn: n, Kind: framecodec.KindNamed}.AppendPayload(nil)[2:]) == nil {
			t.Errorf("number %d was taken behind the last one", n)
		}
	}
	var used numbers1
	used.highest = 1<<32 - 10
	if !used.use(1<<32 - 1) {
		t.Error("dialect 1: the last number was not taken")
	}
	for _, n := range []uint32{0, 1, 1<<32 - 1, 1<<32 - 4097} {
		if used.use(n) {
			t.Errorf("dialect 1: number %d was taken behind the last one", n)
		}
	}
}

// fullCarrier has no room and never will.
type fullCarrier struct{ deafCarrier }

func (fullCarrier) Buffered() int         { return 1 << 30 }
func (fullCarrier) NotifyLow(int, func()) {}

// The same as TestNumberingMeetsTheEnd while the sender waits for room: then it
// looks through its list for leftovers only.
func TestLookForLeftoversMeetsTheEnd(t *testing.T) {
	s := NewSession(fullCarrier{deafCarrier{make(chan struct{})}}, Config{Dialect: Dialect2, Role: RoleClient})
	opening := make(chan struct{})
	st := &Stream{s: s, entry: true, extra: &streamExtra{opening: opening}}
	s.initWindows(st)
	st.mu.Lock() // the sender waits here
	s.mu.Lock()
	s.live.Add(1)
	st.owed |= oweOpen
	s.flushDue.Store(true)
	s.queueControlLocked(st)
	s.mu.Unlock()
	for popped := false; !popped; runtime.Gosched() {
		s.mu.Lock()
		popped = !st.inControl
		s.mu.Unlock()
	}
	s.end(&Error{Code: framecodec.CodeTunnelLost})
	st.mu.Unlock()
	select {
	case <-opening:
	case <-time.After(5 * time.Second):
		t.Fatal("who opens the stream waits for ever")
	}
	s.Wait()
	if n := s.live.Load(); n != 0 || st.endLocked().Code != framecodec.CodeTunnelLost {
		t.Errorf("%d streams are left; the stream's end: %v", n, st.endLocked())
	}
}
