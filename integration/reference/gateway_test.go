package reference

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strings"
	"testing"

	"github.com/culvertgate/culvert/internal/testkit"
)

// The ports, all of the test's own namespace.
const (
	gatewayUDP  = 3478
	gatewaySite = 8080
	targetPort  = 9000
)

// listening is our gateway with the wheel as its client: the wheel has made the
// offer and accepts local connections.
type listening struct {
	plan
	net     *testkit.Namespace
	wheel   *testkit.Wheel
	gateway *testkit.Caddy
	tube    *testkit.Tube
	mark    int // where the wheel's log began when the tube was ready
}

// plan is what a test's listening wheel and gateway differ in.
type plan struct {
	endpoint string // lines of the endpoint's Caddyfile; empty: web
	query    string // of the endpoint's URL, such as ?target=web
	socks    bool   // the wheel speaks SOCKS5 to its clients
	fast     bool   // the wheel logs little: for tests that move much
}

// web is an endpoint with one target, which a plain forward leads to.
const web = `
		target web tcp/127.0.0.1:9000
		default_target web
`

// startListening connects a wheel to a gateway.
func startListening(t testing.TB, p plan) *listening {
	t.Helper()
	if p.endpoint == "" {
		p.endpoint = web
	}
	// The wheel is started first and so ended last: a gateway that stops says
	// goodbye to it.
	l := &listening{plan: p, net: testkit.NewNamespace(t)}
	l.wheel = testkit.StartWheel(t, l.net)
	l.gateway = testkit.StartCaddy(t, testkit.CaddyConfig{Namespace: l.net, Caddyfile: l.caddyfile(p.endpoint)})
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if !p.fast {
		check(t, l.wheel.SetLogLevel(ctx, wheelDebug))
	}
	check(t, l.connect(ctx))
	l.mark = len(l.wheel.Log())
	onlyTunnel(t, l.gateway)
	return l
}

func (l *listening) caddyfile(endpoint string) string {
	return fmt.Sprintf(`{
	auto_https off
	webrtc_tunnel {
		listen udp/%s:%d
		timeouts {
			dial 2s
			drain 1s
		}
	}
}
http://:%d {
	bind 127.0.0.1
	webrtc_tunnel /tunnel* {
		allow_anonymous
		dialects 1 2
%s
	}
}
`, l.net.Addr(), gatewayUDP, gatewaySite, endpoint)
}

// connect carries offer and answer between the two, as the program around a
// wheel has to.
func (l *listening) connect(ctx context.Context) error {
	tube, offer, err := l.wheel.Listen(ctx, testkit.TubeSettings{Listen: loopback(0), Socks: l.socks})
	if err != nil {
		return err
	}
	answer, err := l.post(ctx, offer)
	if err != nil {
		return err
	}
	if err := tube.Accept(ctx, answer); err != nil {
		return err
	}
	l.tube = tube
	return tube.Ready(ctx)
}

func (l *listening) post(ctx context.Context, offer string) (answer string, err error) {
	url := fmt.Sprintf("http://%s/tunnel%s", loopback(gatewaySite), l.query)
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, strings.NewReader(offer))
	if err != nil {
		return "", err
	}
	req.Header.Set("Content-Type", "application/sdp")
	res, err := l.net.HTTPClient().Do(req)
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err == nil && res.StatusCode != http.StatusCreated {
		err = fmt.Errorf("POST %s: %s: %s", url, res.Status, body)
	}
	return string(body), err
}

// wheelDebug is the level at which the wheel's log tells of each connection.
const wheelDebug = 10

// closedLine is what the wheel writes when a CloseConnection arrives: the
// connection's number, the text if there was one, and the reason.
var closedLine = regexp.MustCompile(`(?:Connection (\d+) closed: (.*)|Closing connection (\d+)) \(reason: (\w+)`)

// closings returns how the wheel was told of each connection's end, as
// "Reason: text" by number.
func (l *listening) closings() map[string]string {
	told := map[string]string{}
	for _, m := range closedLine.FindAllStringSubmatch(l.wheel.Log()[l.mark:], -1) {
		told[m[1]+m[3]] = strings.TrimSuffix(m[4]+": "+m[2], ": ")
	}
	return told
}
