package top

import (
	"strings"
	"testing"

	"github.com/culvertgate/culvert/tunnel"
)

// TestHelpNamesWaits: whatever a stream's direction can wait for is explained.
func TestHelpNamesWaits(t *testing.T) {
	text := strings.Join(help, " ")
	for _, wait := range []string{tunnel.WaitsTarget, tunnel.WaitsCredit, tunnel.WaitsRoom, tunnel.WaitsRate, tunnel.WaitsReader, tunnel.WaitsData} {
		if !strings.Contains(text, " "+wait+" (") {
			t.Errorf("%q is not explained", wait)
		}
	}
}
