package tunnel_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/culvertgate/culvert/framecodec"
	"github.com/culvertgate/culvert/tunnel"
)

// An Endpoint that comes after the answer gets what has arrived meanwhile, the
// end included, and what it has is sent, although nothing else happens.
func TestLateAttach(t *testing.T) {
	for _, d := range []tunnel.Dialect{tunnel.Dialect1, tunnel.Dialect2} {
		inDuo(t, d, nil, func(p *duo) {
			p.exit.give, p.exit.eof = []byte("from the target"), true
			st, err := p.client.Open(context.Background(), duoTarget, nil)
			if err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			if info := st.Info(); info.Queued != len("from the target") {
				t.Errorf("%+v", info)
			}
			p.entry.give, p.entry.eof = []byte("to it"), true
			if err := st.Attach(p.entry); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			if p.entry.taken() != len("from the target") || p.exit.taken() != len("to it") {
				t.Errorf("%d bytes here, %d there", p.entry.taken(), p.exit.taken())
			}
			p.entry.read(func() {
				if !p.entry.finished || !p.entry.closed || p.entry.code != normal {
					t.Errorf("half closed %v, closed %v with %v", p.entry.finished, p.entry.closed, p.entry.code)
				}
			})
		})
	}
}

// A second Endpoint is refused and closed; so is one that comes after the end.
func TestAttachTwice(t *testing.T) {
	inDuo(t, tunnel.Dialect2, nil, func(p *duo) {
		st := p.open()
		second, third := new(handEnd), new(handEnd)
		if err := st.Attach(second); err == nil || !second.closed {
			t.Errorf("a second Endpoint: %v, closed %v", err, second.closed)
		}
		st.Reset(byAdmin, "")
		if err := st.Attach(third); tunnel.CodeOf(err) != byAdmin || third.code != byAdmin {
			t.Errorf("after the end: %v, closed with %v", err, third.code)
		}
	})
}

// A connection that is reset while its stream stands still is noticed: for want
// of its own credit, of session credit, and of room in the carrier.
func TestBrokenWhileStarved(t *testing.T) {
	cases := map[string]struct {
		gateway int64 // budget
		streams int
		d       tunnel.Dialect
	}{
		"stream credit":  {64 << 20, 1, tunnel.Dialect2},
		"session credit": {tunnel.MinSessionMemory, 5, tunnel.Dialect2},
		"no room":        {64 << 20, 1, tunnel.Dialect1},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			change := func(_, g *tunnel.Config) { g.Budget = tunnel.NewBudget(nil, c.gateway) }
			inDuo(t, c.d, change, func(p *duo) {
				var entries []*handEnd
				for range c.streams {
					p.entry, p.exit = &handEnd{give: make([]byte, 8<<20)}, &handEnd{stuck: true}
					entries = append(entries, p.entry)
					p.open()
				}
				last := entries[len(entries)-1]
				time.Sleep(time.Second)
				last.reset()
				time.Sleep(2 * time.Second)
				last.read(func() {
					if last.closed {
						t.Error("cut at once: what came before the reset could not be read")
					}
				})
				time.Sleep(6 * time.Second)
				last.read(func() {
					if !last.closed || last.code != cancelled {
						t.Errorf("closed %v with %v", last.closed, last.code)
					}
				})
				for _, e := range entries[:len(entries)-1] {
					e.read(func() {
						if e.closed {
							t.Error("another one was cut")
						}
					})
				}
			})
		})
	}
}

// panicEnd panics when it is closed.
type panicEnd struct{ handEnd }

func (e *panicEnd) Close(tunnel.Code) { panic("on the way out") }

