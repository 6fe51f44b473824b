package tunnel

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/culvertgate/culvert/internal/faultpoint"
)

// tickInterval is how often the coarse clock looks at time-outs. Nothing on the
// data path waits for it.
const tickInterval = 500 * time.Millisecond

// base anchors the monotonic clock: durations since it are what sessions store.
// It lies far back, so that they are positive under the clock of testing/synctest
// too, which starts in the year 2000.
var base = time.Now().Add(-100 * 365 * 24 * time.Hour)

// now is the monotonic time.
func now() time.Duration { return time.Since(base) }

// A ticker is one goroutine for all sessions of the process; it exists only
// while there is a session.
type ticker struct {
	mu       sync.Mutex
	sessions map[*Session]struct{} // guarded by mu
	stop     chan struct{}         // closed to end the goroutine; guarded by mu
	coarse   atomic.Int64          // a recent now(), for stamps that need no precision
}

var clock = ticker{sessions: make(map[*Session]struct{})}

// coarseNow is at most tickInterval old.
func coarseNow() time.Duration { return time.Duration(clock.coarse.Load()) }

func (t *ticker) add(s *Session) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.coarse.Store(int64(now()))
	t.sessions[s] = struct{}{}
	if t.stop == nil {
		t.stop = make(chan struct{})
		go t.run(t.stop)
	}
}

func (t *ticker) remove(s *Session) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.sessions, s)
	if len(t.sessions) == 0 && t.stop != nil {
		close(t.stop)
		t.stop = nil
	}
}

func (t *ticker) run(stop chan struct{}) {
	tick := time.NewTicker(tickInterval)
	defer tick.Stop()
	var list []*Session
	for {
		select {
		case <-stop:
			return
		case <-tick.C:
		}
		at := now()
		t.coarse.Store(int64(at))
		t.mu.Lock()
		list = list[:0]
		for s := range t.sessions {
			list = append(list, s)
		}
		t.mu.Unlock()
		for i, s := range list {
			s.guard(func() {
				faultpoint.Here(faultpoint.SessionClock)
				s.tick(at)
			})
			list[i] = nil
		}
	}
}
