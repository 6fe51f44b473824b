package badinput

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"github.com/culvertgate/culvert/internal/testkit"
)

// patience bounds everything that should take a moment, on a busy machine too.
const patience = 20 * time.Second

// connectTimeout is the gateway's timeouts.connect.
const connectTimeout = 4 * time.Second

// Who sends a row's request: the gateway takes the header for an identity.
const (
	alice  = "alice" // may name any public host
	bob    = "bob"   // may name *.example, and this machine without 127.0.0.13
	carol  = "carol" // has nothing but tunnels
	nobody = ""
)

// Where it comes from.
const (
	near = "loopback"
	afar = "another machine"
)

// The world's addresses. The site answers on all of the namespace's; what is
// called trap counts who connects to it, and nobody may.
const (
	siteAddress  = "127.0.0.1:8080"
	dnsAddress   = "127.0.0.1:5300"
	echoAddress  = "127.0.0.1:9000"
	aliceSOCKS   = "127.0.0.1:1080"
	bobSOCKS     = "127.0.0.1:1081"
	openSOCKS    = 1082 // bob's on all addresses: a mistake that costs nothing
	trapPort     = 9001
	metadataAddr = "169.254.169.254"
)

const caddyfile = `{
	auto_https off
	webrtc_tunnel {
		listen udp/127.0.0.1:3478
		timeouts {
			connect 4s
			dial 4s
		}
		remote alice http://127.0.0.1:8080/tunnel {
			header X-User alice
		}
		remote bob http://127.0.0.1:8080/tunnel {
			header X-User bob
		}
	}
	layer4 {
		127.0.0.1:1080 {
			route {
				webrtc_tunnel alice socks5
			}
		}
		127.0.0.1:1081 {
			route {
				webrtc_tunnel bob socks5
			}
		}
		:1082 {
			route {
				webrtc_tunnel bob socks5
			}
		}
	}
}
http://:8080 {
	webrtc_tunnel /tunnel* {
		name gw
		identity {http.request.header.X-User}
		origin https://app.example.com
		target echo tcp/127.0.0.1:9000
		target bobs tcp/127.0.0.1:9000 {
			users bob
		}
		dynamic {
			allow tcp/*:1-65535 {
				users alice
			}
			allow tcp/*.example:1-65535 {
				users bob
			}
			allow tcp/127.0.0.0/8:1-65535 {
				users bob
			}
			deny 127.0.0.13
			resolver 127.0.0.1:5300
		}
	}
	webrtc_tunnel /other* {
		name other
		identity {http.request.header.X-User}
		target echo tcp/127.0.0.1:9000
	}
	webrtc_tunnel /unresolved* {
		identity {http.auth.user.id}
		groups {nosuch.placeholder}
		target echo tcp/127.0.0.1:9000
	}
	log
	respond "the next handler" 418
}
`

// world is a network with one Caddy in it, which is gateway and client, an echo
// server, a DNS server, traps, and a second machine (far) on a cable.
type world struct {
	net, far  *testkit.Namespace
	here      netip.Addr // of net on the cable
	there     netip.Addr // of far
	caddy     *testkit.Caddy
	client    map[string]*http.Client // by place
	site      map[string]string       // host and port of the site, by place
	dns       *dnsServer
	traps     []*trap
	bystander *peer // of alice, open before all rows
	stream    *stream
}

func startWorld(t *testing.T) *world {
	t.Helper()
	w := &world{net: testkit.NewNamespace(t), far: testkit.NewNamespace(t)}
	var err error
	w.here, w.there, err = w.net.Connect(w.far)
	check(t, err)
	check(t, w.net.AddAddress(netip.MustParsePrefix(metadataAddr+"/32")))
	w.client = map[string]*http.Client{near: w.net.HTTPClient(), afar: w.far.HTTPClient()}
	w.site = map[string]string{near: siteAddress, afar: netip.AddrPortFrom(w.here, 8080).String()}
	serve(t, w.net, echoAddress, func(c net.Conn) { _, _ = io.Copy(c, c) })
	for _, a := range []string{"127.0.0.1:9001", "127.0.0.13:9001", "127.0.0.13:9000", "[::1]:9001", metadataAddr + ":80"} {
		w.traps = append(w.traps, startTrap(t, w.net, a))
	}
	private := startTrap(t, w.far, netip.AddrPortFrom(w.there, trapPort).String())
	w.traps = append(w.traps, private)
	w.dns = startDNS(t, w.net, w.there)
	w.caddy = testkit.StartCaddy(t, testkit.CaddyConfig{Caddyfile: caddyfile, Namespace: w.net})
	w.bystander = w.connect(t, alice, nil, session)
	w.stream = w.bystander.open(0)
	check(t, w.stream.echo("before all rows"))
	return w
}

