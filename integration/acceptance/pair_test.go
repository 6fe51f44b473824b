package acceptance

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/culvertgate/culvert/internal/testkit"
)

// The ports, all on 127.0.0.1 of the test's own namespace.
const (
	gatewayUDP  = 3478
	gatewaySite = 8080
	tapPort     = 8079 // where the client believes the gateway to be
	targetPort  = 9000
	entryPort   = 2000 // leads to the target
	socksPort   = 1080
)

// bearer is what the client shows the gateway, which takes it for alice.
const bearer = "canary-bearer-5f2a81c07d"

// setup is what a test's gateway and client differ in. The texts are lines of a
// Caddyfile. The zero value is a gateway with the target named web at
// targetPort, and a client with an entry for it and one for SOCKS5.
type setup struct {
	gatewayApp string // global option webrtc_tunnel of the gateway
	endpoint   string // its endpoint; empty: the default
	clientApp  string // global option webrtc_tunnel of the client, besides the remote
	remote     string // the remote gw
	entries    string // layer4; empty: the default
	quiet      bool   // no debug log: for tests that measure
	env        map[string]string
}

const defaultEndpoint = `
		target web tcp/127.0.0.1:9000
		dynamic {
			allow tcp/127.0.0.1:9000
		}
`

const defaultEntries = `
		127.0.0.1:2000 {
			route {
				webrtc_tunnel gw web
			}
		}
		127.0.0.1:1080 {
			route {
				webrtc_tunnel gw socks5
			}
		}
`

// pair is a gateway and a client, each a process.
type pair struct {
	t       testing.TB
	setup   setup
	net     *testkit.Namespace
	tap     *tap
	gateway *testkit.Caddy
	client  *testkit.Caddy
}

// startPair starts both and makes sure at the end that they kept every secret.
func startPair(t testing.TB, s setup) *pair {
	t.Helper()
	p := &pair{t: t, setup: s, net: testkit.NewNamespace(t)}
	p.tap = startTap(t, p.net)
	p.tap.plant("bearer", bearer)
	t.TempDir() // its removal comes behind the look into the logs
	t.Cleanup(p.searchLogs)
	p.startGateway()
	p.startClient()
	t.Cleanup(p.searchLive)
	return p
}

func (p *pair) startGateway() {
	p.t.Helper()
	p.gateway = testkit.StartCaddy(p.t, testkit.CaddyConfig{Caddyfile: p.setup.gatewayCaddyfile(), Namespace: p.net, Env: p.setup.environment()})
}

func (p *pair) startClient() {
	p.t.Helper()
	p.client = testkit.StartCaddy(p.t, testkit.CaddyConfig{Caddyfile: p.setup.clientCaddyfile(), Namespace: p.net, Env: p.setup.environment()})
}

func (s setup) environment() map[string]string {
	env := map[string]string{"CULVERT_TOKEN": bearer}
	maps.Copy(env, s.env)
	return env
}

func (s setup) debug() string {
	if s.quiet {
		return ""
	}
	return "debug"
}

func (s setup) gatewayCaddyfile() string {
	endpoint := s.endpoint
	if endpoint == "" {
		endpoint = defaultEndpoint
	}
	return fmt.Sprintf(`{
	%s
	auto_https off
	webrtc_tunnel {
		listen udp/127.0.0.1:%d
%s
	}
}
http://:%d {
	bind 127.0.0.1
	log
	@alice header Authorization "Bearer {env.CULVERT_TOKEN}"
	vars @alice user alice
	webrtc_tunnel /tunnel* {
		name gw
		identity {http.vars.user}
%s
	}
}
`, s.debug(), gatewayUDP, s.gatewayApp, gatewaySite, endpoint)
}

func (s setup) clientCaddyfile() string {
	entries := s.entries
	if entries == "" {
		entries = defaultEntries
	}
	return fmt.Sprintf(`{
	%s
	auto_https off
	webrtc_tunnel {
%s
		remote gw http://127.0.0.1:%d/tunnel {
			header Authorization "Bearer {env.CULVERT_TOKEN}"
%s
		}
	}
	layer4 {
%s
	}
}
`, s.debug(), s.clientApp, tapPort, s.remote, entries)
}

// searchLogs looks for secrets in what the processes wrote to the very end.
func (p *pair) searchLogs() {
	for name, c := range map[string]*testkit.Caddy{"gateway": p.gateway, "client": p.client} {
		if c != nil {
			p.tap.search(p.t, "log of the "+name, c.Log())
		}
	}
}

// searchLive looks for secrets in what the running processes tell.
func (p *pair) searchLive() {
	ctx, cancel := adminContext()
	defer cancel()
	for name, c := range map[string]*testkit.Caddy{"gateway": p.gateway, "client": p.client} {
		if running(c) {
			searchAdmin(ctx, p.t, p.tap, name, c)
		}
	}
}

