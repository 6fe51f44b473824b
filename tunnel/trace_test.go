package tunnel_test

import (
	"testing"

	"github.com/culvertgate/culvert/tunnel"
)

func TestTraceparent(t *testing.T) {
	const good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01" // of the specification
	for text, want := range map[string]bool{
		good:                    true,
		tunnel.NewTraceparent(): true,
		"":                      false,
		good[:54]:               false,
		good + "0":              false,
		"01" + good[2:]:         false,
		"00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01": false,
		"00-00000000000000000000000000000000-00f067aa0ba902b7-01": false,
		"00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01": false,
		"00_4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01": false,
		"00-4bf92f3577b34da6a3ce929d0e0e473g-00f067aa0ba902b7-01": false,
	} {
		if got := tunnel.ValidTraceparent(text); got != want {
			t.Errorf("%q: %v", text, got)
		}
	}
	if one, two := tunnel.NewTraceparent(), tunnel.NewTraceparent(); one == two {
		t.Error("two traces are one")
	}
}
