package culvert

import (
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/culvertgate/culvert/tunnel"
	"github.com/culvertgate/culvert/tunnel/policy"
)

// TestFreeze: an endpoint's server is refused to flows too where it speaks
// HTTP/3, on the networks that there are; the admin endpoint is TCP's alone.
func TestFreeze(t *testing.T) {
	for name, test := range map[string]struct {
		server *caddyhttp.Server
		want   []string
	}{
		"by default":      {&caddyhttp.Server{Listen: []string{":443"}}, []string{"tcp 443", "udp 443"}},
		"named":           {&caddyhttp.Server{Listen: []string{"tcp4/:443"}, Protocols: []string{"h1", "h3"}}, []string{"tcp 443", "udp 443"}},
		"of one listener": {&caddyhttp.Server{Listen: []string{":443"}, Protocols: []string{"h1"}, ListenProtocols: [][]string{nil, {"h3"}}}, []string{"tcp 443", "udp 443"}},
		"without":         {&caddyhttp.Server{Listen: []string{":443-444"}, Protocols: []string{"h1", "h2"}}, []string{"tcp 443", "tcp 444"}},
		"socket file":     {&caddyhttp.Server{Listen: []string{"unix//run/x.sock"}}, []string{"unix 0"}},
	} {
		t.Run(name, func(t *testing.T) {
			a := &App{env: testEnvironment(t)}
			a.env.admin = []string{"localhost:2019"}
			a.addServer(test.server)
			a.env.freeze(listenAddress{"udp", ":3478"})
			var got []string
			for _, l := range a.env.refused {
				got = append(got, fmt.Sprintf("%s %d", l.Network, l.Port))
			}
			want := slices.Concat([]string{"tcp 2019", "tcp 2019"}, test.want, []string{"udp 3478"})
			if !slices.Equal(got, want) {
				t.Errorf("%v, want %v", got, want)
			}
		})
	}
}

// TestSocketOfAnyPort: a port that the system has chosen is refused as well.
func TestSocketOfAnyPort(t *testing.T) {
	s := serve(t, nil)
	port := uint16(s.hub.net.socket.LocalAddr().(*net.UDPAddr).Port)
	p, err := policy.New(policy.Config{
		Dynamic:   &policy.Dynamic{Rules: []policy.Rule{{Text: "udp/127.0.0.1:1-65535"}}},
		Forbidden: s.env.forbidden,
	})
	if err != nil {
		t.Fatal(err)
	}
	target := tunnel.Target{Kind: tunnel.KindUDP, Host: "127.0.0.1", Port: port}
	e := p.Explain(t.Context(), policy.Subject{}, target, nil)
	if e.Allowed || !strings.Contains(e.Reason, "the socket of webrtc_tunnel") {
		t.Errorf("%+v", e)
	}
}
