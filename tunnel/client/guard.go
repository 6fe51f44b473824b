package client

import (
	"runtime/debug"

	"go.uber.org/zap"

	"github.com/culvertgate/culvert/framecodec"
	"github.com/culvertgate/culvert/tunnel"
)

// guard runs f, a goroutine of this tunnel. A panic there ends the tunnel, and
// nothing else.
func (t *Tunnel) guard(f func()) {
	defer func() {
		if v := recover(); v != nil {
			t.cfg.panicked(v)
			t.shut(framecodec.CodeInternal, "the tunnel failed")
		}
	}()
	f()
}

// attempted runs f, an attempt to connect. A panic there is the attempt's failure.
func (t *Tunnel) attempted(f func() error) (err error) {
	defer func() {
		if v := recover(); v != nil {
			t.cfg.panicked(v)
			failed := &tunnel.Error{Code: framecodec.CodeInternal, Text: "connecting failed"}
			if t.session != nil {
				t.endSession(failed)
			}
			if t.peer != nil {
				t.release(failed)
			}
			err = failed
		}
	}()
	return f()
}

// panicked tells of a panic, which the caller has recovered from.
func (c Config) panicked(v any) {
	if c.Observer != nil {
		c.Observer.Panicked(v, debug.Stack())
		return
	}
	c.Logger().Error("a goroutine of a tunnel panicked", zap.Any("panic", v), zap.Stack("stack"))
}
