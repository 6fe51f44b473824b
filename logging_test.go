package culvert

import "testing"

// TestWarningsAreSampled: each endpoint has its own allowance, and what was left
// out is told with the next line.
func TestWarningsAreSampled(t *testing.T) {
	var w warnings
	logged := 0
	for range 1000 {
		if _, ok := w.allow("a"); ok {
			logged++
		}
	}
	if logged < warningsPerSecond || logged > 2*warningsPerSecond {
		t.Errorf("%d of 1000 warnings logged at once, want about %d", logged, warningsPerSecond)
	}
	if _, ok := w.allow("b"); !ok {
		t.Error("one endpoint's flood silences another")
	}
	if w.m["a"].suppressed != 1000-logged {
		t.Errorf("%d counted as suppressed, want %d", w.m["a"].suppressed, 1000-logged)
	}
	w.m["a"].limiter.SetBurst(2000)
	w.m["a"].limiter.SetLimit(1e9)
	for {
		suppressed, ok := w.allow("a")
		if !ok {
			continue
		}
		if suppressed < 1000-logged {
			t.Errorf("told of %d suppressed warnings, want at least %d", suppressed, 1000-logged)
		}
		return
	}
}
