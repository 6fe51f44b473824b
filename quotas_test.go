package culvert

import (
	"testing"
	"time"

	"github.com/culvertgate/culvert/tunnel/policy"
)

// TestUsageOfTunnelsThatEnd: the clock and a tunnel's end may count at the same time,
// and a tunnel that carried nothing leaves nothing.
func TestUsageOfTunnelsThatEnd(t *testing.T) {
	s := serve(t, func(env *environment, _ *policy.Config) { env.endpoints["gw"].limits.BytesPerDay = 1 << 20 })
	s.hub.settle(s.tunnel)
	if _, unsaved := s.hub.ledger.usage.take(time.Now()); len(unsaved) != 0 || len(s.hub.ledger.usage.m) != 0 {
		t.Errorf("a tunnel without a byte has the usage %v", s.hub.ledger.usage.m)
	}
	s.tunnel.mu.Lock()
	s.tunnel.counted = 100 // by the other one, which has seen more
	s.tunnel.mu.Unlock()
	if n := s.tunnel.uncounted(); n != 0 {
		t.Errorf("%d bytes are counted where others have counted more than there are", n)
	}
	s.tunnel.mu.Lock()
	defer s.tunnel.mu.Unlock()
	if s.tunnel.counted != 100 {
		t.Errorf("counted until %d: what the other one had will be counted again", s.tunnel.counted)
	}
	s.tunnel.counted = 0
}
