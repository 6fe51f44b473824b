package integration

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/http"
	"testing"

	"github.com/culvertgate/culvert/framecodec"
)

// TestOwnOriginOverTLS: a page's origin is the site's own when it is the TLS
// server name and the Host; a Host alone can be rebound.
func TestOwnOriginOverTLS(t *testing.T) {
	w := newSecureWorld(t)
	start(t, w.config("https://"+secureAddr+"/tunnel", "", true))
	pair, err := tls.LoadX509KeyPair(w.cert, w.key)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(w.servers.cert)
	client := &http.Client{Transport: watching{&http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, network, secureAddr)
		},
		TLSClientConfig: &tls.Config{RootCAs: pool, Certificates: []tls.Certificate{pair}, ServerName: "gw.test"},
	}}}
	for name, test := range map[string]struct {
		host   string // and the URL's; the server name is gw.test
		origin string
		status int
	}{
		"no page":                       {"gw.test:9443", "", http.StatusOK},
		"own":                           {"gw.test:9443", "https://gw.test:9443", http.StatusOK},
		"own, in capitals":              {"GW.test:9443", "https://gw.TEST:9443", http.StatusOK},
		"foreign":                       {"gw.test:9443", "https://evil.test", http.StatusForbidden},
		"foreign, of that port":         {"gw.test:9443", "https://evil.test:9443", http.StatusForbidden},
		"of another port":               {"gw.test:9443", "https://gw.test", http.StatusForbidden},
		"of plain HTTP":                 {"gw.test:9443", "http://gw.test:9443", http.StatusForbidden},
		"null":                          {"gw.test:9443", "null", http.StatusForbidden},
		"the Host's, not the TLS name":  {"evil.test:9443", "https://evil.test:9443", http.StatusForbidden},
		"the TLS name's, not the Host":  {"evil.test:9443", "https://gw.test:9443", http.StatusForbidden},
		"loopback, whatever the name":   {"localhost:9443", "https://localhost:9443", http.StatusOK},
		"foreign subdomain of the name": {"gw.test:9443", "https://x.gw.test:9443", http.StatusForbidden},
	} {
		t.Run(name, func(t *testing.T) {
			req, err := http.NewRequest(http.MethodGet, fmt.Sprintf("https://%s/tunnel/targets", test.host), nil)
			if err != nil {
				t.Fatal(err)
			}
			if test.origin != "" {
				req.Header.Set("Origin", test.origin)
			}
			res, err := client.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			var body struct{ Code framecodec.Code }
			decode(t, res, &body)
			want := framecodec.CodeNormal
			if test.status == http.StatusForbidden {
				want = framecodec.CodeForbiddenOrigin
			}
			if res.StatusCode != test.status || body.Code != want {
				t.Errorf("status %d %v, want %d %v", res.StatusCode, body.Code, test.status, want)
			}
		})
	}
}
