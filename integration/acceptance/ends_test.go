package acceptance

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"testing"

	"github.com/culvertgate/culvert/internal/testkit"
)

// cause is what ends a stream that is open.
type cause struct {
	name string
	do   func(p *pair, s stream) error
	// What each side must call the end (the label code of stream_ends_total), and
	// what the two sockets must see; empty: the socket was closed by do.
	gateway, client string
	near, far       end
}

// causes of ends that one stream has for itself. "near" is the opener's socket
// at the client, "far" the target's at the gateway.
var causes = []cause{
	{"the opener ends first", finish(func(s stream) (first, second *net.TCPConn) { return s.near, s.far }), "normal", "normal", "", ""},
	{"the target ends first", finish(func(s stream) (first, second *net.TCPConn) { return s.far, s.near }), "normal", "normal", "", ""},
	{"the target resets", func(_ *pair, s stream) error { return reset(s.far) }, "target_closed", "target_closed", sawRST, ""},
	{"the opener resets", func(_ *pair, s stream) error { return reset(s.near) }, "cancelled", "cancelled", "", sawRST},
}

// adminCauses go through the admin API.
var adminCauses = []cause{
	{"killed at the gateway", func(p *pair, _ stream) error { return killStream(p.gateway) }, "closed_by_admin", "closed_by_admin", sawRST, sawRST},
	{"killed at the client", func(p *pair, _ stream) error { return killStream(p.client) }, "closed_by_admin", "closed_by_admin", sawRST, sawRST},
	{"its tunnel killed at the gateway", func(p *pair, _ stream) error { return killTunnel(p.gateway) }, "closed_by_admin", "closed_by_admin", sawRST, sawRST},
	{"its tunnel killed at the client", func(p *pair, _ stream) error { return killTunnel(p.client) }, "closed_by_admin", "closed_by_admin", sawRST, sawRST},
	{"no longer allowed", func(p *pair, _ stream) error { return p.reloadGateway("\t\ttarget other tcp/127.0.0.1:9000\n") }, "policy_changed", "policy_changed", sawRST, sawRST},
}

// stopCauses end a process in an orderly way, after timeouts.drain.
var stopCauses = []cause{
	{"the gateway stops", func(p *pair, _ stream) error { return p.gateway.Stop(patience) }, "", "draining", sawRST, sawRST},
	{"the client stops", func(p *pair, _ stream) error { return p.client.Stop(patience) }, "tunnel_closed", "", sawRST, sawRST},
}

// refusals are streams that never open: the SOCKS reply, and the label result of
// streams_opened_total at both sides.
var refusals = []struct {
	name  string
	host  string
	port  int
	reply byte
	code  string
}{
	{"closed port", "127.0.0.1", 9001, replyRefused, "refused"},
	{"no rule", "127.0.0.1", 9002, replyNotAllowed, "not_allowed"},
	{"no route", "10.77.0.1", 80, replyUnreachable, "unreachable"},
	{"no such name", "nowhere.example", 80, replyUnreachable, "resolve_failed"},
	{"no answer", "10.66.0.1", 80, replyTimeout, "timeout"},
}

// endsSetup allows what the refusals need, and is quick to drain and dial.
var endsSetup = setup{
	gatewayApp: "\t\ttimeouts {\n\t\t\tdial 2s\n\t\t\tdrain 1s\n\t\t}\n",
	clientApp:  "\t\ttimeouts {\n\t\t\tdrain 1s\n\t\t}\n",
	endpoint: `
		target web tcp/127.0.0.1:9000
		dynamic {
			allow tcp/127.0.0.1:9001
			allow tcp/10.66.0.0/24:80
			allow tcp/10.77.0.0/24:80
			allow tcp/*.example:80
			resolver 127.0.0.1:53
		}
`,
	entries: defaultEntries + `
		127.0.0.1:2001 {
			route {
				webrtc_tunnel gw nobody
			}
		}
`,
}

func TestMustShow7CodesOfEnds(t *testing.T) {
	p := startPair(t, endsSetup)
	g := startTarget(t, p.net)
	for _, c := range slices.Concat(causes, adminCauses) {
		t.Run(c.name, func(t *testing.T) { p.endOne(t, g, c) })
	}
	check(t, p.reloadGateway(p.setup.endpoint))
	for _, c := range stopCauses {
		t.Run(c.name, func(t *testing.T) { p.endOne(t, g, c) })
		p.restart()
	}
}

// endOne opens a stream, ends it, and holds both sides against the table.
func (p *pair) endOne(t *testing.T, g *target, c cause) {
	// Before it opens: some end by themselves soon.
	gateway, client := metricsOf(t, p.gateway).Ends("gateway"), metricsOf(t, p.client).Ends("client")
	s, err := p.open(g, entryPort)
	check(t, err, s.echo())
	near, far := watch(s.near, c.near), watch(s.far, c.far)
	check(t, c.do(p, s))
	if got := <-near; got != c.near {
		t.Errorf("the opener saw %s, want %s", got, c.near)
	}
	if got := <-far; got != c.far {
		t.Errorf("the target saw %s, want %s", got, c.far)
	}
	for _, side := range []struct {
		name   string
		caddy  *testkit.Caddy
		before map[string]int
		code   string
	}{{"gateway", p.gateway, gateway, c.gateway}, {"client", p.client, client, c.client}} {
		if side.code != "" {
			endsBecome(t, side.name, side.caddy, side.before, map[string]int{side.code: 1})
		}
	}
}

