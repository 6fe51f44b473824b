package culvert

import (
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/culvertgate/culvert/framecodec"
	"github.com/culvertgate/culvert/tunnel"
	"github.com/culvertgate/culvert/tunnel/client"
)

// TestCommandTargetsFailures: `targets` says which step failed and what to try,
// as the commands with a tunnel do.
func TestCommandTargetsFailures(t *testing.T) {
	g := commandGateway(t)
	answer := func(media, body string) func(http.ResponseWriter, *http.Request) bool {
		return func(w http.ResponseWriter, _ *http.Request) bool {
			w.Header().Set("Content-Type", media)
			_, _ = io.WriteString(w, body)
			return true
		}
	}
	for name, test := range map[string]struct {
		url       string
		intercept func(http.ResponseWriter, *http.Request) bool
		step      client.Step
		code      tunnel.Code
		want      string
	}{
		"no credentials":       {g.URL(), nil, client.StepTargets, framecodec.CodeUnauthenticated, "--password-file"},
		"an empty 200":         {g.URL(), answer("", ""), client.StepTargets, framecodec.CodeProtocolError, "check the path in the URL"},
		"a page":               {g.URL(), answer("text/html", "<p>hello"), client.StepTargets, framecodec.CodeProtocolError, "check the path in the URL"},
		"other JSON":           {g.URL(), answer("application/json", `{"a":1}`), client.StepTargets, framecodec.CodeProtocolError, "check the path in the URL"},
		"a list of other JSON": {g.URL(), answer("application/json", `[]`), client.StepTargets, framecodec.CodeProtocolError, "check the path in the URL"},
		"nobody listens":       {"http://127.0.0.1:1/tunnel", nil, client.StepConnect, framecodec.CodeRefused, "host and port"},
	} {
		t.Run(name, func(t *testing.T) {
			g.Intercept(test.intercept)
			c := start(t, nil, "targets", "--url", test.url)
			err := c.wait(t)
			failed, ok := errors.AsType[*client.StepError](err)
			if !ok || failed.Step != test.step || tunnel.CodeOf(err) != test.code || !strings.Contains(err.Error(), test.want) ||
				!strings.Contains(err.Error(), "["+test.url+"]") || c.out.String() != "" {
				t.Errorf("%v, want step %v, code %v and %q", err, test.step, test.code, test.want)
			}
		})
	}
	// A gateway that does not answer is passed over.
	g.Intercept(nil)
	c := start(t, nil, "targets", "--url", "http://127.0.0.1:1/tunnel", "--url", g.URL(), "--token-file", secretFile(t, "alice"))
	if err := c.wait(t); err != nil || !strings.Contains(c.out.String(), "echo") {
		t.Errorf("with a second URL: %v\n%s", err, c.out.String())
	}
}
