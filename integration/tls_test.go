package integration

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

const secureAddr = "127.0.0.1:9443"

// authority signs certificates.
type authority struct {
	t    *testing.T
	dir  string
	file string // its own certificate
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T, name string) *authority {
	t.Helper()
	a := &authority{t: t, dir: t.TempDir()}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	a.cert, a.key = template, newKey(t)
	der := a.sign(template, a.key)
	var err error
	if a.cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	a.file = a.write("ca.pem", "CERTIFICATE", der)
	return a
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func (a *authority) sign(template *x509.Certificate, key *ecdsa.PrivateKey) []byte {
	a.t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, key.Public(), a.key)
	if err != nil {
		a.t.Fatal(err)
	}
	return der
}

func (a *authority) write(file, kind string, der []byte) string {
	a.t.Helper()
	path := filepath.Join(a.dir, file)
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		a.t.Fatal(err)
	}
	return path
}

// issue returns the files of a certificate for a server's or a client's name.
func (a *authority) issue(name string) (cert, key string) {
	a.t.Helper()
	private := newKey(a.t)
	der := a.sign(&x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}, private)
	encoded, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		a.t.Fatal(err)
	}
	return a.write(name+".pem", "CERTIFICATE", der), a.write(name+".key", "PRIVATE KEY", encoded)
}

// secureWorld is a site that wants a certificate of its clients.
type secureWorld struct {
	servers, clients, others *authority
	cert, key                string // alice's
	otherCert, otherKey      string // mallory's, of another authority
	site                     string
	echo                     string
}

func newSecureWorld(t *testing.T) *secureWorld {
	t.Helper()
	w := &secureWorld{servers: newAuthority(t, "servers"), clients: newAuthority(t, "clients"), others: newAuthority(t, "others"), echo: echoServer(t)}
	w.cert, w.key = w.clients.issue("alice")
	w.otherCert, w.otherKey = w.others.issue("mallory")
	cert, key := w.servers.issue("gw.test")
	w.site = "https://:9443 {\n\tbind 127.0.0.1\n\tlog\n\ttls " + cert + " " + key + ` {
		client_auth {
			mode require_and_verify
			trust_pool file ` + w.clients.file + `
		}
	}
	webrtc_tunnel /tunnel* {
		name gw
		identity {http.request.tls.client.subject}
		target echo tcp/` + w.echo + ` {
			users CN=alice
		}
	}
}
`
	return w
}

// config is the site, and a remote with options. Caddy holds sites with client
// certificates to requests whose Host is the TLS server name; lax lifts that.
func (w *secureWorld) config(url, options string, lax bool) string {
	more := "\n" + entries("echo")
	if lax {
		more += "\n\tservers {\n\t\tstrict_sni_host insecure_off\n\t}"
	}
	return global("\t\tremote here "+url+" {\n"+options+"\n\t\t}", more) + w.site
}

// TestRemoteTLS: a remote opens a stream by its trust pool, its certificate and
// the server's name, and with one of them wrong says which.
func TestRemoteTLS(t *testing.T) {
	w := newSecureWorld(t)
	url := "https://" + secureAddr + "/tunnel"
	trust := func(file string) string { return "tls_trust_pool file " + file + "\n" }
	ours := "tls_client_auth " + w.cert + " " + w.key + "\n"
	const name = "tls_server_name gw.test\n"
	for _, test := range []struct {
		name, options string
		strict        bool
		want          []string // in what health says; none: it works
	}{
		{"all right", trust(w.servers.file) + ours + name, false, nil},
		{"no trust pool", ours + name, false, []string{"checking the gateway's certificate", "unknown authority", "tls_trust_pool"}},
		{"another trust pool", trust(w.others.file) + ours + name, false, []string{"checking the gateway's certificate", "unknown authority", "tls_trust_pool"}},
		{"no certificate of ours", trust(w.servers.file) + name, false, []string{"certificate", "tls_client_auth"}},
		{"a certificate of another authority", trust(w.servers.file) + "tls_client_auth " + w.otherCert + " " + w.otherKey + "\n" + name, false, []string{"certificate", "tls_client_auth"}},
		{"no server name", trust(w.servers.file) + ours, false, []string{"127.0.0.1", "tls_server_name"}},
		{"another server name", trust(w.servers.file) + ours + "tls_server_name other.test\n", false, []string{"gw.test", "other.test", "tls_server_name"}},
		{"a server name that the site holds against the URL", trust(w.servers.file) + ours + name, true, []string{"421", "tls_server_name"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			start(t, w.config(url, test.options, !test.strict))
			c, err := net.Dial("tcp", entry1)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			err = pingPong(c)
			if (err == nil) != (test.want == nil) {
				t.Fatalf("a stream: %v", err)
			}
			if test.want == nil {
				if list := tunnels(t, "gateway"); len(list) != 1 || list[0].Identity != "CN=alice" {
					t.Errorf("tunnels %+v, want one of CN=alice", list)
				}
				return
			}
			var body healthJSON
			if status := admin(t, http.MethodGet, "/webrtc_tunnel/health", "", &body); status != http.StatusOK || body.Status != "degraded" || len(body.Reasons) != 1 {
				t.Fatalf("health: %d %+v", status, body)
			}
			for _, part := range append(test.want, "remote here", url) {
				if !strings.Contains(body.Reasons[0], part) {
					t.Errorf("health does not name %q: %s", part, body.Reasons[0])
				}
			}
		})
	}
}

// TestRemoteTLSOptions: what can be seen to be wrong is an error at load.
func TestRemoteTLSOptions(t *testing.T) {
	w := newSecureWorld(t)
	start(t, bare)
	missing := filepath.Join(t.TempDir(), "missing.pem")
	for options, want := range map[string][]string{
		"tls_trust_pool file " + missing:                      {`remote \"here\"`, "trust pool", missing},
		"tls_trust_pool nosuch":                               {"Caddyfile:", "nosuch"},
		"tls_trust_pool":                                      {"tls_trust_pool"},
		"tls_client_auth " + w.cert + " " + missing:           {`remote \"here\"`, "tls_client_auth", missing},
		"tls_client_auth " + missing + " " + w.key:            {`remote \"here\"`, "tls_client_auth", missing},
		"tls_client_auth " + w.cert + " " + w.otherKey:        {`remote \"here\"`, "tls_client_auth", "private key does not match"},
		"tls_client_auth " + w.key + " " + w.cert:             {`remote \"here\"`, "tls_client_auth"},
		"tls_client_auth {env.CULVERT_TEST_UNSET} " + w.key:   {`remote \"here\"`, "tls_client_auth", "CULVERT_TEST_UNSET"},
		"tls_client_auth " + w.cert:                           {"Caddyfile:", "argument", w.cert},
		"tls_server_name":                                     {"tls_server_name"},
		"tls_server_name a b":                                 {"Caddyfile:", "argument"},
		"tls_server_name gw.test\ntls_server_name other.test": {"tls_server_name"},
	} {
		t.Run(options, func(t *testing.T) {
			err := load(w.config("https://"+secureAddr+"/tunnel", options, true))
			if err == nil {
				t.Fatal("it was loaded")
			}
			for _, part := range want {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("the error does not name %q: %v", part, err)
				}
			}
		})
	}
}
