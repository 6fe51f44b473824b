package acceptance

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"

	"github.com/culvertgate/culvert/internal/testkit"
)

// plainGateway has no global option of ours: everything is default. The site's
// certificate is that of Caddy's own authority.
const plainGateway = `{
	skip_install_trust
}
https://%s {
	tls internal
	webrtc_tunnel /tunnel* {
		allow_anonymous
		target web tcp/127.0.0.1:9000
	}
}
`

// plainClient says where the gateway is, and no more.
const plainClient = `{
	webrtc_tunnel {
		remote gw https://%s/tunnel {
			tls_trust_pool file %s
		}
	}
	layer4 {
		127.0.0.1:2000 {
			route {
				webrtc_tunnel gw web
			}
		}
	}
}
`

// TestDefaultListen has two machines with a cable between them, and a gateway
// without a word of configuration for its UDP socket.
func TestDefaultListen(t *testing.T) {
	t.Parallel()
	near, far := testkit.NewNamespace(t), testkit.NewNamespace(t)
	_, address, err := near.Connect(far)
	check(t, err)
	gateway := testkit.StartCaddy(t, testkit.CaddyConfig{Caddyfile: fmt.Sprintf(plainGateway, address), Namespace: far})
	testkit.Eventually(t, patience, func() error { return hasCertificate(t.Context(), near, address) })
	authority := filepath.Join(gateway.Home, "data", "caddy", "pki", "authorities", "local", "root.crt")
	client := testkit.StartCaddy(t, testkit.CaddyConfig{Caddyfile: fmt.Sprintf(plainClient, address, authority), Namespace: near})

	g := startTarget(t, far)
	s := must[stream](t)(g.join(must[*net.TCPConn](t)(dialIn(near, entryPort))))
	defer s.close()
	check(t, transfer(s.near, s.far, 5, 4<<20), transfer(s.far, s.near, 6, 4<<20))

	ctx, cancel := adminContext()
	defer cancel()
	id := onlyTunnel(t, client).ID
	text := must[string](t)(client.Get(ctx, "/webrtc_tunnel/tunnels/"+id))
	if pair := address.String() + ":3478"; !strings.Contains(text, pair) {
		t.Errorf("the tunnel does not lead to %s: %s", pair, text)
	}
	secondGateway(t, far, gateway)
	onlyTunnel(t, gateway)
}

// hasCertificate reports whether Caddy has made its certificate yet, which it
// does behind its start. Whether there is one is all that is asked; the client checks it.
func hasCertificate(ctx context.Context, from *testkit.Namespace, address netip.Addr) error {
	c, err := from.DialContext(ctx, "tcp", netip.AddrPortFrom(address, 443).String())
	if err != nil {
		return err
	}
	defer c.Close()
	return tls.Client(c, &tls.Config{InsecureSkipVerify: true}).HandshakeContext(ctx)
}

// secondGateway starts another one on the same machine, which has to say what is
// in its way and which option moves it out of that; with that option it starts.
func secondGateway(t *testing.T, n *testkit.Namespace, first *testkit.Caddy) {
	t.Helper()
	site := "http://127.0.0.1:8090 {\n\twebrtc_tunnel /tunnel* {\n\t\tallow_anonymous\n\t}\n}\n"
	c, err := testkit.OpenCaddy(t.TempDir(), testkit.CaddyConfig{Caddyfile: site, Namespace: n})
	if err == nil {
		c.Kill()
		t.Fatal("a second gateway has started on the same UDP port")
	}
	_, option, found := strings.Cut(err.Error(), "listen udp/:")
	if !found || !strings.Contains(err.Error(), "3478 is in use by another program") {
		t.Fatalf("the second gateway does not say what to change: %v", err)
	}
	option = option[:strings.IndexFunc(option+" ", func(r rune) bool { return r < '0' || r > '9' })]
	moved := "{\n\twebrtc_tunnel {\n\t\tlisten udp/:" + option + "\n\t}\n}\n" + site
	second := testkit.StartCaddy(t, testkit.CaddyConfig{Caddyfile: moved, Namespace: n})
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for name, c := range map[string]*testkit.Caddy{"first": first, "second": second} {
		if status, text, err := c.Do(ctx, "GET", "/webrtc_tunnel/health", "", ""); err != nil || status != 200 {
			t.Errorf("health of the %s gateway: %d %s %v", name, status, text, err)
		}
	}
}
