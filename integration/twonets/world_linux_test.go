package twonets

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/net/dns/dnsmessage"

	"github.com/culvertgate/culvert/internal/testkit"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// The ports of a world.
const (
	gatewaySite = 8443
	gatewayUDP  = 3478
	socksEntry  = 1080 // of the client, on loopback, for everybody there
	usersEntry  = 1081 // the same for user alice
	udpEntry    = 5300 // of the client, to the named target udp
	tcpEntry    = 2000 // of the client, to the named target tcp
	dnsPort     = 53   // of the targets' network
	webPort     = 80
	echoPort    = 7 // UDP and TCP
	sshPort     = 22
)

const alicePassword = "canary-socks-9b1f"

// patience is for what takes a moment on a machine that is not busy.
const patience = 30 * time.Second

// world is a client and a gateway, joined by a cable, and the network of the
// gateway's targets behind it: what the client reaches there, it reaches through
// the tunnel.
type world struct {
	t               *testing.T
	near, far, lan  *testkit.Namespace
	cable           *testkit.Cable // the client's to the gateway
	lanCable        *testkit.Cable // the gateway's to its targets; nil: a wire of the kernel's
	host, host6     netip.Addr     // the machine of the targets
	gateway, client *testkit.Caddy
	options         options
	generation      int // of the configurations
	names           *names
	full            string // a folder without room
}

// app is the gateway's part of the global option that says how it listens.
func (w *world) app() string {
	if strings.Contains(w.options.gatewayApp, "listen ") {
		return w.options.gatewayApp
	}
	return fmt.Sprintf("listen udp/%s:%d\n\t\t%s", w.cable.Far(), gatewayUDP, w.options.gatewayApp)
}

// names is what the name server of the targets' network does besides what it
// should. The zero value does nothing.
type names struct {
	slow  atomic.Int64 // how late it answers for names that begin with slow, a time.Duration
	moved atomic.Bool  // names that begin with moves are this machine's: a trap
}

// options is what worlds differ in. The texts are lines of a Caddyfile.
type options struct {
	cable      testkit.CableConfig
	gatewayApp string // of the gateway's global option webrtc_tunnel
	clientApp  string
	timeouts   string // of both, besides drain
	global     string // global options of the gateway
	endpoint   string // of its endpoint
	binary     string // empty: testkit.CaddyBinary
	gatewayEnv map[string]string
	wire       bool         // the targets' network is joined by the kernel, which costs less than a cable
	beforeRun  func(*world) // when the networks are there, and no program yet
}

// newWorld starts one that ends with the test.
func newWorld(t *testing.T, o options) *world {
	t.Helper()
	w := &world{t: t, options: o, names: &names{}, near: testkit.NewNamespace(t), far: testkit.NewNamespace(t), lan: testkit.NewNamespace(t)}
	w.cable = testkit.NewCable(t, w.near, w.far, o.cable)
	w.connectTargets()
	if o.beforeRun != nil {
		o.beforeRun(w)
	}
	w.serveNames()
	w.gateway = testkit.StartCaddy(t, w.gatewayProcess())
	w.waitForCertificate()
	w.client = testkit.StartCaddy(t, w.clientProcess())
	return w
}

// connectTargets joins the targets' network to the gateway's.
func (w *world) connectTargets() {
	w.t.Helper()
	if !w.options.wire {
		w.lanCable = testkit.NewCable(w.t, w.far, w.lan, testkit.CableConfig{})
		w.host, w.host6 = w.lanCable.Far(), w.lanCable.Far6()
		return
	}
	var errs [2]error
	_, w.host, errs[0] = w.far.Connect(w.lan)
	w.host6, errs[1] = w.far.Connect6(w.lan)
	if err := errors.Join(errs[:]...); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) gatewayProcess() testkit.CaddyConfig {
	return testkit.CaddyConfig{Caddyfile: w.gatewayConfig(), Namespace: w.far, Binary: w.options.binary, Env: w.options.gatewayEnv}
}

func (w *world) clientProcess() testkit.CaddyConfig {
	return testkit.CaddyConfig{Caddyfile: w.clientConfig(), Namespace: w.near, Binary: w.options.binary, Env: map[string]string{"ALICE": alicePassword}}
}

