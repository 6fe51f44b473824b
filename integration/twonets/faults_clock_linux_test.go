package twonets

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/culvertgate/culvert/internal/testkit"
)

// clockWorld has processes whose wall clock can be set.
const clockWorld faultWorld = "clocks that jump"

func clockBinary(t *testing.T) string {
	t.Helper()
	path, err := testkit.ClockCaddyBinary()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

func init() {
	for _, side := range []string{"gateway", "client"} {
		for _, jump := range []time.Duration{2 * time.Hour, -2 * time.Hour} {
			name := fmt.Sprintf("the wall clock of the %s jumps by %d h", side, jump/time.Hour)
			faultRows = append(faultRows, faultRow{name: name, world: clockWorld, slow: true, do: func(f *trial) { f.jump(side, jump) }})
			expectations[name] = expectation{application: "goes on", recovery: time.Second}
		}
	}
}

// jump has a process's clock jump there and back while a stream flows.
func (f *trial) jump(side string, by time.Duration) {
	f.t.Helper()
	process := f.gateway
	if side == "client" {
		process = f.client
	}
	x := f.running()
	f.setClock(process, by)
	f.check(f.works(patience))
	time.Sleep(3 * time.Second) // the clocks of hub and engine look at it
	f.midway()
	f.check(f.works(patience))
	f.setClock(process, 0)
	f.check(f.works(patience))
	f.seen.recovery = x.longest()
	f.seen.application = "goes on"
	f.unharmed(x)
}

// setClock sets the clock of a process to so much before or behind the right time.
func (f *trial) setClock(c *testkit.Caddy, by time.Duration) {
	f.t.Helper()
	ctx, cancel := context.WithTimeout(f.t.Context(), patience)
	defer cancel()
	status, text, err := c.Do(ctx, http.MethodPost, fmt.Sprintf("/webrtc_tunnel_clock/%d", int(by.Seconds())), "", "")
	f.check(err)
	var says time.Time
	f.check(json.Unmarshal([]byte(text), &says))
	if off := time.Until(says) - by; status != http.StatusOK || off.Abs() > time.Minute {
		f.t.Fatalf("the clock says %v (%d)", says, status)
	}
}