// A panic ends its own session and everything in it, and nothing else: also one
// that comes while the session ends.
func TestPanics(t *testing.T) {
	for _, d := range []tunnel.Dialect{tunnel.Dialect1, tunnel.Dialect2} {
		inDuo(t, d, nil, func(p *duo) {
			bad, good := new(panicEnd), new(handEnd)
			for _, e := range []tunnel.Endpoint{bad, good, new(panicEnd)} {
				if _, err := p.client.Open(context.Background(), duoTarget, e); err != nil {
					t.Fatal(err)
				}
				p.exit = new(handEnd)
			}
			synctest.Wait()
			bad.change(func() { bad.panics = true })
			synctest.Wait()
			if got := tunnel.CodeOf(p.client.Err()); got != internal {
				t.Errorf("the session: %v", p.client.Err())
			}
			good.read(func() {
				if !good.closed || good.code != internal {
					t.Errorf("closed %v with %v", good.closed, good.code)
				}
			})
		})
	}
}

// An Accept that panics ends the session.
func TestAcceptPanics(t *testing.T) {
	change := func(_, g *tunnel.Config) { g.Accept = func(*tunnel.Incoming) { panic("no") } }
	inDuo(t, tunnel.Dialect2, change, func(p *duo) {
		if _, err := p.client.Open(context.Background(), duoTarget, p.entry); tunnel.CodeOf(err) != framecodec.CodeTunnelLost {
			t.Errorf("Open: %v", err)
		}
		if got := tunnel.CodeOf(p.gateway.Err()); got != internal {
			t.Errorf("the gateway's session: %v", p.gateway.Err())
		}
	})
}

// Opens that meet the session's end return, whatever moment it is.
func TestOpenWhileTheSessionEnds(t *testing.T) {
	defer goleak.VerifyNone(t)
	for i := range 300 {
		a, b := newWires()
		gateway := tunnel.NewSession(b, tunnel.Config{Dialect: tunnel.Dialect2, Role: tunnel.RoleGateway,
			Accept: func(in *tunnel.Incoming) { _ = in.Attach(new(handEnd), "") }})
		client := tunnel.NewSession(a, tunnel.Config{Dialect: tunnel.Dialect2, Role: tunnel.RoleClient})
		done := make(chan error, 8)
		for range cap(done) {
			go func() {
				for {
					_, err := client.Open(context.Background(), duoTarget, new(handEnd))
					if err != nil {
						done <- err
						return
					}
				}
			}()
		}
		switch i % 3 {
		case 0:
			_ = a.Close(0)
		case 1:
			client.Close(byAdmin, "")
		case 2:
			gateway.Close(byAdmin, "")
		}
		for range cap(done) {
			select {
			case err := <-done:
				if tunnel.CodeOf(err) == framecodec.CodeInternal {
					t.Errorf("round %d: %v", i, err)
				}
			case <-time.After(20 * time.Second):
				t.Fatalf("round %d: an Open hangs; the session: %v, %+v", i, client.Err(), client.Stats())
			}
		}
		client.Wait()
		gateway.Wait()
		if n := client.Stats().Streams + gateway.Stats().Streams; n != 0 {
			t.Fatalf("round %d: %d streams are left", i, n)
		}
	}
}

// The numbers run out: Open says draining, who may make a new tunnel is told,
// and what runs goes on.
func TestNumbersRunOut(t *testing.T) {
	for _, d := range []tunnel.Dialect{tunnel.Dialect1, tunnel.Dialect2} {
		inDuo(t, d, nil, func(p *duo) {
			p.client.SetLastNumber(3)
			first := p.open()
			opened := 1
			var err error
			for err == nil && opened < 10 {
				if _, err = p.client.Open(context.Background(), duoTarget, new(handEnd)); err == nil {
					opened++
				}
			}
			if want := map[tunnel.Dialect]int{1: 3, 2: 2}[d]; opened != want || tunnel.CodeOf(err) != framecodec.CodeDraining {
				t.Errorf("%d were opened, then: %v", opened, err)
			}
			select {
			case <-p.client.Away():
			default:
				t.Error("nobody is told")
			}
			if _, err := p.client.Open(context.Background(), duoTarget, new(handEnd)); tunnel.CodeOf(err) != framecodec.CodeDraining {
				t.Errorf("another Open: %v", err)
			}
			if first.Info().ID != 1 || p.client.Err() != nil {
				t.Errorf("stream %d, session %v", first.Info().ID, p.client.Err())
			}
		})
	}
}