// url is where the gateway's endpoint is.
func (w *world) url() string { return fmt.Sprintf("https://%s:%d/tunnel", w.cable.Far(), gatewaySite) }

func (w *world) gatewayConfig() string {
	return fmt.Sprintf(`{
	skip_install_trust
	%[9]s
	webrtc_tunnel {
		%[1]s
		timeouts {
			drain 10ms # the end of a test waits for no flow
			%[8]s
		}
	}
}
https://%[2]s:%[3]d {
	bind %[2]s
	tls internal
	webrtc_tunnel /tunnel* {
		name gw
		allow_anonymous
		%[10]s
		target udp udp/%[4]s:%[6]d
		target tcp tcp/%[4]s:%[6]d
		target dns udp/%[4]s:%[7]d
		dynamic {
			allow tcp/*.lan.example:1-1000 private
			allow udp/*.lan.example:1-1000 private
			allow tcp/%[4]s:1-1000
			allow udp/%[4]s:1-1000
			allow tcp/[%[5]s]:1-1000
			allow udp/[%[5]s]:1-1000
			resolver %[4]s:%[7]d
		}
	}
}
`, w.app(), w.cable.Far(), gatewaySite, w.host, w.host6, echoPort, dnsPort, w.options.timeouts, w.options.global, w.options.endpoint)
}

func (w *world) clientConfig() string {
	root := filepath.Join(w.gateway.Home, "data", "caddy", "pki", "authorities", "local", "root.crt")
	return fmt.Sprintf(`{
	webrtc_tunnel {
		%s
		timeouts {
			drain 10ms
			%s
		}
		remote gw %s {
			tls_trust_pool file %s
		}
	}
	layer4 {
		127.0.0.1:%d {
			route {
				webrtc_tunnel gw socks5
			}
		}
		127.0.0.1:%d {
			route {
				webrtc_tunnel gw {
					socks5 {
						user alice {env.ALICE}
					}
				}
			}
		}
		udp/127.0.0.1:%d {
			route {
				webrtc_tunnel gw udp
			}
		}
		udp/127.0.0.1:%d {
			route {
				webrtc_tunnel gw dns
			}
		}
		127.0.0.1:%d {
			route {
				webrtc_tunnel gw tcp
			}
		}
	}
}
`, w.options.clientApp, w.options.timeouts, w.url(), root, socksEntry, usersEntry, udpEntry, dnsPort, tcpEntry)
}

// waitForCertificate waits until the gateway's site has the one that it makes
// for itself.
func (w *world) waitForCertificate() {
	w.t.Helper()
	client := &http.Client{Transport: &http.Transport{
		DialContext: w.far.DialContext, DisableKeepAlives: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: true},
	}}
	testkit.Eventually(w.t, patience, func() error {
		resp, err := client.Get(w.url())
		if err != nil {
			return err
		}
		return resp.Body.Close()
	})
}

// serveNames is the name server of the targets' network: whatever is called
// something.lan.example has its addresses.
func (w *world) serveNames() {
	w.t.Helper()
	w.serveUDP(netip.AddrPortFrom(w.host, dnsPort), func(query []byte, reply func([]byte)) {
		var m dnsmessage.Message
		if m.Unpack(query) != nil || len(m.Questions) != 1 {
			return
		}
		q := m.Questions[0]
		name := strings.ToLower(q.Name.String())
		m.Response, m.Authoritative, m.Additionals = true, true, nil
		v4 := w.host
		switch {
		case strings.HasPrefix(name, "silent."):
			return
		case strings.HasPrefix(name, "wrong."):
			m.ID++ // of somebody else's question
		case strings.HasPrefix(name, "moves.") && w.names.moved.Load():
			v4 = netip.AddrFrom4([4]byte{127, 0, 0, 1})
		}
		if !strings.HasSuffix(name, ".lan.example.") || strings.HasPrefix(name, "nobody.") {
			m.RCode = dnsmessage.RCodeNameError
		} else {
			head := dnsmessage.ResourceHeader{Name: q.Name, Type: q.Type, Class: q.Class, TTL: 60}
			switch {
			case q.Type == dnsmessage.TypeA:
				m.Answers = []dnsmessage.Resource{{Header: head, Body: &dnsmessage.AResource{A: v4.As4()}}}
			case q.Type == dnsmessage.TypeAAAA && v4 == w.host:
				m.Answers = []dnsmessage.Resource{{Header: head, Body: &dnsmessage.AAAAResource{AAAA: w.host6.As16()}}}
			}
		}
		answer, _ := m.Pack()
		if strings.HasPrefix(name, "slow.") {
			time.AfterFunc(time.Duration(w.names.slow.Load()), func() { reply(answer) })
			return
		}
		reply(answer)
	})
}

