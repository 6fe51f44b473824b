package reference

import (
	"fmt"
	"testing"

	"github.com/culvertgate/culvert/internal/testkit"
)

// The ports of the client's side, all on loopback of the test's own namespace.
const (
	offersPort = 8079
	entryPort  = 2000 // leads to where the wheel dials
	socksPort  = 1080
)

// dialling is our client with the wheel as its gateway: the wheel answers our
// offer and dials.
type dialling struct {
	net    *testkit.Namespace
	wheel  *testkit.Wheel
	offers *offers
	client *testkit.Caddy
	entry  string // address
}

// startDialling starts a client whose remote is a wheel with these settings. The
// tunnel comes with the first stream.
func startDialling(t testing.TB, s testkit.TubeSettings) *dialling {
	t.Helper()
	// The wheel is started first and so ended last: a client that stops says
	// goodbye to it.
	d := &dialling{net: testkit.NewNamespace(t), entry: loopback(entryPort)}
	d.wheel = testkit.StartWheel(t, d.net)
	d.offers = serveOffers(t, d.net, offersPort, d.wheel, s)
	d.client = testkit.StartCaddy(t, testkit.CaddyConfig{Namespace: d.net, Caddyfile: fmt.Sprintf(`{
	auto_https off
	webrtc_tunnel {
		timeouts {
			drain 1s
		}
		remote partner http://127.0.0.1:%d/offers {
			dialect 1
		}
	}
	layer4 {
		127.0.0.1:%d {
			route {
				webrtc_tunnel partner anything
			}
		}
		127.0.0.1:%d {
			route {
				webrtc_tunnel partner socks5
			}
		}
	}
}
`, offersPort, entryPort, socksPort)})
	return d
}

// toTarget makes the wheel dial the target.
var toTarget = testkit.TubeSettings{Target: loopback(targetPort)}
