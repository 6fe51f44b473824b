package tunnel_test

import (
	"io"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/culvertgate/culvert/framecodec"
	"github.com/culvertgate/culvert/tunnel"
)

// probed returns the next probe, which has to be what comes next, as its answer.
func (r *raw) probed(n uint32) framecodec.Pong {
	r.t.Helper()
	msg, data, ok := r.nextControl()
	m, err := framecodec.ParsePing(data)
	if !ok || msg != framecodec.MsgPing || err != nil || m.Conn != n || len(m.Extra) == 0 {
		r.t.Fatalf("%v %+v (%v), want a Ping for connection %d with a clock", msg, m, err, n)
	}
	return framecodec.Pong{Conn: n, Extra: append([]byte(nil), m.Extra...)}
}

func (r *raw) noneAccepted() {
	r.t.Helper()
	select {
	case <-r.accepted:
		r.t.Error("a stream was accepted before its opener knew the number")
	default:
	}
}

func shyRaw(t *testing.T, change func(*tunnel.Config)) *raw {
	t.Helper()
	r := rawBeside(t, tunnel.Dialect1, tunnel.RoleGateway, change)
	r.shy = true
	return r
}

// The reference's listener drops what comes for a number that it has not entered
// yet: nothing is said of a stream before it knows it.
func TestDialect1ExitWaitsForTheOpener(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := shyRaw(t, nil)
		r.send(framecodec.OpenConnection{Conn: 1})
		r.data(1, []byte("early"))
		r.probed(1)
		r.probed(1) // asked again
		r.probed(1)
		r.send(framecodec.Pong{Conn: 7}) // of a stream that there is not
		r.send(framecodec.Pong{})        // of none
		synctest.Wait()
		r.noneAccepted()
		r.send(framecodec.OpenConnection{Conn: 2})
		answer := r.probed(2)
		r.send(answer)
		second := <-r.accepted
		r.send(answer) // once more
		if n := second.in.Stream().ID(); n != 2 {
			t.Errorf("stream %d was accepted first, want 2", n)
		}
		r.send(framecodec.Pong{Conn: 1}) // without the clock
		first := <-r.accepted
		var b [5]byte
		if _, err := first.conn.Read(b[:]); err != nil || string(b[:]) != "early" {
			t.Errorf("read %q, %v; want what came with the Open", b, err)
		}
		r.exchange(1, first.conn)
		r.exchange(2, second.conn)
		r.noneAccepted()
	})
}

// A refusal that comes too early would leave the reference's client waiting for
// ever.
func TestDialect1RefusalWaitsForTheOpener(t *testing.T) {
	r := shyRaw(t, func(cfg *tunnel.Config) {
		cfg.Accept = func(in *tunnel.Incoming) { in.Refuse(framecodec.CodeNotAllowed, "no") }
	})
	r.send(framecodec.OpenConnection{Conn: 1})
	r.send(r.probed(1))
	r.expectReset(1, framecodec.CodeNotAllowed)
}

// A peer that answers no Ping is served all the same, and after the first time at
// once.
func TestDialect1OpenerThatAnswersNoProbe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := shyRaw(t, nil)
		began := time.Now()
		r.send(framecodec.OpenConnection{Conn: 1})
		<-r.accepted
		if took := time.Since(began); took != 250*time.Millisecond {
			t.Errorf("accepted after %v, want 250 ms for an answer", took)
		}
		for r.said() != framecodec.MsgConnectionOpened {
		}
		began = time.Now()
		r.send(framecodec.OpenConnection{Conn: 2})
		<-r.accepted
		if msg := r.said(); msg != framecodec.MsgConnectionOpened || time.Since(began) != 0 {
			t.Errorf("%v after %v, want no further question", msg, time.Since(began))
		}
		// One that begins to answer is asked again.
		r.send(framecodec.Pong{Conn: 2})
		r.send(framecodec.OpenConnection{Conn: 3})
		r.send(r.probed(3))
		<-r.accepted
	})
}

// One that has answered before is busy: it gets more time, but not when it has
// filled the queue meanwhile, behind which its answer would be.
func TestDialect1OpenerThatIsBusy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := shyRaw(t, nil)
		open := func(n uint32) time.Time {
			r.send(framecodec.OpenConnection{Conn: n})
			return time.Now()
		}
		began := open(1)
		time.Sleep(100 * time.Millisecond)
		r.send(r.probed(1))
		<-r.accepted
		if took := time.Since(began); took != 100*time.Millisecond {
			t.Errorf("accepted after %v, want 100 ms", took)
		}
		began = open(2)
		<-r.accepted
		if took := time.Since(began); took != 5*time.Second {
			t.Errorf("accepted after %v, want 5 s", took)
		}
		began = open(3)
		go r.data(3, make([]byte, 2<<20))
		full := <-r.accepted
		if _, err := io.ReadFull(full.conn, make([]byte, 2<<20)); err != nil || time.Since(began) != 0 {
			t.Errorf("after %v: %v; want all data at once", time.Since(began), err)
		}
	})
}

