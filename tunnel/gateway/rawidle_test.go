package gateway

import (
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/culvertgate/culvert/framecodec"
	"github.com/culvertgate/culvert/tunnel"
)

// A raw channel without data for timeouts.idle ends; data of either direction
// keeps it.
func TestRawIdle(t *testing.T) {
	const limit = 450 * time.Millisecond
	for _, tt := range []struct {
		name string
		move func(t *testing.T, page *wire, target net.Conn)
	}{
		{"from the page", func(t *testing.T, page *wire, target net.Conn) {
			exchangeOne(t, page.WriteMessage([]byte("x")), func() error { _, err := target.Read(make([]byte, 1)); return err })
		}},
		{"from the target", func(t *testing.T, page *wire, target net.Conn) {
			_, err := target.Write([]byte("x"))
			exchangeOne(t, err, func() error { page.read(t, 1); return nil })
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := openRaw(t, func(e *ExitConfig, _ *tunnel.Config) { e.Timeouts = fixed(Timeouts{Idle: limit}) })
			page := r.start("echo")
			if err := page.WriteMessage(nil); err != nil { // it has spoken
				t.Fatal(err)
			}
			var last time.Time
			for range 6 {
				tt.move(t, page, r.target)
				last = time.Now()
				time.Sleep(limit / 4) // together more than the limit
			}
			info := r.end(t)
			if quiet := time.Since(last); info.Code != "idle_timeout" || quiet < limit {
				t.Errorf("it ended with %s after %v", info.Code, quiet)
			}
			eventually(t, "its carrier is closed with the code", func() bool { // the last thing that its end does
				closed, code := page.end()
				return closed && code == framecodec.CodeIdleTimeout
			})
			if _, err := r.target.Read(make([]byte, 1)); err == nil {
				t.Error("the target's connection goes on")
			}
		})
	}
}

func exchangeOne(t *testing.T, sent error, received func() error) {
	t.Helper()
	if sent != nil {
		t.Fatalf("sending: %v", sent)
	}
	if err := received(); err != nil {
		t.Fatalf("receiving: %v", err)
	}
}

// A reload changes the limit of channels that have one, 0 takes it away.
func TestRawIdleChanges(t *testing.T) {
	var limit atomic.Int64
	limit.Store(int64(400 * time.Millisecond))
	r := openRaw(t, func(e *ExitConfig, _ *tunnel.Config) {
		e.Timeouts = func() Timeouts { return Timeouts{Idle: time.Duration(limit.Load())} }
	})
	page := r.start("echo")
	eventually(t, "it is open", func() bool {
		raws := r.exit.Raws()
		return len(raws) == 1 && raws[0].Info().Opened
	})
	limit.Store(0)
	select {
	case info := <-r.ends:
		t.Errorf("it ended with %s", info.Code)
	case <-time.After(700 * time.Millisecond):
	}
	_ = page.Close(framecodec.CodeNormal)
	_ = r.target.Close()
	if info := r.end(t); info.Code != "normal" {
		t.Errorf("it ended with %s", info.Code)
	}
}
