package tunnel_test

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/culvertgate/culvert/framecodec"
	"github.com/culvertgate/culvert/tunnel"
)

// settled waits until the session reads nothing any more and returns how many
// frames it has read.
func (r *raw) settled() uint64 {
	r.t.Helper()
	last, since := uint64(0), time.Now()
	waitFor(r.t, func() bool {
		if n := r.s.Stats().FramesIn; n != last {
			last, since = n, time.Now()
		}
		return time.Since(since) > 100*time.Millisecond
	})
	return last
}

// A peer that asks a million times and does not read gets what fits the
// carrier and 64 KiB of replies; then nobody reads on until it reads, too.
func TestMillionPings(t *testing.T) {
	for _, d := range []tunnel.Dialect{tunnel.Dialect1, tunnel.Dialect2} {
		t.Run(string('0'+rune(d)), func(t *testing.T) {
			pings := 1_000_000
			if d == tunnel.Dialect1 || raceEnabled {
				pings = 100_000
			}
			r := newRaw(t, d, tunnel.RoleGateway, nil)
			r.greet()
			go func() {
				var b []byte
				for i := 1; i <= pings; i++ {
					b = framecodec.Ping{HasConn: true, Extra: make([]byte, 8)}.AppendFrame(b, r.word)
					if r.word++; i%2000 == 0 {
						r.write(b)
						b = b[:0]
					}
				}
			}()
			// A Pong takes 31 bytes: 320 KiB in the carrier and 64 KiB of replies.
			if n := r.settled(); n < 1000 || n > 20_000 {
				t.Errorf("%d frames were read from a peer that reads nothing", n)
			}
			for pongs := 0; pongs < pings; {
				msg, _, ok := r.nextControl()
				if !ok {
					t.Fatalf("%d Pongs, then: %v", pongs, r.s.Err())
				}
				if msg == framecodec.MsgPong {
					pongs++
				}
			}
		})
	}
}

// Likewise for Opens that are refused later, whose ends are owed by the streams.
func TestFloodOfOpens(t *testing.T) {
	for _, d := range []tunnel.Dialect{tunnel.Dialect1, tunnel.Dialect2} {
		t.Run(string('0'+rune(d)), func(t *testing.T) {
			const opens = 40_000
			r := newRaw(t, d, tunnel.RoleGateway, func(cfg *tunnel.Config) {
				cfg.MaxStreams = 100
				cfg.Accept = func(in *tunnel.Incoming) { in.Refuse(framecodec.CodeRefused, "no") }
			})
			r.greet()
			go func() {
				var b []byte
				for n := range uint32(opens) {
					var m message = framecodec.OpenConnection{Conn: n + 1}
					if d == tunnel.Dialect2 {
						m = framecodec.Open{Conn: 2*n + 1, Kind: framecodec.KindNamed, Host: []byte("x")}
					}
					b = m.AppendFrame(b, r.word)
					if r.word++; n%1000 == 999 {
						r.write(b)
						b = b[:0]
					}
				}
			}()
			if n := r.settled(); n > 30_000 {
				t.Errorf("%d frames were read from a peer that reads nothing", n)
			}
			for ends := 0; ends < opens; {
				msg, _, ok := r.nextControl()
				if !ok {
					t.Fatalf("%d ends, then: %v", ends, r.s.Err())
				}
				if msg == framecodec.MsgReset || msg == framecodec.MsgCloseConnection {
					ends++
				}
			}
			waitFor(t, func() bool { return r.s.Stats().Streams == 0 })
		})
	}
}

// Data of streams that are gone counts as consumed: the session credit comes
// back, however a stream ended.
func TestSessionCreditComesBack(t *testing.T) {
	ends := map[string]func(r *raw, st *tunnel.Stream, n uint32){
		"reset by us": func(_ *raw, st *tunnel.Stream, _ uint32) { st.Reset(framecodec.CodeClosedByAdmin, "") },
		"reset by peer": func(r *raw, _ *tunnel.Stream, n uint32) {
			r.send(framecodec.Reset{Conn: n, Code: framecodec.CodeCancelled})
		},
		"violation": func(r *raw, _ *tunnel.Stream, n uint32) { r.send(framecodec.Finish{Conn: n, Offset: 1 << 40}) },
	}
	for name, end := range ends {
		t.Run(name, func(t *testing.T) {
			streams := make(chan *tunnel.Stream, 1)
			r := newRaw(t, tunnel.Dialect2, tunnel.RoleGateway, func(cfg *tunnel.Config) {
				cfg.Budget.SetLimit(tunnel.MinSessionMemory)
				cfg.Accept = func(in *tunnel.Incoming) {
					_ = in.Attach(stuckEnd{}, "")
					streams <- in.Stream()
				}
			})
			r.greet()
			limit, total := uint64(1<<20), uint64(0)
			for n := uint32(1); total < 8<<20; n += 2 {
				r.send(framecodec.Open{Conn: n, Kind: framecodec.KindNamed, Host: []byte("x")})
				st := <-streams
				r.data(n, make([]byte, 100<<10)) // waits in the queue
				waitFor(t, func() bool { return st.Info().BytesIn == 100<<10 })
				end(r, st, n)
				waitFor(t, func() bool { return r.s.Stats().Streams == 0 })
				if name != "reset by peer" {
					r.data(n, make([]byte, 100<<10)) // comes too late
					total += 100 << 10
				}
				total += 100 << 10
				for total+200<<10 > limit {
					w, err := framecodec.ParseWindow(r.awaitEnd(framecodec.MsgWindow))
					if err != nil {
						t.Fatal(err)
					}
					if w.Conn == 0 {
						limit = w.Limit
					}
				}
			}
			if q := r.s.Stats().Queued; q != 0 {
				t.Errorf("%d bytes count as queued with no stream left", q)
			}
			if used := r.budget.Used(); used != tunnel.MinSessionMemory {
				t.Errorf("%d bytes reserved", used)
			}
		})
	}
}