func (r *raw) said() framecodec.Message {
	r.t.Helper()
	msg, _, ok := r.nextControl()
	if !ok {
		r.t.Fatalf("nothing more is said; the session: %v", r.s.Err())
	}
	return msg
}

// Behind a long path no answer is too fast: it is not made slower.
func TestDialect1LongPath(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := shyRaw(t, nil)
		waits := func(n uint32, path time.Duration) bool {
			t.Helper()
			r.send(framecodec.OpenConnection{Conn: n})
			answer := r.probed(n) // it goes on measuring
			synctest.Wait()
			waiting := len(r.accepted) == 0
			time.Sleep(path)
			r.send(answer)
			<-r.accepted
			for r.said() != framecodec.MsgConnectionOpened {
			}
			return waiting
		}
		for n := uint32(1); n <= 10; n++ {
			if got, want := waits(n, 40*time.Millisecond), n <= 8; got != want { // so many have to say so
				t.Errorf("stream %d waits: %v, want %v", n, got, want)
			}
		}
		_ = waits(11, time.Millisecond)
		if !waits(12, time.Millisecond) {
			t.Error("the path has become short, and stream 12 does not wait")
		}
	})
}

// The reference's dialling side loses what comes before its loop runs: nothing
// but Pings is said before it has been heard.
func TestDialect1ClientWaitsForTheExit(t *testing.T) {
	for name, answers := range map[string]bool{"it answers": true, "it never says anything": false} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := rawBeside(t, tunnel.Dialect1, tunnel.RoleClient, nil)
				r.shy = true
				began := time.Now()
				for range 2 {
					conn, ep := newConn()
					go func() {
						st, err := r.s.Open(t.Context(), tunnel.Target{Kind: tunnel.KindNamed, Host: "x"}, ep)
						if err != nil {
							t.Error(err)
						}
						r.opened <- st
					}()
					go func() { _, _ = conn.Write([]byte("early")) }() // returns when it was taken
				}
				pings := 0
				for msg := r.said(); msg != framecodec.MsgOpenConnection; msg = r.said() {
					if msg != framecodec.MsgPing {
						t.Fatalf("%v before anything was heard", msg)
					}
					if pings++; answers && pings == 4 {
						r.send(framecodec.Pong{})
					}
				}
				took := time.Since(began)
				switch {
				case answers && (pings != 4 || took > 100*time.Millisecond):
					t.Errorf("opened after %d Pings and %v, want 4", pings, took)
				case !answers && (pings < 15 || took != 3*time.Second):
					t.Errorf("opened after %d Pings and %v, want 3 s", pings, took)
				}
				r.send(framecodec.ConnectionOpened{Conn: 1})
				r.send(framecodec.ConnectionOpened{Conn: 2})
				<-r.opened
				<-r.opened
				time.Sleep(time.Minute)
				r.send(framecodec.CloseConnection{})
				for {
					msg, _, ok := r.nextControl()
					if !ok {
						break
					}
					if msg == framecodec.MsgPing {
						t.Error("a Ping after that")
					}
				}
			})
		})
	}
}

// neverAsked holds that an observer can tell streams that Accept never saw.
type neverAsked struct{ t *testing.T }

func (o neverAsked) StreamOpened(*tunnel.Stream) { o.t.Error("a stream was opened") }
func (o neverAsked) StreamEnded(st *tunnel.Stream, _ tunnel.Code, _ string) {
	if st.Info().Accepted {
		o.t.Error("it ended as one that Accept was asked for")
	}
}
func (o neverAsked) Panicked(v any, _ []byte) { o.t.Errorf("panic: %v", v) }

// What ends while its opener is asked leaves nothing.
func TestDialect1EndsBeforeTheOpenerAnswers(t *testing.T) {
	none := func(cfg *tunnel.Config) {
		cfg.Observer = neverAsked{t}
		cfg.Accept = func(*tunnel.Incoming) { t.Error("a stream was accepted after its end") }
	}
	for name, end := range map[string]func(*raw){
		"the opener gives up": func(r *raw) {
			r.send(framecodec.CloseConnection{Conn: 1, Reason: framecodec.ReasonNormal})
			waitFor(t, func() bool { return r.s.Stats().Streams == 0 })
			r.send(framecodec.Pong{Conn: 1})
			r.send(framecodec.CloseConnection{})
			<-r.s.Done()
		},
		"the session ends": func(r *raw) {
			r.s.Close(framecodec.CodeDraining, "")
			r.awaitEnd(framecodec.MsgCloseConnection)
			_ = r.w.Close(0)
			<-r.s.Done()
		},
		"the carrier ends": func(r *raw) {
			_ = r.w.Close(0)
			<-r.s.Done()
		},
	} {
		t.Run(name, func(t *testing.T) {
			defer goleak.VerifyNone(t)
			r := shyRaw(t, none)
			r.send(framecodec.OpenConnection{Conn: 1})
			r.data(1, []byte("early"))
			r.probed(1)
			end(r)
			r.s.Wait()
			if n, used := r.s.Stats().Streams, r.budget.Used(); n != 0 || used != 0 {
				t.Errorf("%d streams and %d bytes are left", n, used)
			}
		})
	}
}