func check(t testing.TB, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

// trap is a server that nobody may reach.
type trap struct {
	address string
	visits  atomic.Int32
}

func startTrap(t *testing.T, n *testkit.Namespace, address string) *trap {
	t.Helper()
	x := &trap{address: address}
	serve(t, n, address, func(net.Conn) { x.visits.Add(1) })
	return x
}

// untouched fails the test when somebody has been in a trap.
func (w *world) untouched(t *testing.T) {
	t.Helper()
	for _, x := range w.traps {
		if n := x.visits.Swap(0); n != 0 {
			t.Errorf("%s was connected to %d times", x.address, n)
		}
	}
}

// serve handles connections one after the other until the test ends.
func serve(t *testing.T, n *testkit.Namespace, address string, handle func(net.Conn)) {
	t.Helper()
	l, err := n.Listen("tcp", address)
	check(t, err)
	done := make(chan struct{})
	var open atomic.Int32
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			open.Add(1)
			go func() {
				defer open.Add(-1)
				defer c.Close()
				handle(c)
			}()
		}
	}()
	t.Cleanup(func() {
		l.Close()
		<-done
		testkit.Eventually(t, patience, func() error {
			if n := open.Load(); n != 0 {
				return fmt.Errorf("%d connections are open to %s", n, address)
			}
			return nil
		})
	})
}

// tunnelInfo is what the rows look at in GET /webrtc_tunnel/tunnels.
type tunnelInfo struct {
	ID, Side, Endpoint, Identity, State string
	Streams                             int
}

// tunnels lists the gateway's tunnels, those being set up (handshakes) included.
func (w *world) tunnels() (map[string]tunnelInfo, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	text, err := w.caddy.Get(ctx, "/webrtc_tunnel/tunnels")
	if err != nil {
		return nil, err
	}
	var list []tunnelInfo
	if err := json.Unmarshal([]byte(text), &list); err != nil {
		return nil, err
	}
	byID := map[string]tunnelInfo{}
	for _, i := range list {
		if i.Side == "gateway" {
			byID[i.ID] = i
		}
	}
	return byID, nil
}

func (w *world) mustTunnels(t *testing.T) map[string]tunnelInfo {
	t.Helper()
	list, err := w.tunnels()
	check(t, err)
	return list
}

// left waits until the gateway's tunnels are those from before, and checks that
// the bystander's session goes on.
func (w *world) left(t *testing.T, before map[string]tunnelInfo) {
	t.Helper()
	err := testkit.WaitFor(patience, func() error {
		now, err := w.tunnels()
		if err != nil {
			return err
		}
		for id, i := range now {
			if _, ok := before[id]; !ok {
				return fmt.Errorf("left: %+v", i)
			}
		}
		for id, i := range before {
			if now[id].State != i.State {
				return fmt.Errorf("was %+v, is %+v", i, now[id])
			}
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	if err := w.stream.echo(t.Name()); err != nil {
		t.Fatalf("the session that was there before: %v", err)
	}
	w.untouched(t)
}

// newcomer returns the one tunnel that was not there before.
func (w *world) newcomer(before map[string]tunnelInfo) (tunnelInfo, error) {
	now, err := w.tunnels()
	if err != nil {
		return tunnelInfo{}, err
	}
	var found []tunnelInfo
	for id, i := range now {
		if _, ok := before[id]; !ok {
			found = append(found, i)
		}
	}
	if len(found) != 1 {
		return tunnelInfo{}, fmt.Errorf("%d new tunnels: %+v, want 1", len(found), found)
	}
	return found[0], nil
}

// held is what the process keeps besides memory.
type held struct{ goroutines, descriptors int }

func (w *world) look() (held, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	profile, err := w.caddy.Profile(ctx)
	usage, err2 := w.caddy.Usage()
	return held{profile.Goroutines, usage.Descriptors}, errors.Join(err, err2)
}

// holding looks at the process once both of its remotes have their tunnel, which
// is there for good.
func (w *world) holding(t *testing.T) held {
	t.Helper()
	for _, socks := range []string{aliceSOCKS, bobSOCKS} {
		c, _, err := w.dialSOCKS(socks, "nosuch.example", 1)
		check(t, err)
		c.Close()
	}
	w.left(t, w.mustTunnels(t))
	h, err := w.look()
	check(t, err)
	return h
}

// backTo waits until the process holds no more than before. HTTP connections
// that have just ended may still be counted on either side.
func (w *world) backTo(t *testing.T, before held) {
	t.Helper()
	const slack = 4
	testkit.Eventually(t, 30*time.Second, func() error {
		now, err := w.look()
		if err == nil && (now.goroutines > before.goroutines+slack || now.descriptors > before.descriptors+slack) {
			err = fmt.Errorf("the process holds %+v, before the rows %+v", now, before)
		}
		return err
	})
}
