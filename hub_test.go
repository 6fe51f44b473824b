package culvert

import (
	"context"
	"net"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/mholt/caddy-l4/layer4"
	"go.uber.org/goleak"
	"go.uber.org/zap"

	"github.com/culvertgate/culvert/tunnel"
	"github.com/culvertgate/culvert/tunnel/rtc"
	"github.com/culvertgate/culvert/tunnel/signal"
)

// testEnvironment is an attached-to-be configuration with these endpoints.
func testEnvironment(t *testing.T, endpoints ...string) *environment {
	t.Helper()
	ctx, cancel := caddy.NewContext(caddy.Context{Context: context.Background()})
	t.Cleanup(cancel)
	env := &environment{
		ctx: ctx, logger: zap.NewNop(), endpoints: map[string]*endpointState{}, attached: make(chan struct{}), released: make(chan struct{}),
		gateway: rtc.Options{Loopback: true},
	}
	env.limits.applyDefaults()
	env.timeouts.applyDefaults()
	for _, name := range endpoints {
		env.endpoints[name] = &endpointState{name: name, policy: denyAll}
		env.endpoints[name].limits.applyDefaults()
	}
	return env
}

// TestHubLife walks a hub through two configurations and checks that nothing is
// left of it in the end.
func TestHubLife(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	listen := listenAddress{"udp", "127.0.0.1:0"}
	first, err := acquireHub(listen)
	if err != nil {
		t.Fatal(err)
	}
	second, err := acquireHub(listen)
	if err != nil || second != first {
		t.Fatalf("two configurations of one address have two hubs: %v", err)
	}
	h := first
	older, newer := testEnvironment(t, "gw"), testEnvironment(t)
	if h.current() != nil {
		t.Error("a configuration counts before it is attached")
	}
	for _, env := range []*environment{older, newer} {
		if len(env.endpoints) > 0 {
			if err := h.open(env); err != nil {
				t.Fatal(err)
			}
		}
		if err := h.attach(env); err != nil {
			t.Fatal(err)
		}
		select {
		case <-env.attached:
		default:
			t.Error("requests would wait for a configuration that is attached")
		}
	}
	if h.current() != newer || h.last(newer) {
		t.Error("the newest of two configurations does not count")
	}
	if h.net.socket == nil {
		t.Error("no socket while a configuration has an endpoint")
	}
	h.detach(older)
	h.detach(older)
	if h.current() != newer || !h.last(newer) {
		t.Error("detaching the older one changed more than that")
	}
	if h.net.socket != nil {
		t.Error("the socket is open although no configuration has an endpoint")
	}
	h.shutDown(false)
	h.detach(newer)
	if h.current() != nil {
		t.Error("a configuration counts behind the last one")
	}
	for range 2 {
		if _, err := hubPool.Delete(listen); err != nil {
			t.Fatal(err)
		}
	}
	if len(runningHubs()) != 0 {
		t.Error("the hub is still in the pool")
	}
}

// TestFailedLoadGoesBack: when the newest configuration goes, the one before
// counts again.
func TestFailedLoadGoesBack(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	h := newHub(listenAddress{"udp", "127.0.0.1:0"})
	good, bad := testEnvironment(t, "gw"), testEnvironment(t, "gw2")
	good.limits.Memory = 1 << 30
	bad.limits.Memory = 2 << 30
	for _, env := range []*environment{good, bad} {
		if err := h.attach(env); err != nil {
			t.Fatal(err)
		}
	}
	if h.endpoint("gw2") == nil || h.endpoint("gw") != nil || h.memory.Limit() != 2<<30 {
		t.Error("the newest configuration does not count")
	}
	h.detach(bad)
	if h.endpoint("gw") == nil || h.endpoint("gw2") != nil || h.memory.Limit() != 1<<30 {
		t.Error("the configuration before does not count again")
	}
	h.detach(good)
	if err := h.Destruct(); err != nil {
		t.Fatal(err)
	}
}

// TestPortInUse: the error says which option to change, and a later load may
// succeed.
func TestPortInUse(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	other, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	h := newHub(listenAddress{"udp", other.LocalAddr().String()})
	env := testEnvironment(t, "gw")
	err = h.open(env)
	if err == nil || !strings.Contains(err.Error(), "option listen of webrtc_tunnel") || !strings.Contains(err.Error(), "coturn") {
		t.Errorf("error %v does not say what to change", err)
	}
	other.Close()
	if err := h.open(env); err != nil {
		t.Errorf("with the port free again: %v", err)
	}
	if err := h.Destruct(); err != nil {
		t.Error(err)
	}
}

