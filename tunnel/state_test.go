package tunnel

import "testing"

// Every state with every event: what must follow is computed from the rules in
// words, not from the code.
func TestStateTable(t *testing.T) {
	halves := []half{halfOpen, halfFinished, halfReset}
	pairs := 0
	for _, opened := range []bool{false, true} {
		for _, send := range halves {
			for _, recv := range halves {
				for ev := eventOpened; ev <= eventReset; ev++ {
					pairs++
					from := streamState{opened: opened, send: send, recv: recv}
					want := from
					// The answer opens; nothing closes that again.
					want.opened = opened || ev == eventOpened
					// A direction that is over stays what it is; a live one ends by its
					// own end in order, and by a reset cut.
					if send == halfOpen && ev == eventLocalEnd {
						want.send = halfFinished
					}
					if recv == halfOpen && ev == eventPeerEnd {
						want.recv = halfFinished
					}
					if ev == eventReset {
						if send == halfOpen {
							want.send = halfReset
						}
						if recv == halfOpen {
							want.recv = halfReset
						}
					}
					got := from.next(ev)
					if got != want {
						t.Errorf("%+v, event %d: %+v, want %+v", from, ev, got, want)
					}
					if got.next(ev) != got {
						t.Errorf("%+v: event %d a second time changes something", from, ev)
					}
					if over := got.send != halfOpen && got.recv != halfOpen; got.over() != over {
						t.Errorf("%+v: over is %v", got, got.over())
					}
				}
			}
		}
	}
	if pairs != 2*3*3*4 {
		t.Errorf("%d pairs", pairs)
	}
}