// GoAway: what runs goes on, new ones are refused.
func TestGoAway(t *testing.T) {
	inDuo(t, tunnel.Dialect2, nil, func(p *duo) {
		p.open()
		p.gateway.GoAway(framecodec.CodeDraining, time.Minute)
		synctest.Wait()
		<-p.client.Away()
		if _, err := p.client.Open(context.Background(), duoTarget, new(handEnd)); tunnel.CodeOf(err) != framecodec.CodeDraining {
			t.Errorf("Open: %v", err)
		}
		p.entry.send(make([]byte, 1<<20))
		synctest.Wait()
		if p.exit.taken() != 1<<20 {
			t.Errorf("%d bytes", p.exit.taken())
		}
	})
}

// A peer that says nothing is left after its time.
func TestHelloTimeout(t *testing.T) {
	for _, role := range []tunnel.Role{tunnel.RoleClient, tunnel.RoleGateway} {
		synctest.Test(t, func(t *testing.T) {
			a, _ := newWires()
			s := tunnel.NewSession(a, tunnel.Config{Dialect: tunnel.Dialect2, Role: role, HelloTimeout: 10 * time.Second})
			time.Sleep(9 * time.Second)
			if s.Err() != nil {
				t.Errorf("too early: %v", s.Err())
			}
			time.Sleep(2 * time.Second)
			synctest.Wait()
			if got := tunnel.CodeOf(s.Err()); got != timedOut {
				t.Errorf("the session: %v", s.Err())
			}
			s.Wait()
		})
	}
}

// A Close that nobody acknowledges is over after a few seconds; the last frame
// is the Close.
func TestCloseIsBounded(t *testing.T) {
	for _, full := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			a, b := newWires()
			s := tunnel.NewSession(a, tunnel.Config{Dialect: tunnel.Dialect1, Role: tunnel.RoleClient})
			if full {
				_ = b.WriteMessage(framecodec.Ping{HasConn: true}.AppendFrame(nil, 0)) // somebody is there
				for range 5 {
					go func() {
						_, err := s.Open(context.Background(), duoTarget, new(source))
						if err == nil {
							t.Error("opened by nobody")
						}
					}()
				}
			}
			synctest.Wait()
			from := time.Now()
			s.Close(byAdmin, "enough")
			s.Wait()
			if took := time.Since(from); took > 6*time.Second {
				t.Errorf("it took %v", took)
			}
			if full {
				return // nothing more could be written
			}
			last := b.inbox[len(b.inbox)-1]
			if want := (framecodec.CloseConnection{Reason: framecodec.ReasonAdminClosed, Text: []byte("enough")}).AppendFrame(nil, 0); !bytes.HasSuffix(last, want[12:]) {
				t.Errorf("the last message: %.100x", last)
			}
		})
	}
}

// A carrier for tiny messages is refused with a reason.
func TestCarrierOfSmallMessages(t *testing.T) {
	defer goleak.VerifyNone(t)
	a, _ := newWires()
	a.max = 1200
	s := tunnel.NewSession(a, tunnel.Config{Dialect: tunnel.Dialect2, Role: tunnel.RoleClient})
	s.Wait()
	if s.Err() == nil || tunnel.CodeOf(s.Err()) != framecodec.CodeProtocolError {
		t.Errorf("the session: %v", s.Err())
	}
}