// TestPortOfTheRunningConfiguration: listen is written another way, on the same
// port.
func TestPortOfTheRunningConfiguration(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	free, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := free.LocalAddr().(*net.UDPAddr).Port
	free.Close()
	var hubs []*hub
	for _, host := range []string{"127.0.0.1", ""} {
		h, err := acquireHub(listenAddress{"udp", net.JoinHostPort(host, strconv.Itoa(port))})
		if err != nil {
			t.Fatal(err)
		}
		hubs = append(hubs, h)
	}
	if err := hubs[0].open(testEnvironment(t, "gw")); err != nil {
		t.Fatal(err)
	}
	env := testEnvironment(t, "gw")
	env.gateway.Loopback = false
	err = hubs[1].open(env)
	if err == nil || !strings.Contains(err.Error(), "by the configuration that runs now, as listen "+hubs[0].listen.String()) {
		t.Errorf("error %v does not say who has the port", err)
	}
	for _, h := range hubs {
		if _, err := hubPool.Delete(h.listen); err != nil {
			t.Error(err)
		}
	}
}

// TestNeverStarted: a hub of `caddy validate` has nothing to end.
func TestNeverStarted(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	h := newHub(listenAddress{})
	if err := h.Destruct(); err != nil {
		t.Error(err)
	}
}

func TestParseExpiry(t *testing.T) {
	for input, want := range map[string]time.Time{
		"":                     {},
		"  ":                   {},
		"1700000000":           time.Unix(1_700_000_000, 0),
		"1700000000.9":         time.Unix(1_700_000_000, 0),
		"1.7e9":                time.Unix(1_700_000_000, 0),
		"2030-01-02T03:04:05Z": time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC),
		"tomorrow":             time.Unix(1, 0), // over already
		"-5":                   time.Unix(1, 0),
		"1e99":                 time.Unix(1, 0),
	} {
		if got := parseExpiry(input); !got.Equal(want) {
			t.Errorf("parseExpiry(%q) = %v, want %v", input, got, want)
		}
	}
}

func TestSplitGroups(t *testing.T) {
	for input, want := range map[string][]string{
		"": nil, "ops": {"ops"}, "ops,dev": {"ops", "dev"}, " ops  dev\tqa, ": {"ops", "dev", "qa"}, "[ops dev]": {"ops", "dev"},
	} {
		if got := splitGroups(input); !slices.Equal(got, want) {
			t.Errorf("splitGroups(%q) = %q, want %q", input, got, want)
		}
	}
}

// TestTransportOfRequest: what counts as secure and as this machine.
func TestTransportOfRequest(t *testing.T) {
	for name, test := range map[string]struct {
		remote           string
		trusted          bool
		header           map[string]string
		secure, loopback bool
	}{
		"loopback":                     {"127.0.0.1:5", false, nil, false, true},
		"loopback, IPv6":               {"[::1]:5", false, nil, false, true},
		"loopback, mapped":             {"[::ffff:127.0.0.1]:5", false, nil, false, true},
		"afar":                         {"192.0.2.1:5", false, nil, false, false},
		"a proxy here, not trusted":    {"127.0.0.1:5", false, map[string]string{"X-Forwarded-For": "192.0.2.1", "X-Forwarded-Proto": "https"}, false, false},
		"a proxy here, Forwarded":      {"127.0.0.1:5", false, map[string]string{"Forwarded": "for=192.0.2.1;proto=https"}, false, false},
		"a trusted proxy, https":       {"192.0.2.9:5", true, map[string]string{"X-Forwarded-For": "192.0.2.1", "X-Forwarded-Proto": "https"}, true, false},
		"a trusted proxy, http":        {"192.0.2.9:5", true, map[string]string{"X-Forwarded-For": "192.0.2.1", "X-Forwarded-Proto": "http"}, false, false},
		"a trusted proxy says nothing": {"192.0.2.9:5", true, nil, false, false},
		"a trusted proxy says both":    {"192.0.2.9:5", true, map[string]string{"X-Forwarded-Proto": "https, http"}, false, false},
		"a proxy here that says less":  {"127.0.0.1:5", false, map[string]string{"X-Real-IP": "192.0.2.1"}, false, false},
		"a proxy here, http from afar": {"127.0.0.1:5", true, map[string]string{"X-Forwarded-Proto": "http"}, false, false},
		"anybody claims https":         {"192.0.2.1:5", false, map[string]string{"X-Forwarded-Proto": "https"}, false, false},
		"no address":                   {"@", false, nil, false, false},
	} {
		t.Run(name, func(t *testing.T) {
			r := httptest.NewRequest("POST", "http://gw.example/tunnel", nil)
			r.RemoteAddr = test.remote
			for key, value := range test.header {
				r.Header.Set(key, value)
			}
			vars := map[string]any{caddyhttp.TrustedProxyVarKey: test.trusted}
			r = r.WithContext(context.WithValue(r.Context(), caddyhttp.VarsCtxKey, vars))
			var c signal.Caller
			new(Endpoint).transport(r, &c)
			if c.Secure != test.secure || c.Loopback != test.loopback {
				t.Errorf("secure %v, loopback %v; want %v, %v", c.Secure, c.Loopback, test.secure, test.loopback)
			}
		})
	}
}

