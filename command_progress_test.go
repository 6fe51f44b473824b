package culvert

import (
	"bytes"
	"strings"
	"testing"

	"github.com/culvertgate/culvert/tunnel/client"
)

// TestProgressFits: a progress line is never wider than the terminal, because
// what has wrapped could not be removed; what is cut is the URL.
func TestProgressFits(t *testing.T) {
	const step = "finding a network path (UDP) ..."
	long := "https://gw.example.com/" + strings.Repeat("x", 100)
	for name, test := range map[string]struct {
		url, want string
		width     int
	}{
		"it fits":                {"https://gw.example", "https://gw.example: " + step, 80},
		"exactly":                {"https://gw.example", "https://gw.example: " + step, 53},
		"one cell less":          {"https://gw.example", "https://gw.exa...: " + step, 52},
		"a long URL":             {long, "https://gw.exa...: " + step, 52},
		"no room for the URL":    {long, step, 40},
		"not even for the step":  {long, "finding a network...", 21},
		"a terminal of nothing":  {long, "", 1},
		"the width is not known": {"https://gw.example", "https://gw.example: " + step, 0},
		"wide letters":           {"https://" + strings.Repeat("\u6f22", 30), "https://\u6f22\u6f22\u6f22...: " + step, 52},
	} {
		t.Run(name, func(t *testing.T) {
			var out bytes.Buffer
			c := &console{out: &out, terminal: true, width: func() int { return test.width }}
			c.showProgress(client.Progress{URL: test.url, Step: client.StepICE})
			if got := out.String(); got != test.want {
				t.Errorf("%q, want %q", got, test.want)
			}
			c.clear()
			if !strings.HasSuffix(out.String(), "\r\x1b[K") {
				t.Errorf("%q is not removed", out.String())
			}
		})
	}
}
