package gateway

import (
	"sync/atomic"
	"testing"
	"time"

	"github.com/culvertgate/culvert/framecodec"
	"github.com/culvertgate/culvert/tunnel"
)

// A tunnel that runs follows the time-outs of a reload with its next open.
func TestTimeoutsOfAReload(t *testing.T) {
	var current atomic.Pointer[Timeouts]
	current.Store(&Timeouts{Dial: time.Hour})
	o := open(t, rules("tcp/10.0.0.0/8:22"), func(e *ExitConfig, _ *tunnel.Config) {
		e.Timeouts = func() Timeouts { return *current.Load() }
	})
	var long, short results
	long.dial(o, tcp("10.66.0.1", 22))
	eventually(t, "the first open is pending", func() bool { return o.pool.Opens() == 1 })
	current.Store(&Timeouts{Dial: 100 * time.Millisecond})
	short.dial(o, tcp("10.66.0.2", 22))
	short.wg.Wait()
	if short.codes[framecodec.CodeTimeout] != 1 {
		t.Errorf("the open after the reload ended with %v, want timeout", short.codes)
	}
	eventually(t, "the open from before the reload is pending alone", func() bool { return o.pool.Opens() == 1 })
	o.exit.Close()
	long.wg.Wait()
	if long.codes[framecodec.CodeTunnelClosed] != 1 {
		t.Errorf("the open from before the reload ended with %v, want the exit's end", long.codes)
	}
}

// The engine's bound on streams follows a reload, too: those that are open stay.
func TestMaxStreamsOfAReload(t *testing.T) {
	o := open(t, rules(), func(_ *ExitConfig, s *tunnel.Config) { s.MaxStreams = 1 })
	expect := func(open int, full bool) {
		t.Helper()
		_, err := o.dial(named("echo"))
		if refused := tunnel.CodeOf(err) == framecodec.CodeTooManyStreams; refused != full || !full && err != nil {
			t.Errorf("with %d streams open: %v, want a refusal: %v", open, err, full)
		}
	}
	expect(0, false)
	expect(1, true)
	o.gateway.SetMaxStreams(2)
	expect(1, false)
	expect(2, true)
	o.gateway.SetMaxStreams(0) // no limit would be a surprise
	expect(2, true)
	o.gateway.SetMaxStreams(1)
	expect(2, true)
	if n := o.gateway.Stats().Streams; n != 2 {
		t.Errorf("%d streams are open, want those from before", n)
	}
}
