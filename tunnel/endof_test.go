package tunnel_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/culvertgate/culvert/framecodec"
	"github.com/culvertgate/culvert/tunnel"
)

// life ends with a code after some time.
type life struct {
	done chan struct{}
	code tunnel.Code
}

func liveFor(d time.Duration, code tunnel.Code) *life {
	l := &life{make(chan struct{}), code}
	if d >= 0 {
		time.AfterFunc(d, func() { close(l.done) })
	}
	return l
}

func (l *life) Done() <-chan struct{} { return l.done }

func (l *life) Err() error {
	select {
	case <-l.done:
		return &tunnel.Error{Code: l.code}
	default:
		return nil
	}
}

// TestEndOf: the session's code, when there is one to read within a second.
func TestEndOf(t *testing.T) {
	const never = -1
	for name, test := range map[string]struct {
		session    time.Duration
		code       tunnel.Code
		connection time.Duration
		want       tunnel.Code
		took       time.Duration
	}{
		"both, and the session knows":               {0, framecodec.CodeDraining, 0, framecodec.CodeDraining, 0},
		"the last message is still to be read":      {300 * time.Millisecond, framecodec.CodeClosedByAdmin, 0, framecodec.CodeClosedByAdmin, 300 * time.Millisecond},
		"the session lost its carrier":              {100 * time.Millisecond, framecodec.CodeTunnelLost, 0, framecodec.CodeTimeout, 100 * time.Millisecond},
		"the session reads nothing":                 {never, framecodec.CodeDraining, 0, framecodec.CodeTimeout, time.Second},
		"the session alone":                         {0, framecodec.CodeProtocolError, never, framecodec.CodeProtocolError, 0},
		"the session alone, which lost its carrier": {0, framecodec.CodeTunnelLost, never, framecodec.CodeTunnelLost, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				session, connection := liveFor(test.session, test.code), liveFor(test.connection, framecodec.CodeTimeout)
				synctest.Wait()
				began := time.Now()
				if got := tunnel.CodeOf(tunnel.EndOf(session, connection)); got != test.want {
					t.Errorf("%v, want %v", got, test.want)
				}
				if took := time.Since(began); took != test.took {
					t.Errorf("it took %v, want %v", took, test.took)
				}
			})
		})
	}
}
