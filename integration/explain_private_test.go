package integration

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"testing"

	"github.com/culvertgate/culvert/framecodec"
	"github.com/culvertgate/culvert/internal/testkit"
)

// publicAddr is an address of the Internet, here of a machine that the test made.
const publicAddr = "9.9.9.9"

// neighbours is a Caddy in a network of its own, which is gateway and client,
// and a machine beside it with a private and a public address.
type neighbours struct {
	net     *testkit.Namespace
	caddy   *testkit.Caddy
	private netip.Addr
	entry   map[string]string // listener by target
}

const (
	neighbourSOCKS = "127.0.0.1:1080"
	neighbourDNS   = "127.0.0.1:5300"
	neighbourPort  = "9000"
)

// TestExplainPrivate: whether a name or a wildcard leads to private addresses is
// what explain says, and what opens by SOCKS5 and by entries find.
func TestExplainPrivate(t *testing.T) {
	w := startNeighbours(t)
	name := func(host string) string { return "tcp/" + host + ":" + neighbourPort }
	private, public := name(w.private.String()), name(publicAddr)
	const ok, no, none = framecodec.CodeNormal, framecodec.CodeNotAllowed, framecodec.CodeResolveFailed
	for rules, want := range map[string][6]framecodec.Code{
		"":                                      {no, no, no, no, no, no},
		"allow tcp/*.example:9000":              {no, ok, no, none, no, no},
		"allow tcp/priv.example:9000":           {no, no, no, no, no, no},
		"allow tcp/*:9000":                      {no, ok, no, none, no, ok},
		"allow tcp/10.0.0.0/8:9000":             {ok, no, no, no, ok, no},
		"allow tcp/*.example:9000-9001 private": {ok, ok, ok, none, no, no},
		"allow tcp/priv.example:9000 private\nallow tcp/*:9000":          {ok, ok, no, none, no, ok},
		"allow tcp/*:9000\nallow tcp/10.0.0.0/8:9000":                    {ok, ok, ok, none, ok, ok},
		"allow tcp/*.example:9000 private\ndeny " + w.private.String():   {no, ok, no, none, no, no},
		"allow tcp/*.example:9000 private {\nusers bob\n}":               {no, no, no, no, no, no},
		"allow tcp/*.example:9000 private {\ngroups ops\n}":              {ok, ok, ok, none, no, no},
		"allow tcp/*.example:1-8999 private\nallow tcp/*:9001-65535":     {no, no, no, no, no, no},
		"allow tcp/*.example:9000 private\ndeny priv.example":            {no, ok, ok, none, no, no},
		"allow tcp/*.example:9000 private\ndeny " + publicAddr + ":9000": {ok, no, no, none, no, no},
	} {
		t.Run(strings.ReplaceAll(rules, "\n", " "), func(t *testing.T) {
			w.load(t, rules)
			for i, target := range []string{name("priv.example"), name("pub.example"), name("both.example"), name("none.example"), private, public} {
				w.check(t, target, want[i])
			}
			w.check(t, "host", ok) // a named target's host name may lead to private addresses
		})
	}
}

func startNeighbours(t *testing.T) *neighbours {
	t.Helper()
	w := &neighbours{net: testkit.NewNamespace(t)}
	far := testkit.NewNamespace(t)
	var err error
	if _, w.private, err = w.net.Connect(far); err != nil {
		t.Fatal(err)
	}
	if err := far.AddAddress(netip.MustParsePrefix(publicAddr + "/32")); err != nil {
		t.Fatal(err)
	}
	if out, err := w.net.Command("ip", "route", "add", publicAddr, "via", w.private.String()).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	l, err := far.Listen("tcp4", ":"+neighbourPort)
	if err != nil {
		t.Fatal(err)
	}
	serveListener(t, l, func(c net.Conn) { _, _ = io.Copy(c, c) })
	dns, err := w.net.ListenPacket("udp", neighbourDNS)
	if err != nil {
		t.Fatal(err)
	}
	serveDNS(t, dns, map[string][]string{
		"priv.example.": {w.private.String()}, "pub.example.": {publicAddr}, "both.example.": {publicAddr, w.private.String()},
	})
	w.entry = map[string]string{}
	for i, target := range []string{"host", "tcp/priv.example:9000", "tcp/pub.example:9000", "tcp/both.example:9000", "tcp/none.example:9000", "tcp/" + w.private.String() + ":9000", "tcp/" + publicAddr + ":9000"} {
		w.entry[target] = fmt.Sprint("127.0.0.1:", 2000+i)
	}
	w.caddy = testkit.StartCaddy(t, testkit.CaddyConfig{Caddyfile: w.config(""), Namespace: w.net})
	return w
}

func (w *neighbours) config(rules string) string {
	var servers strings.Builder
	for target, at := range w.entry {
		fmt.Fprintf(&servers, "%s {\nroute {\nwebrtc_tunnel here %s\n}\n}\n", at, target)
	}
	return `{
	auto_https off
	webrtc_tunnel {
		listen udp/127.0.0.1:3478
		remote here http://127.0.0.1:8080/tunnel {
			header X-User alice
		}
	}
	layer4 {
		` + neighbourSOCKS + ` {
			route {
				webrtc_tunnel here socks5
			}
		}
		` + servers.String() + `
	}
}

http://127.0.0.1:8080 {
	webrtc_tunnel /tunnel* {
		name gw
		identity {http.request.header.X-User}
		groups ops,staff
		target host tcp/priv.example:9000
		dynamic {
			resolver ` + neighbourDNS + `
			` + rules + `
		}
	}
}
`
}

func (w *neighbours) load(t *testing.T, rules string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), long)
	defer cancel()
	if err := w.caddy.Reload(ctx, w.config(rules)); err != nil {
		t.Fatal(err)
	}
}

// check wants a code of explain, and what it means of SOCKS5 and an entry.
func (w *neighbours) check(t *testing.T, target string, want framecodec.Code) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*long)
	defer cancel()
	status, body, err := w.caddy.Do(ctx, http.MethodPost, "/webrtc_tunnel/explain", "application/json", question(t, "alice", target, []string{"ops"}))
	var said explained
	if err == nil {
		err = json.Unmarshal([]byte(body), &said)
	}
	if err != nil || status != http.StatusOK || said.Code != want {
		t.Errorf("explain %s: %d %s %v, want %v", target, status, body, err, want)
	}
	if want == framecodec.CodeResolveFailed && !strings.Contains(said.Reason, neighbourDNS) {
		t.Errorf("explain %s does not name the resolver that was asked: %s", target, said.Reason)
	}
	c, err := w.net.DialContext(ctx, "tcp", w.entry[target])
	if err == nil {
		err = pingPong(c)
		c.Close()
	}
	if (err == nil) != (want == framecodec.CodeNormal) {
		t.Errorf("the entry of %s: %v, want %v", target, err, want)
	}
	host, portText, err := net.SplitHostPort(strings.TrimPrefix(target, "tcp/"))
	if err != nil {
		return // a name
	}
	port, err := strconv.ParseUint(portText, 10, 16)
	if err != nil {
		t.Fatal(err)
	}
	c, err = w.net.DialContext(ctx, "tcp", neighbourSOCKS)
	if err != nil {
		t.Fatal(err)
	}
	if reply := socksHandshake(t, c, host, uint16(port)); reply.String() != socksReply(want) {
		t.Errorf("SOCKS5 %s: %v, want %s", target, reply, socksReply(want))
	} else if want == framecodec.CodeNormal {
		if err := pingPong(c); err != nil {
			t.Errorf("SOCKS5 %s: %v", target, err)
		}
	}
	c.Close()
}