// What a gateway or a wrong name may not open costs an Endpoint, nothing else.
func TestOpensThatCannotBe(t *testing.T) {
	inDuo(t, tunnel.Dialect2, nil, func(p *duo) {
		long := tunnel.Target{Kind: tunnel.KindTCP, Host: string(make([]byte, 256)), Port: 1}
		for _, c := range []struct {
			s    *tunnel.Session
			to   tunnel.Target
			want tunnel.Code
		}{{p.client, long, framecodec.CodeUnknownTarget}, {p.gateway, duoTarget, framecodec.CodeNotAllowed}} {
			e := new(handEnd)
			if _, err := c.s.Open(context.Background(), c.to, e); tunnel.CodeOf(err) != c.want || e.code != c.want {
				t.Errorf("Open: %v, closed with %v", err, e.code)
			}
		}
		past, cancel := context.WithCancel(context.Background())
		cancel()
		if _, err := p.client.Open(past, duoTarget, p.entry); !errors.Is(err, context.Canceled) {
			t.Errorf("with a context that is over: %v", err)
		}
	})
}

// The trace of an Open and the bound address of its answer arrive.
func TestTrace(t *testing.T) {
	inDuo(t, tunnel.Dialect2, nil, func(p *duo) {
		p.pending = true
		go func() {
			_, err := p.client.OpenWith(context.Background(), duoTarget, p.entry, tunnel.OpenOptions{Trace: "00-aa-bb-01"})
			if err != nil {
				t.Error(err)
			}
		}()
		synctest.Wait()
		if p.in.Trace() != "00-aa-bb-01" || p.in.Target() != duoTarget {
			t.Errorf("trace %q, target %v", p.in.Trace(), p.in.Target())
		}
		if err := p.in.Attach(p.exit, "192.0.2.7:80"); err != nil {
			t.Error(err)
		}
	})
}

// edgeEnd has data from the middle of its first TryRead on, and says so then:
// what an edge-triggered socket does.
type edgeEnd struct {
	handEnd
	once sync.Once
}

func (e *edgeEnd) TryRead(p []byte) (n int, err error) {
	e.once.Do(func() {
		signalled := make(chan struct{})
		go func() {
			e.send([]byte("edge"))
			close(signalled)
		}()
		<-signalled
		err = tunnel.ErrWouldBlock // the answer of before
	})
	if err != nil {
		return 0, err
	}
	return e.handEnd.TryRead(p)
}

// An edge during a read that finds nothing is the only one.
func TestEdgeDuringRead(t *testing.T) {
	inDuo(t, tunnel.Dialect2, nil, func(p *duo) {
		e := new(edgeEnd)
		if _, err := p.client.Open(context.Background(), duoTarget, e); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		e.mu.Lock()
		ready := e.ready
		e.mu.Unlock()
		ready.Readable()
		synctest.Wait()
		if got := p.exit.taken(); got != len("edge") {
			t.Errorf("%d bytes came", got)
		}
	})
}

// loudObserver panics whenever it is told something of a stream.
type loudObserver struct{ panics atomic.Int32 }

func (*loudObserver) StreamOpened(*tunnel.Stream)                     { panic("opened") }
func (*loudObserver) StreamEnded(*tunnel.Stream, tunnel.Code, string) { panic("ended") }
func (o *loudObserver) Panicked(any, []byte)                          { o.panics.Add(1) }

// An Observer that panics ends its session, and holds up neither the other
// streams' ends nor who answers one.
func TestObserverPanics(t *testing.T) {
	for _, d := range []tunnel.Dialect{tunnel.Dialect1, tunnel.Dialect2} {
		loud := new(loudObserver)
		change := func(_, gateway *tunnel.Config) { gateway.Observer = loud }
		inDuo(t, d, change, func(p *duo) {
			p.pending = true
			opened := make(chan error, 3)
			ends := make([]*handEnd, cap(opened))
			for i := range ends {
				ends[i] = new(handEnd)
				go func() {
					_, err := p.client.Open(context.Background(), duoTarget, ends[i])
					opened <- err
				}()
			}
			synctest.Wait()
			exit := new(handEnd)
			_ = p.in.Attach(exit, "")
			answered := 0
			for range ends {
				if err := <-opened; err == nil {
					answered++ // the answer was still sent
				}
			}
			if answered > 1 {
				t.Errorf("%d streams were answered", answered)
			}
			<-p.gateway.Done()
			if got := tunnel.CodeOf(p.gateway.Err()); got != internal {
				t.Errorf("the session: %v", p.gateway.Err())
			}
			exit.read(func() {
				if !exit.closed {
					t.Error("the exit was not closed")
				}
			})
			if n := p.gateway.Stats().Streams; n != 0 {
				t.Errorf("%d streams are left", n)
			}
			if n := loud.panics.Load(); n != 4 {
				t.Errorf("%d panics were told, want 4: one of the answer, one of each end", n)
			}
		})
	}
}