// watch says what a socket sees; at once that it need not look.
func watch(c *net.TCPConn, want end) <-chan end {
	got := make(chan end, 1)
	if want == "" {
		got <- ""
	} else {
		go func() { got <- seen(c, patience) }()
	}
	return got
}

// endsBecome waits until a side has counted exactly these ends since before.
func endsBecome(t *testing.T, side string, c *testkit.Caddy, before, want map[string]int) {
	t.Helper()
	testkit.Eventually(t, patience, func() error {
		m, err := readMetrics(c)
		if err != nil {
			return err
		}
		if got := testkit.Rise(before, m.Ends(side)); !maps.Equal(got, want) {
			return fmt.Errorf("%s counts the ends %v, want %v", side, got, want)
		}
		return nil
	})
}

// finish closes one direction, sees that at the other end, and closes the other.
func finish(order func(stream) (first, second *net.TCPConn)) func(*pair, stream) error {
	return func(_ *pair, s stream) error {
		first, second := order(s)
		if err := first.CloseWrite(); err != nil {
			return err
		}
		if got := seen(second, patience); got != sawFIN { // and closes it
			return fmt.Errorf("after FIN the other end saw %s", got)
		}
		if got := seen(first, patience); got != sawFIN {
			return fmt.Errorf("after the other end's FIN the first saw %s", got)
		}
		return nil
	}
}

func killTunnel(c *testkit.Caddy) error {
	list, err := listTunnels(c)
	if err != nil || len(list) != 1 {
		return fmt.Errorf("tunnels: %+v, %w", list, err)
	}
	return adminDelete(c, "/webrtc_tunnel/tunnels/"+list[0].ID)
}

// killStream ends the only stream of the only tunnel.
func killStream(c *testkit.Caddy) error {
	list, err := listTunnels(c)
	if err != nil || len(list) != 1 {
		return fmt.Errorf("tunnels: %+v, %w", list, err)
	}
	ctx, cancel := adminContext()
	defer cancel()
	text, err := c.Get(ctx, "/webrtc_tunnel/tunnels/"+list[0].ID)
	if err != nil {
		return err
	}
	var detail struct {
		StreamList []struct{ ID uint32 } `json:"stream_list"`
	}
	if err := json.Unmarshal([]byte(text), &detail); err != nil || len(detail.StreamList) != 1 {
		return fmt.Errorf("streams: %s, %w", text, err)
	}
	return adminDelete(c, fmt.Sprintf("/webrtc_tunnel/tunnels/%s/streams/%d", list[0].ID, detail.StreamList[0].ID))
}

func adminDelete(c *testkit.Caddy, path string) error {
	ctx, cancel := adminContext()
	defer cancel()
	status, text, err := c.Do(ctx, "DELETE", path, "", "")
	if err == nil && status/100 != 2 {
		err = fmt.Errorf("DELETE %s: %d %s", path, status, text)
	}
	return err
}

// reloadGateway gives the gateway another endpoint.
func (p *pair) reloadGateway(endpoint string) error {
	s := p.setup
	s.endpoint = endpoint
	ctx, cancel := adminContext()
	defer cancel()
	return p.gateway.Reload(ctx, s.gatewayCaddyfile())
}

// restart starts what has ended.
func (p *pair) restart() {
	p.t.Helper()
	if !running(p.gateway) {
		p.startGateway()
	}
	if !running(p.client) {
		p.startClient()
	}
}

func TestMustShow7CodesOfRefusals(t *testing.T) {
	p := startPair(t, endsSetup)
	startTarget(t, p.net)
	must[*testkit.Rule](t)(p.net.BlackHole(netip.MustParsePrefix("10.66.0.0/24")))
	if out, err := p.net.Command("ip", "route", "add", "unreachable", "10.77.0.0/24").CombinedOutput(); err != nil {
		t.Fatalf("ip route: %v %s", err, out)
	}
	for _, r := range refusals {
		t.Run(r.name, func(t *testing.T) {
			gateway, client := metricsOf(t, p.gateway).Opened("gateway"), metricsOf(t, p.client).Opened("client")
			_, err := p.openBySOCKS(socksPort, r.host, r.port, patience)
			var reply socksError
			if !errors.As(err, &reply) || byte(reply) != r.reply {
				t.Errorf("%v, want SOCKS reply %d", err, r.reply)
			}
			refused(t, p, r.code, gateway, client)
		})
	}
	t.Run("no such target", func(t *testing.T) {
		gateway, client := metricsOf(t, p.gateway).Opened("gateway"), metricsOf(t, p.client).Opened("client")
		c, err := p.dial(entryPort + 1)
		switch {
		case err == nil:
			if got := seen(c, patience); got != sawRST {
				t.Errorf("the opener saw %s, want %s", got, sawRST)
			}
		case !isReset(err): // the reset may come before connect has returned
			t.Error(err)
		}
		refused(t, p, "unknown_target", gateway, client)
	})
}

// refused waits until both sides have counted one refusal with this code.
func refused(t *testing.T, p *pair, code string, gateway, client map[string]int) {
	t.Helper()
	testkit.Eventually(t, patience, func() error {
		m, err := readMetrics(p.gateway)
		n, err2 := readMetrics(p.client)
		if err := errors.Join(err, err2); err != nil {
			return err
		}
		want := map[string]int{code: 1}
		if a, b := testkit.Rise(gateway, m.Opened("gateway")), testkit.Rise(client, n.Opened("client")); !maps.Equal(a, want) || !maps.Equal(b, want) {
			return fmt.Errorf("gateway counts %v, client counts %v, want %v", a, b, want)
		}
		return nil
	})
}
