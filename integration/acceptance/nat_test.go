package acceptance

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"golang.org/x/net/websocket"

	"github.com/culvertgate/culvert/internal/testkit"
)

// natWorld is a gateway on the outside and a network behind NAT, from where nobody
// can be reached who has not asked.
type natWorld struct {
	inside, outside *testkit.Namespace
	gateway         *testkit.Caddy
	url             string
	dir             string
	ca              string // file with the gateway's root
}

// natUsers are who the gateway knows; each shows a token of that name.
var natUsers = []string{"alice", "bob", "mallory"}

// startNATWorld starts the gateway with lines of its endpoint and layer4.
func startNATWorld(t *testing.T, endpoint, entries, sites string) *natWorld {
	t.Helper()
	w := &natWorld{inside: testkit.NewNamespace(t), outside: testkit.NewNamespace(t), dir: t.TempDir()}
	address := must[netip.Addr](t)(w.inside.PutBehindNAT(testkit.NewNamespace(t), w.outside))
	w.url = fmt.Sprintf("https://%s:8443/tunnel", address)
	var users strings.Builder
	for _, name := range natUsers {
		fmt.Fprintf(&users, "\t@%[1]s header Authorization \"Bearer %[1]s-token\"\n\tvars @%[1]s user %[1]s\n", name)
		check(t, os.WriteFile(filepath.Join(w.dir, name), []byte(name+"-token\n"), 0o600))
	}
	w.gateway = testkit.StartCaddy(t, testkit.CaddyConfig{Namespace: w.outside, Caddyfile: fmt.Sprintf(`{
	debug
	local_certs
	skip_install_trust
	auto_https disable_redirects
	webrtc_tunnel {
		listen udp/%[1]s:3478
	}
	layer4 {
%[4]s
	}
}
https://%[1]s:8443 {
%[2]s
	webrtc_tunnel /tunnel* {
		name gw
		identity {http.vars.user}
%[3]s
	}
}
%[5]s
`, address, users.String(), endpoint, entries, sites)})
	ctx, cancel := adminContext()
	defer cancel()
	var chain struct {
		Root string `json:"root_certificate"`
	}
	check(t, json.Unmarshal([]byte(must[string](t)(w.gateway.Get(ctx, "/pki/ca/local"))), &chain))
	w.ca = filepath.Join(w.dir, "ca.pem")
	check(t, os.WriteFile(w.ca, []byte(chain.Root), 0o600))
	return w
}

// as are the flags of a command for a user.
func (w *natWorld) as(name string) []string {
	return []string{"--url", w.url, "--token-file", filepath.Join(w.dir, name), "--ca", w.ca}
}

// publish exposes services of the inside as bob and waits until they are there.
func (w *natWorld) publish(t *testing.T, services ...string) *testkit.Process {
	t.Helper()
	args := append([]string{"webrtc-tunnel", "connect"}, w.as("bob")...)
	for _, s := range services {
		args = append(args, "--expose", s)
	}
	c := testkit.StartCommand(t, "publisher", w.gateway.Command(w.inside, args...))
	for _, s := range services {
		name, _, _ := strings.Cut(s, "=")
		says(t, c, "published "+name+" as client:bob/"+name)
	}
	return c
}

// TestPublishedBehindNAT: a machine behind NAT publishes its sshd; ssh reaches it
// through an entry of the gateway, and through the tunnel of whom a rule names.
func TestPublishedBehindNAT(t *testing.T) {
	w := startNATWorld(t, `		expose {
			allow sshd {
				users bob
				reachable_by alice
			}
		}`, `		127.0.0.1:2222 {
			route {
				webrtc_tunnel local client:bob/sshd
			}
		}`, "")
	sshd := testkit.StartSSHD(t, w.inside)
	if _, err := w.outside.DialContext(context.Background(), "tcp", sshd.Addr); err == nil {
		t.Fatal("the sshd is reached without a tunnel")
	}
	publisher := w.publish(t, "sshd=tcp/"+sshd.Addr)
	run := func(args ...string) (out, problems string, err error) {
		cmd := w.outside.Command("ssh", append(append(sshd.ClientOptions(), args...), sshd.User+"@127.0.0.1", "echo inside $((6*7)); hostname >/dev/null")...)
		cmd.Env = testkit.CaddyEnv(w.dir)
		var stdout, stderr strings.Builder
		cmd.Stdout, cmd.Stderr = &stdout, &stderr
		err = cmd.Run()
		return stdout.String(), stderr.String(), err
	}
	binary := must[string](t)(testkit.CaddyBinary())
	proxy := func(user string) []string {
		return []string{"-o", "ProxyCommand=" + binary + " webrtc-tunnel connect " + strings.Join(w.as(user), " ") + " --target client:bob/sshd --stdio"}
	}
	for name, args := range map[string][]string{"the gateway's entry": {"-p", "2222"}, "alice's tunnel": proxy("alice")} {
		if out, problems, err := run(args...); err != nil || out != "inside 42\n" {
			t.Errorf("through %s: %v, %q, %s", name, err, out, problems)
		}
	}
	out, problems, err := run(proxy("mallory")...)
	if err == nil || out != "" || !strings.Contains(problems, "not_allowed") {
		t.Errorf("mallory: %v, %q, %s", err, out, problems)
	}
	if log := w.gateway.Log(); !strings.Contains(log, "expose.rules[0] (allow sshd)") {
		t.Errorf("the log does not name the rule:\n%s", log)
	}
	list := w.outside.Command(binary, append([]string{"webrtc-tunnel", "targets"}, w.as("alice")...)...)
	list.Env = testkit.CaddyEnv(w.dir)
	if text := string(must[[]byte](t)(list.Output())); !strings.Contains(text, "client:bob/sshd") {
		t.Errorf("alice's targets:\n%s", text)
	}
	check(t, publisher.Stop(patience))
	list = w.outside.Command(binary, append([]string{"webrtc-tunnel", "targets"}, w.as("alice")...)...)
	list.Env = testkit.CaddyEnv(w.dir)
	if text := string(must[[]byte](t)(list.Output())); strings.Contains(text, "client:bob/sshd") {
		t.Errorf("alice's targets behind the publisher's end:\n%s", text)
	}
}