// Data frames may be empty. They are nothing to whom reads: a Read that returned
// nothing for each would look broken to package bufio.
func TestEmptyFrames(t *testing.T) {
	for _, d := range []tunnel.Dialect{tunnel.Dialect1, tunnel.Dialect2} {
		t.Run(string('0'+rune(d)), func(t *testing.T) {
			r := newRaw(t, d, tunnel.RoleGateway, nil)
			r.greet()
			conn := r.open(1)
			before := r.s.Stats().FramesIn
			for range 3 {
				r.write(framecodec.AppendFrame(nil, 1, r.sent[1], nil))
			}
			waitFor(t, func() bool { return r.s.Stats().FramesIn == before+3 })
			_ = conn.SetReadDeadline(time.Now().Add(10 * time.Millisecond))
			if n, err := conn.Read(make([]byte, 8)); n != 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("read %d bytes, %v, and nothing has come", n, err)
			}
			r.exchange(1, conn)
		})
	}
	_, ep := newConn()
	if n, err := ep.TryWrite(nil); n != 0 || err != nil {
		t.Errorf("TryWrite of nothing: %d, %v", n, err)
	}
}

// A Close is not answered, whatever its code: not with protocol_error either,
// which is what a session says of its own accord when the peer breaks a rule.
func TestCloseIsNotAnswered(t *testing.T) {
	for d, m := range map[tunnel.Dialect]message{
		tunnel.Dialect1: framecodec.CloseConnection{Reason: framecodec.ReasonProtocolError, Text: []byte("you")},
		tunnel.Dialect2: framecodec.Close{Code: framecodec.CodeProtocolError, Text: []byte("you")},
	} {
		t.Run(string('0'+rune(d)), func(t *testing.T) {
			r := newRaw(t, d, tunnel.RoleGateway, nil)
			r.greet()
			r.send(m)
			for msg, data, ok := r.nextControl(); ok; msg, data, ok = r.nextControl() {
				if msg != framecodec.MsgPing { // of the greeting
					t.Errorf("answered with %v %q", msg, data)
				}
			}
			if err := r.s.Err(); tunnel.CodeOf(err) != framecodec.CodeProtocolError {
				t.Errorf("the session ended with %v", err)
			}
		})
	}
}

// suddenEnd takes nothing twice, and each time has room directly behind the
// attempt: the edge comes before the caller could have noted anything.
type suddenEnd struct {
	handEnd
	refused int
}

func (e *suddenEnd) TryWrite(p []byte) (int, error) {
	if e.refused < 2 {
		e.refused++
		e.ready.Writable()
		return 0, tunnel.ErrWouldBlock
	}
	return e.handEnd.TryWrite(p)
}

// Room that comes directly behind the last attempt to write is not missed.
func TestEdgeDuringWrite(t *testing.T) {
	for _, d := range []tunnel.Dialect{tunnel.Dialect1, tunnel.Dialect2} {
		inDuo(t, d, nil, func(p *duo) {
			sudden := new(suddenEnd)
			if _, err := p.client.Open(context.Background(), duoTarget, sudden); err != nil {
				t.Fatal(err)
			}
			p.exit.send([]byte("data"))
			synctest.Wait()
			if n := sudden.taken(); n != 4 {
				t.Errorf("dialect %d: %d of 4 bytes were taken", d, n)
			}
		})
	}
}