func TestSOCKSClientsOfThisMachine(t *testing.T) {
	for address, want := range map[net.Addr]bool{
		&net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)}: true,
		&net.TCPAddr{IP: net.IPv6loopback}:       true,
		&net.TCPAddr{IP: net.IPv4(192, 0, 2, 1)}: false,
		&net.UnixAddr{Name: "/run/x"}:            true,
		textAddr("127.0.0.9:5"):                  true,
		textAddr("192.0.2.1:5"):                  false,
		textAddr("pipe"):                         false,
	} {
		if got := isLoopback(address); got != want {
			t.Errorf("isLoopback(%v) = %v, want %v", address, got, want)
		}
	}
}

// TestSOCKSClientsBehindAHeader: what a PROXY header claims makes nobody local.
func TestSOCKSClientsBehindAHeader(t *testing.T) {
	here, afar := &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)}, &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1)}
	for name, test := range map[string]struct {
		says, is net.Addr
		want     bool
	}{
		"here":                    {here, here, true},
		"here, for somebody afar": {afar, here, false},
		"afar, and says here":     {here, afar, false},
	} {
		real := layer4.WrapConnection(addressed{remote: test.is}, nil, zap.NewNop())
		if got := fromLoopback(layer4.WrapConnection(claimed{addressed{remote: test.says}, real}, nil, zap.NewNop())); got != test.want {
			t.Errorf("%s: served %v, want %v", name, got, test.want)
		}
	}
}

// addressed is a connection of which only the address is asked.
type addressed struct {
	net.Conn
	remote net.Addr
}

func (a addressed) RemoteAddr() net.Addr { return a.remote }
func (a addressed) LocalAddr() net.Addr  { return a.remote }

// claimed is a connection with the address of a PROXY header, as go-proxyproto
// makes them.
type claimed struct {
	addressed
	real net.Conn
}

func (c claimed) Raw() net.Conn { return c.real }

type textAddr string

func (textAddr) Network() string  { return "test" }
func (a textAddr) String() string { return string(a) }

// TestLimitsOfAReload: a tunnel that runs follows the limits and time-outs of the
// newest configuration.
func TestLimitsOfAReload(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	h := newHub(listenAddress{})
	older, newer := testEnvironment(t, "gw"), testEnvironment(t, "gw")
	newer.limits.TunnelMemory = 5 << 20
	newer.timeouts.Dial = caddy.Duration(3 * time.Second)
	newer.endpoints["gw"].limits.OpensPerSecond = 2
	newer.endpoints["gw"].limits.Rate, newer.endpoints["gw"].limits.StreamRate = 1<<20, 1<<10
	newer.endpoints["gw"].allowAnonymous = true
	if err := h.attach(older); err != nil {
		t.Fatal(err)
	}
	g := h.newTunnel(older.endpoints["gw"], signal.Caller{}, signal.Offer{})
	g.budget, g.exit = tunnel.NewBudget(nil, 1<<20), h.newExit(g)
	if err := h.tunnels.add(g, 1); err != nil {
		t.Fatal(err)
	}
	if admitted := admits(g, 100); admitted != 100 {
		t.Errorf("%d of 100 opens admitted without a limit", admitted)
	}
	if g.rates != (tunnel.Rates{}) {
		t.Errorf("rates %+v without a limit", g.rates)
	}
	if err := h.attach(newer); err != nil {
		t.Fatal(err)
	}
	h.detach(older)
	if admitted := admits(g, 100); admitted < 2 || admitted > 3 {
		t.Errorf("%d opens admitted at once, want 2 a second", admitted)
	}
	if got := g.budget.Limit(); got != 5<<20 {
		t.Errorf("the tunnel may take %d bytes, want those of the new configuration", got)
	}
	if got := h.exitTimeouts().Dial; got != 3*time.Second {
		t.Errorf("a dial may take %v, want 3s", got)
	}
	rates := g.rates
	if rates.Out.PerSecond() != 1<<20 || rates.In.PerSecond() != 1<<20 || rates.Stream != 1<<10 {
		t.Errorf("rates %+v, want those of the new configuration", rates)
	}
	h.recheck(newer)
	if g.rates != rates {
		t.Error("an equal configuration gave the whole second again")
	}
	if admitted := admits(g, 100); admitted > 1 {
		t.Errorf("%d opens admitted: an equal configuration gave the whole burst again", admitted)
	}
	newer.endpoints["gw"].limits.OpensPerSecond = 0
	newer.endpoints["gw"].limits.Rate, newer.endpoints["gw"].limits.StreamRate = 0, 0
	h.recheck(newer)
	if g.rates != (tunnel.Rates{}) {
		t.Errorf("rates %+v with the limit gone", g.rates)
	}
	if admitted := admits(g, 100); admitted != 100 {
		t.Errorf("%d of 100 opens admitted with the limit gone", admitted)
	}
	h.tunnels.remove(g)
	if err := h.Destruct(); err != nil {
		t.Error(err)
	}
}

// admits asks for n streams and returns how many it may have.
func admits(g *gatewayTunnel, n int) (admitted int) {
	for range n {
		if g.admitStream(nil) == nil {
			admitted++
		}
	}
	return admitted
}
