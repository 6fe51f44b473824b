package culvert

import (
	"net/http"
	"strings"
	"testing"

	"github.com/culvertgate/culvert/framecodec"
	"github.com/culvertgate/culvert/tunnel"
)

// TestCommandWrongPath: a server that answers everything with 200, as Caddy does
// where it has no route, is no gateway however often it is asked.
func TestCommandWrongPath(t *testing.T) {
	g := commandGateway(t)
	g.Intercept(func(w http.ResponseWriter, _ *http.Request) bool {
		w.WriteHeader(http.StatusOK)
		return true
	})
	c := start(t, nil, "connect", "--url", g.URL(), "--forward", "0=echo", "--token-file", secretFile(t, "alice"))
	if err := c.wait(t); tunnel.CodeOf(err) != framecodec.CodeProtocolError || !strings.Contains(err.Error(), "check the path in the URL") {
		t.Errorf("%v", err)
	}
}
