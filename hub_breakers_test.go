package culvert

import (
	"fmt"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/culvertgate/culvert/framecodec"
	"github.com/culvertgate/culvert/tunnel/gateway"
	"github.com/culvertgate/culvert/tunnel/policy"
)

// Breakers of named targets are the operator's, each is logged; those of
// addresses are the clients', so they are sampled. A trial that fails is no news.
func TestBreakerLogs(t *testing.T) {
	change := func(target string, dynamic bool, state gateway.BreakerState, again, gone bool) gateway.BreakerChange {
		return gateway.BreakerChange{
			BreakerInfo: gateway.BreakerInfo{
				Endpoint: "gw", Target: target, Dynamic: dynamic, Rule: policy.RuleRef{Endpoint: "gw", List: "targets"},
				State: state, Code: framecodec.CodeRefused, Since: time.Minute,
			},
			Again: again, Gone: gone, Rest: 5 * time.Second,
		}
	}
	for _, tt := range []struct {
		name                    string
		change                  func(i int) gateway.BreakerChange
		warnings, infos, events int // of 100
	}{
		{"named, opened", func(i int) gateway.BreakerChange {
			return change(fmt.Sprint("t", i), false, gateway.BreakerOpen, false, false)
		}, 100, 0, 100},
		{"named, again", func(int) gateway.BreakerChange { return change("t", false, gateway.BreakerOpen, true, false) }, 0, 0, 0},
		{"named, closed", func(int) gateway.BreakerChange { return change("t", false, gateway.BreakerClosed, false, false) }, 0, 100, 100},
		{"named, gone", func(int) gateway.BreakerChange { return change("t", false, gateway.BreakerClosed, false, true) }, 0, 0, 100},
		{"dynamic, opened", func(int) gateway.BreakerChange {
			return change("tcp/10.0.0.1:1", true, gateway.BreakerOpen, false, false)
		}, warningsPerSecond, 0, 100},
		{"dynamic, closed", func(int) gateway.BreakerChange {
			return change("tcp/10.0.0.1:1", true, gateway.BreakerClosed, false, false)
		}, 0, 0, 100},
	} {
		t.Run(tt.name, func(t *testing.T) {
			core, logs := observer.New(zap.DebugLevel)
			h := newHub(listenAddress{})
			h.newest.Store(&environment{logger: zap.New(core)})
			var told []queuedEvent
			h.events = newEventQueue(func(ev queuedEvent) { told = append(told, ev) }, &processMetrics.eventsDropped)
			for i := range 100 {
				h.breakerChanged(tt.change(i))
			}
			<-h.events.close()
			// A machine that takes a second for this lets a few more through.
			if n := logs.FilterLevelExact(zap.WarnLevel).Len(); n < tt.warnings || n > 2*tt.warnings {
				t.Errorf("%d warnings, want %d", n, tt.warnings)
			}
			if n := logs.FilterLevelExact(zap.InfoLevel).Len(); n != tt.infos {
				t.Errorf("%d lines for information, want %d", n, tt.infos)
			}
			if len(told) != tt.events {
				t.Fatalf("%d events, want %d", len(told), tt.events)
			}
			for _, ev := range told {
				opened := ev.name == eventBreakerOpened
				_, hasCode := ev.data["code"]
				_, hasDuration := ev.data["duration_ms"]
				if ev.data["endpoint"] != "gw" || ev.data["target"] == "" || hasCode != opened || hasDuration == opened || len(ev.data) != 3 {
					t.Fatalf("event %s %v", ev.name, ev.data)
				}
			}
		})
	}
}