// Acceptances of what a client has not offered are answered by a Withdraw each; a
// gateway that reads none of them is owed a few, and no more.
func TestFloodOfExposed(t *testing.T) {
	const answers = 100_000
	r := newRaw(t, tunnel.Dialect2, tunnel.RoleClient, nil)
	r.greet()
	before := r.s.Stats().FramesIn
	var b []byte
	for i := 1; i <= answers; i++ {
		b = framecodec.Exposed{Name: []byte("nobody-offered-this")}.AppendFrame(b, r.word)
		if r.word++; i%1000 == 0 {
			r.write(b)
			b = b[:0]
		}
	}
	waitFor(t, func() bool { return r.s.Stats().FramesIn >= before+answers })
	withdrawn := 0
	for r.send(framecodec.Ping{HasConn: true, Extra: make([]byte, 8)}); ; {
		msg, _, ok := r.nextControl()
		if !ok {
			t.Fatalf("%d are withdrawn, then: %v", withdrawn, r.s.Err())
		}
		if msg == framecodec.MsgPong {
			break
		}
		if msg == framecodec.MsgWithdraw {
			withdrawn++
		}
	}
	// A Withdraw takes 40 bytes: 320 KiB in the carrier and 256 that are owed.
	if withdrawn < 100 || withdrawn > 10_000 {
		t.Errorf("%d were withdrawn", withdrawn)
	}
}

// TestLargestReplies: whatever a peer asks for has an answer that fits a message, or
// it would hold up all control frames behind it for ever.
func TestLargestReplies(t *testing.T) {
	long := strings.Repeat("x", 4000)
	for name, test := range map[string]struct {
		d    tunnel.Dialect
		ask  message
		want framecodec.Message
	}{
		"Pong of dialect 1":            {tunnel.Dialect1, framecodec.Ping{HasConn: true, Extra: bytes.Repeat([]byte("x"), 2<<10-4)}, framecodec.MsgPong},
		"CloseConnection of dialect 1": {tunnel.Dialect1, framecodec.OpenConnection{Conn: 1}, framecodec.MsgCloseConnection},
		"MetricsResponse":              {tunnel.Dialect1, framecodec.MetricsRequest{}, framecodec.MsgMetricsResponse},
		"Pong":                         {tunnel.Dialect2, framecodec.Ping{HasConn: true, Extra: make([]byte, 8)}, framecodec.MsgPong},
		"Reset":                        {tunnel.Dialect2, framecodec.Open{Conn: 1, Kind: framecodec.KindNamed, Host: []byte(long)}, framecodec.MsgReset},
		"Exposed":                      {tunnel.Dialect2, framecodec.Expose{Kind: framecodec.KindNamed, Name: []byte("x")}, framecodec.MsgExposed},
		"Exposed of a name that cannot be": {tunnel.Dialect2, framecodec.Expose{Kind: framecodec.KindNamed, Name: []byte(long[:framecodec.MaxHost])},
			framecodec.MsgExposed},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRaw(t, test.d, tunnel.RoleGateway, func(cfg *tunnel.Config) {
				cfg.Accept = func(in *tunnel.Incoming) { in.Refuse(framecodec.CodeUnknownTarget, long) }
				cfg.Exposed = func(tunnel.Kind, string) (tunnel.Code, string) { return framecodec.CodeNotAllowed, long }
			})
			r.greet()
			r.send(test.ask)
			if n := len(r.awaitEnd(test.want)) + 2 + framecodec.Overhead; n > tunnel.LargestControl {
				t.Errorf("a frame of %d bytes, %d is what counts as the largest", n, tunnel.LargestControl)
			}
		})
	}
}

// TestReplyThatFitsNoMessage: a fault of ours ends the session, in place of a sender that
// looks at the same reply for ever.
func TestReplyThatFitsNoMessage(t *testing.T) {
	r := newRaw(t, tunnel.Dialect2, tunnel.RoleGateway, nil)
	err := r.s.Owe(framecodec.Exposed{Name: make([]byte, tunnel.LargestControl)})
	if code := tunnel.CodeOf(err); code != framecodec.CodeInternal {
		t.Errorf("a reply of more than %d bytes: %v", tunnel.LargestControl, err)
	}
}