// TestWebBehindNAT: a web server behind NAT is served by the gateway's reverse_proxy:
// requests over streams that are used again, a WebSocket, a large download, and a
// health check that turns it off and on.
func TestWebBehindNAT(t *testing.T) {
	const size, requests = 100 << 20, 1000
	w := startNATWorld(t, `		expose {
			allow web {
				users bob
			}
		}`, "", `http://127.0.0.1:8081 {
	reverse_proxy shop:80 {
		health_uri /health
		health_interval 200ms
		transport webrtc_tunnel local client:bob/web
	}
}`)
	var healthy atomic.Bool
	healthy.Store(true)
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(rw http.ResponseWriter, r *http.Request) { fmt.Fprintf(rw, "hello from %s", r.URL.Path) })
	mux.HandleFunc("/health", func(rw http.ResponseWriter, _ *http.Request) {
		if !healthy.Load() {
			rw.WriteHeader(http.StatusServiceUnavailable)
		}
	})
	mux.HandleFunc("/download", func(rw http.ResponseWriter, _ *http.Request) {
		_, _ = io.Copy(rw, io.LimitReader(rand.NewChaCha8([32]byte{7}), size))
	})
	mux.Handle("/socket", websocket.Handler(func(c *websocket.Conn) { _, _ = io.Copy(c, c) }))
	server := &http.Server{Handler: mux, ReadHeaderTimeout: patience}
	listener := must[net.Listener](t)(w.inside.Listen("tcp", "127.0.0.1:0"))
	served := make(chan struct{})
	go func() { defer close(served); _ = server.Serve(listener) }()
	t.Cleanup(func() { _ = server.Close(); <-served })
	w.publish(t, "web=tcp/"+listener.Addr().String())

	client := &http.Client{Timeout: 4 * patience, Transport: &http.Transport{DialContext: w.outside.DialContext}}
	t.Cleanup(client.CloseIdleConnections)
	get := func(path string) (int, string, error) {
		res, err := client.Get("http://127.0.0.1:8081" + path)
		if err != nil {
			return 0, "", err
		}
		defer res.Body.Close()
		body, err := io.ReadAll(res.Body)
		return res.StatusCode, string(body), err
	}
	answers := func(want int) {
		t.Helper()
		testkit.Eventually(t, patience, func() error {
			if status, body, err := get("/page"); err != nil || status != want {
				return fmt.Errorf("%d %q %w", status, body, err)
			}
			return nil
		})
	}
	answers(http.StatusOK)
	for range requests {
		if status, body, err := get("/page"); err != nil || status != http.StatusOK || body != "hello from /page" {
			t.Fatalf("%d %q %v", status, body, err)
		}
	}
	streams := 0
	for _, one := range tunnelsOf(t, w.gateway) {
		streams += one.Streams
	}
	if streams < 1 || streams > 8 {
		t.Errorf("%d streams behind %d requests one after the other", streams, requests)
	}
	res := must[*http.Response](t)(client.Get("http://127.0.0.1:8081/download"))
	hash, want := sha256.New(), sha256.New()
	n, err := io.Copy(hash, res.Body)
	_, _ = io.Copy(want, io.LimitReader(rand.NewChaCha8([32]byte{7}), size))
	check(t, err, res.Body.Close())
	if n != size || string(hash.Sum(nil)) != string(want.Sum(nil)) {
		t.Errorf("%d of %d bytes came, or others", n, size)
	}
	conn := must[net.Conn](t)(w.outside.DialContext(t.Context(), "tcp", "127.0.0.1:8081"))
	socket := must[*websocket.Conn](t)(websocket.NewClient(must[*websocket.Config](t)(websocket.NewConfig("ws://127.0.0.1:8081/socket", "http://127.0.0.1:8081")), conn))
	for i := range 100 {
		var got string
		check(t, websocket.Message.Send(socket, strconv.Itoa(i)), websocket.Message.Receive(socket, &got))
		if got != strconv.Itoa(i) {
			t.Fatalf("message %d came back as %q", i, got)
		}
	}
	check(t, socket.Close())
	healthy.Store(false)
	answers(http.StatusServiceUnavailable)
	healthy.Store(true)
	answers(http.StatusOK)
}