// serveUDP answers each datagram of an address of the targets' network.
func (w *world) serveUDP(at netip.AddrPort, answer func(query []byte, reply func([]byte))) {
	w.t.Helper()
	c, err := w.lan.ListenPacket("udp", at.String())
	if err != nil {
		w.t.Fatal(err)
	}
	_ = c.(*net.UDPConn).SetReadBuffer(4 << 20)
	var wg sync.WaitGroup
	wg.Go(func() {
		for buf := make([]byte, 65536); ; {
			n, from, err := c.ReadFrom(buf)
			if err != nil {
				return
			}
			answer(buf[:n], func(a []byte) { _, _ = c.WriteTo(a, from) })
		}
	})
	w.t.Cleanup(func() { c.Close(); wg.Wait() })
}

// echoUDP sends back what comes, by both families.
func (w *world) echoUDP() {
	w.t.Helper()
	for _, at := range []netip.Addr{w.host, w.host6} {
		w.serveUDP(netip.AddrPortFrom(at, echoPort), func(p []byte, reply func([]byte)) { reply(p) })
	}
}

// serveTCP serves each connection to a port of the targets' network, by both
// families.
func (w *world) serveTCP(port uint16, serve func(*net.TCPConn)) {
	w.t.Helper()
	for _, at := range []netip.Addr{w.host, w.host6} {
		l, err := w.lan.Listen("tcp", netip.AddrPortFrom(at, port).String())
		if err != nil {
			w.t.Fatal(err)
		}
		var wg sync.WaitGroup
		open := map[*net.TCPConn]bool{}
		var mu sync.Mutex // guards open
		wg.Go(func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				conn := c.(*net.TCPConn)
				mu.Lock()
				open[conn] = true
				mu.Unlock()
				wg.Go(func() {
					serve(conn)
					_ = conn.Close()
					mu.Lock()
					delete(open, conn)
					mu.Unlock()
				})
			}
		})
		w.t.Cleanup(func() {
			l.Close()
			mu.Lock()
			for c := range open {
				_ = c.Close()
			}
			mu.Unlock()
			wg.Wait()
		})
	}
}

// echoTCP sends back what comes, and ends when the other side does.
func (w *world) echoTCP() {
	w.t.Helper()
	w.serveTCP(echoPort, func(c *net.TCPConn) {
		_, _ = io.Copy(c, c)
		_ = c.CloseWrite()
	})
}

// dial connects to one of the client's entries.
func (w *world) dial(network string, port int) net.Conn {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), patience)
	defer cancel()
	c, err := w.near.DialContext(ctx, network, fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = c.Close() })
	return c
}

// tunnelInfo is what the tests need of GET /webrtc_tunnel/tunnels.
type tunnelInfo struct {
	ID            string
	State         string
	CandidatePair string `json:"candidate_pair"`
	Streams       int
}

// tunnel returns the only tunnel of a process.
func (w *world) tunnel(c *testkit.Caddy) tunnelInfo {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), patience)
	defer cancel()
	text, err := c.Get(ctx, "/webrtc_tunnel/tunnels")
	var list []tunnelInfo
	if err == nil {
		err = json.Unmarshal([]byte(text), &list)
	}
	if err == nil && len(list) != 1 {
		err = fmt.Errorf("%d tunnels: %s", len(list), text)
	}
	if err != nil {
		w.t.Fatal(err)
	}
	return list[0]
}

// echoOf sends data through a connection and reads it back.
func echoOf(c net.Conn, data string) error {
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	buf := make([]byte, len(data))
	_, err := c.Write([]byte(data))
	if err == nil {
		_, err = io.ReadFull(c, buf)
	}
	if err == nil && string(buf) != data {
		err = fmt.Errorf("%q came back for %q", buf, data)
	}
	return errors.Join(err, c.SetDeadline(time.Time{}))
}