func running(c *testkit.Caddy) bool {
	if c == nil {
		return false
	}
	select {
	case <-c.Done():
		return false
	default:
		return true
	}
}

// searchAdmin looks for secrets in everything that the admin API gives.
func searchAdmin(ctx context.Context, t testing.TB, tap *tap, name string, c *testkit.Caddy) {
	t.Helper()
	paths := []string{"/metrics", "/config/", "/webrtc_tunnel/tunnels", "/webrtc_tunnel/health"}
	for _, i := range tunnelsOf(t, c) {
		paths = append(paths, "/webrtc_tunnel/tunnels/"+i.ID)
	}
	for _, path := range paths {
		status, text, err := c.Do(ctx, "GET", path, "", "")
		if err != nil {
			t.Errorf("admin API of the %s: %v", name, err)
			continue
		}
		// health may say 503 of a gateway that a test has just cut off.
		if status != 200 && path != "/webrtc_tunnel/health" && status != 404 {
			t.Errorf("admin API of the %s, %s: %d %s", name, path, status, text)
		}
		tap.search(t, name+" "+path, text)
	}
}

// tunnelInfo is what the tests need of GET /webrtc_tunnel/tunnels.
type tunnelInfo struct {
	ID       string
	Side     string
	Endpoint string
	Remote   string
	Identity string
	State    string
	Streams  int
	BytesIn  uint64 `json:"bytes_in"`
	BytesOut uint64 `json:"bytes_out"`
}

func tunnelsOf(t testing.TB, c *testkit.Caddy) []tunnelInfo {
	t.Helper()
	list, err := listTunnels(c)
	if err != nil {
		t.Fatal(err)
	}
	return list
}

func listTunnels(c *testkit.Caddy) ([]tunnelInfo, error) {
	ctx, cancel := adminContext()
	defer cancel()
	text, err := c.Get(ctx, "/webrtc_tunnel/tunnels")
	if err != nil {
		return nil, err
	}
	var list []tunnelInfo
	return list, json.Unmarshal([]byte(text), &list)
}

// onlyTunnel returns the one open tunnel of a process.
func onlyTunnel(t testing.TB, c *testkit.Caddy) tunnelInfo {
	t.Helper()
	list := tunnelsOf(t, c)
	if len(list) != 1 || list[0].State != "open" {
		t.Fatalf("tunnels: %+v, want one that is open", list)
	}
	return list[0]
}

// adminContext bounds a request to an admin API.
func adminContext() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), 20*time.Second)
}

// dial connects to a port of the namespace.
func (p *pair) dial(port int) (*net.TCPConn, error) { return dialIn(p.net, port) }

func dialIn(n *testkit.Namespace, port int) (*net.TCPConn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	c, err := n.DialContext(ctx, "tcp", loopback(port).String())
	if err != nil {
		return nil, err
	}
	return c.(*net.TCPConn), nil
}

func loopback(port int) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), uint16(port))
}

// held is what a process keeps besides its memory.
type held struct{ Goroutines, Descriptors int }

func holding(t testing.TB, c *testkit.Caddy) held {
	t.Helper()
	h, err := lookAt(c)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func lookAt(c *testkit.Caddy) (held, error) {
	ctx, cancel := adminContext()
	defer cancel()
	profile, err := c.Profile(ctx)
	usage, err2 := c.Usage()
	return held{profile.Goroutines, usage.Descriptors}, errors.Join(err, err2)
}

// backTo waits until a process holds no more than before.
func backTo(t testing.TB, name string, c *testkit.Caddy, before held, timeout time.Duration) {
	t.Helper()
	if err := backBy(c, before, timeout, func() {}); err != nil {
		stillHeld(t, name, c, fmt.Errorf("not within %v: %w", timeout, err))
	}
}

// backBy is backTo that returns an error, and calls look before each look.
func backBy(c *testkit.Caddy, before held, timeout time.Duration, look func()) error {
	return testkit.WaitFor(timeout, func() error {
		look()
		now, err := lookAt(c)
		if err == nil && (now.Goroutines > before.Goroutines || now.Descriptors > before.Descriptors) {
			err = fmt.Errorf("it holds %+v, before %+v", now, before)
		}
		return err
	})
}

// stillHeld fails the test and says what the process is at.
func stillHeld(t testing.TB, name string, c *testkit.Caddy, err error) {
	t.Helper()
	t.Errorf("%s: %v", name, err)
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if dump, err := c.Get(ctx, "/debug/pprof/goroutine?debug=1"); err == nil {
		t.Logf("goroutines of %s:\n%s", name, firstLines(dump, 150))
	}
}

func firstLines(text string, n int) string {
	lines := strings.SplitAfterN(text, "\n", n+1)
	return strings.Join(lines[:min(n, len(lines))], "")
}
