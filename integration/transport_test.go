package integration

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/websocket"
)

// proxyAddr is where the site with reverse_proxy listens.
const proxyAddr = "127.0.0.1:9082"

const proxyURL = "http://" + proxyAddr

// web is a web server that tells what it is asked.
type web struct {
	*httptest.Server
	name    string
	address string
	healthy atomic.Bool
	gone    chan struct{} // a token for each request to /wait that the client has left
}

const downloadSize = 100 << 20

func newWeb(t *testing.T, name string) *web {
	t.Helper()
	w := &web{name: name, gone: make(chan struct{}, 16)}
	w.healthy.Store(true)
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(rw http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(rw, "%s %s %s for %s", w.name, r.Method, r.URL.Path, r.Host)
	})
	mux.HandleFunc("/health", func(rw http.ResponseWriter, _ *http.Request) {
		if !w.healthy.Load() {
			rw.WriteHeader(http.StatusServiceUnavailable)
		}
	})
	mux.HandleFunc("/download", func(rw http.ResponseWriter, _ *http.Request) {
		_, _ = io.Copy(rw, io.LimitReader(rand.NewChaCha8([32]byte{7}), downloadSize))
	})
	mux.HandleFunc("/upload", func(rw http.ResponseWriter, r *http.Request) {
		hash := sha256.New()
		n, err := io.Copy(hash, r.Body)
		rw.Header().Set("Trailer", "X-Sum")
		fmt.Fprintf(rw, "%d %v", n, err)
		rw.Header().Set("X-Sum", fmt.Sprintf("%x", hash.Sum(nil)))
	})
	mux.HandleFunc("/events", func(rw http.ResponseWriter, r *http.Request) {
		rw.Header().Set("Content-Type", "text/event-stream")
		for i := 0; ; i++ {
			fmt.Fprintf(rw, "data: %d\n\n", i)
			rw.(http.Flusher).Flush()
			select {
			case <-r.Context().Done():
				return
			case <-time.After(50 * time.Millisecond):
			}
		}
	})
	mux.HandleFunc("/wait", func(rw http.ResponseWriter, r *http.Request) {
		rw.(http.Flusher).Flush()
		<-r.Context().Done()
		w.gone <- struct{}{}
	})
	mux.Handle("/socket", websocket.Handler(func(c *websocket.Conn) { _, _ = io.Copy(c, c) }))
	w.Server = httptest.NewServer(mux)
	t.Cleanup(w.Close)
	w.address = w.Listener.Addr().String()
	return w
}

// proxying is a gateway, remotes of this Caddy as more of the app, and a site with
// reverse_proxy.
func proxying(app, endpoint, proxy string) string {
	return global(app, "") + site(endpoint) + "http://" + proxyAddr + " {\n" + proxy + "\n}\n"
}

func get(t *testing.T, url string) (status int, body string) {
	t.Helper()
	res, err := (&http.Client{Timeout: long}).Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	raw, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, string(raw)
}

// opened counts the streams that remotes of this Caddy have opened.
func opened(t *testing.T) (n float64) {
	t.Helper()
	for _, one := range clientOpens(t) {
		n += one
	}
	return n
}

// TestProxyTransport: what reverse_proxy does with any upstream it does through a
// tunnel.
func TestProxyTransport(t *testing.T) {
	w := newWeb(t, "one")
	start(t, proxying(remoteHere, "target web tcp/"+w.address, "reverse_proxy shop.example:80 {\n\ttransport webrtc_tunnel here web\n}"))
	t.Run("requests reuse streams", func(t *testing.T) {
		before := opened(t)
		client := &http.Client{Timeout: long}
		for range 1000 {
			res, err := client.Get(proxyURL + "/page")
			if err != nil {
				t.Fatal(err)
			}
			body, _ := io.ReadAll(res.Body)
			res.Body.Close()
			if string(body) != "one GET /page for "+proxyAddr {
				t.Fatalf("%d %q", res.StatusCode, body)
			}
		}
		if n := opened(t) - before; n > 5 {
			t.Errorf("%v streams for 1,000 requests one after the other", n)
		}
	})
	t.Run("many at once", func(t *testing.T) {
		var wg sync.WaitGroup
		client := &http.Client{Timeout: long, Transport: &http.Transport{MaxIdleConnsPerHost: 100}}
		for range 100 {
			wg.Go(func() {
				for range 3 {
					res, err := client.Get(proxyURL + "/x")
					if err != nil {
						t.Error(err)
						return
					}
					if body, _ := io.ReadAll(res.Body); !bytes.HasPrefix(body, []byte("one GET /x")) {
						t.Errorf("%d %q", res.StatusCode, body)
					}
					res.Body.Close()
				}
			})
		}
		wg.Wait()
		client.CloseIdleConnections()
	})
	t.Run("a large download", func(t *testing.T) {
		res, err := http.Get(proxyURL + "/download")
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		hash, want := sha256.New(), sha256.New()
		n, err := io.Copy(hash, res.Body)
		_, _ = io.Copy(want, io.LimitReader(rand.NewChaCha8([32]byte{7}), downloadSize))
		if err != nil || n != downloadSize || !bytes.Equal(hash.Sum(nil), want.Sum(nil)) {
			t.Errorf("%d bytes, %v, or others", n, err)
		}
	})
	t.Run("a large upload and trailers", func(t *testing.T) {
		const size = 30 << 20
		hash := sha256.New()
		body := io.TeeReader(io.LimitReader(rand.NewChaCha8([32]byte{8}), size), hash)
		res, err := http.Post(proxyURL+"/upload", "application/octet-stream", io.NopCloser(body))
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		text, err := io.ReadAll(res.Body)
		if want := fmt.Sprintf("%d <nil>", size); err != nil || string(text) != want {
			t.Errorf("%q, %v, want %q", text, err, want)
		}
		if got, want := res.Trailer.Get("X-Sum"), fmt.Sprintf("%x", hash.Sum(nil)); got != want {
			t.Errorf("the trailer says %q, want %q", got, want)
		}
	})
	t.Run("server-sent events at once", func(t *testing.T) {
		res, err := http.Get(proxyURL + "/events")
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		lines := bufio.NewScanner(res.Body)
		for i := 0; i < 5 && lines.Scan(); {
			if text := lines.Text(); text == fmt.Sprintf("data: %d", i) {
				i++
			} else if text != "" {
				t.Fatalf("line %q", text)
			}
		}
	})
	t.Run("WebSocket", func(t *testing.T) {
		c, err := websocket.Dial("ws://"+proxyAddr+"/socket", "", proxyURL)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		for i := range 100 {
			text := fmt.Sprintf("message %d", i)
			var got string
			_ = c.SetDeadline(time.Now().Add(long))
			if err := errors.Join(websocket.Message.Send(c, text), websocket.Message.Receive(c, &got)); err != nil || got != text {
				t.Fatalf("%q, %v", got, err)
			}
		}
	})
	t.Run("a client that leaves", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		req, _ := http.NewRequestWithContext(ctx, http.MethodGet, proxyURL+"/wait", nil)
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		cancel()
		res.Body.Close()
		select {
		case <-w.gone:
		case <-time.After(long):
			t.Error("the web server still works for a client that has left")
		}
	})
	t.Run("the next request behind a lost tunnel", func(t *testing.T) {
		for _, one := range tunnels(t, "gateway") {
			admin(t, http.MethodDelete, "/webrtc_tunnel/tunnels/"+one.ID, "", nil)
		}
		eventually(t, func() error {
			if status, body := get(t, proxyURL+"/again"); status != http.StatusOK {
				return fmt.Errorf("%d %s", status, body)
			}
			return nil
		})
	})
	t.Run("a reload in the middle", func(t *testing.T) {
		res, err := http.Get(proxyURL + "/download")
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		_, _ = io.CopyN(io.Discard, res.Body, 1<<20)
		if err := load(proxying(remoteHere, "target web tcp/"+w.address+"\ntarget more tcp/"+w.address, "reverse_proxy shop.example:80 {\n\ttransport webrtc_tunnel here web\n}")); err != nil {
			t.Fatal(err)
		}
		if n, err := io.Copy(io.Discard, res.Body); err != nil || n != downloadSize-1<<20 {
			t.Errorf("%d bytes behind the reload, %v", n, err)
		}
	})
}

// TestProxyTimeouts: a web server that sends or takes nothing for as long as
// read_timeout or write_timeout say is given up, and one that goes on is not.
func TestProxyTimeouts(t *testing.T) {
	slow := newWeb(t, "slow") // an event every 50 ms
	deaf, done := make(chan struct{}), make(chan struct{})
	t.Cleanup(func() { close(done) })
	address := serve(t, func(net.Conn) {
		close(deaf)
		<-done
	})
	start(t, proxying(remoteHere, "target slow tcp/"+slow.address+"\ntarget deaf tcp/"+address, `handle /upload {
	reverse_proxy deaf.example:80 {
		transport webrtc_tunnel here deaf {
			write_timeout 1s
		}
	}
}
reverse_proxy slow.example:80 {
	transport webrtc_tunnel here slow {
		read_timeout 1s
	}
}`))
	client := &http.Client{Timeout: long}
	t.Run("read_timeout", func(t *testing.T) {
		res, err := client.Get(proxyURL + "/wait") // the head, and nothing more
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		began := time.Now()
		_, err = io.Copy(io.Discard, res.Body)
		if took := time.Since(began); err == nil || took < 500*time.Millisecond || took > 10*time.Second {
			t.Errorf("a body that stalls ended after %v with %v", took, err)
		}
		<-slow.gone
		res, err = client.Get(proxyURL + "/events")
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		for began, lines := time.Now(), bufio.NewReader(res.Body); time.Since(began) < 3*time.Second; {
			if _, err := lines.ReadString('\n'); err != nil {
				t.Fatalf("a body that goes on ended after %v: %v", time.Since(began), err)
			}
		}
	})
	t.Run("write_timeout", func(t *testing.T) {
		c, err := net.Dial("tcp", proxyAddr)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(long))
		began := time.Now()
		go func() {
			fmt.Fprintf(c, "POST /upload HTTP/1.1\r\nHost: %s\r\nContent-Length: %d\r\n\r\n", proxyAddr, 1<<30)
			_, _ = io.Copy(c, io.LimitReader(rand.NewChaCha8([32]byte{}), 1<<30)) // until it is told off
		}()
		res, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil {
			t.Fatalf("after %v: %v", time.Since(began), err)
		}
		defer res.Body.Close()
		if took := time.Since(began); res.StatusCode != http.StatusGatewayTimeout || took > 10*time.Second {
			body, _ := io.ReadAll(res.Body)
			t.Errorf("status %d after %v: %s", res.StatusCode, took, body)
		}
		select {
		case <-deaf:
		default:
			t.Error("nothing came to the web server")
		}
	})
}

// TestProxyHealth: Caddy's health checks look through the tunnel, and its load
// balancing tries the next upstream.
func TestProxyHealth(t *testing.T) {
	one, two := newWeb(t, "one"), newWeb(t, "two")
	start(t, proxying(remoteHere, "target first tcp/"+one.address+"\ntarget second tcp/"+two.address, `reverse_proxy web1 web2 {
	lb_policy first
	health_uri /health
	health_interval 100ms
	transport webrtc_tunnel here {
		target web1 first
		target web2 second
		keepalive 30s
		response_header_timeout 10s
	}
}`))
	answers := func(name string) {
		t.Helper()
		eventually(t, func() error {
			if status, body := get(t, proxyURL+"/"); status != http.StatusOK || !strings.HasPrefix(body, name+" ") {
				return fmt.Errorf("%d %q, want %s", status, body, name)
			}
			return nil
		})
	}
	answers("one")
	one.healthy.Store(false)
	answers("two")
	one.healthy.Store(true)
	answers("one")
	one.CloseClientConnections()
	one.Close() // refused: the health check, or the retry of a request, finds the other
	answers("two")
}

// TestProxyReverse: a web server that a client exposes is served by the gateway's
// own reverse_proxy.
func TestProxyReverse(t *testing.T) {
	w := newWeb(t, "behind")
	endpoint := "identity {http.request.header.X-User}\nexpose {\nallow web {\nusers bob\n}\n}"
	start(t, proxying(remoteOf("bob", "web tcp/"+w.address), endpoint, "reverse_proxy bobs:80 {\n\ttransport webrtc_tunnel local client:bob/web\n}"))
	eventually(t, func() error {
		if status, body := get(t, proxyURL+"/"); status != http.StatusOK {
			return fmt.Errorf("%d %s", status, body)
		}
		return nil
	})
	before := 0
	for _, one := range tunnels(t, "gateway") {
		before += one.Streams
	}
	client := &http.Client{Timeout: long}
	for range 200 {
		res, err := client.Get(proxyURL + "/")
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, res.Body)
		res.Body.Close()
	}
	after := 0
	for _, one := range tunnels(t, "gateway") {
		after += one.Streams
	}
	if before == 0 || after > before+2 {
		t.Errorf("%d streams, then %d: 200 requests one after the other reuse one", before, after)
	}
}

// TestProxyAddresses: without a target an upstream's address is dialled at the
// gateway, where a rule allows that; what it refuses or cannot reach is a 502.
func TestProxyAddresses(t *testing.T) {
	w := newWeb(t, "one")
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed := l.Addr().String()
	l.Close()
	start(t, proxying(remoteHere, "dynamic {\nallow tcp/"+w.address+"\nallow tcp/"+closed+"\n}", `
	handle /allowed* {
		reverse_proxy `+w.address+` {
			transport webrtc_tunnel here
		}
	}
	handle /placeholder* {
		reverse_proxy {http.request.header.X-To} {
			transport webrtc_tunnel here
		}
	}
	handle /denied* {
		reverse_proxy 127.0.0.1:1 {
			transport webrtc_tunnel here
		}
	}
	handle /refused* {
		reverse_proxy `+closed+` {
			transport webrtc_tunnel here
		}
	}
	handle /nosuch* {
		reverse_proxy web {
			transport webrtc_tunnel here nosuch
		}
	}
	handle /unmapped* {
		reverse_proxy other {
			transport webrtc_tunnel here {
				target web nosuch
			}
		}
	}`))
	if status, body := get(t, proxyURL+"/allowed"); status != http.StatusOK || !strings.HasPrefix(body, "one GET /allowed") {
		t.Errorf("allowed: %d %q", status, body)
	}
	req, _ := http.NewRequest(http.MethodGet, proxyURL+"/placeholder", nil)
	req.Header.Set("X-To", w.address)
	if res, err := oneShot.RoundTrip(req); err != nil || res.StatusCode != http.StatusOK {
		t.Errorf("placeholder: %v, %v", res, err)
	} else {
		res.Body.Close()
	}
	for path, code := range map[string]string{
		"/denied": "not_allowed", "/refused": "refused", "/nosuch": "unknown_target", "/unmapped": "no target for the upstream",
	} {
		before := len(logged(t))
		if status, _ := get(t, proxyURL+path); status != http.StatusBadGateway {
			t.Errorf("%s: status %d", path, status)
		}
		eventually(t, func() error {
			if text := logged(t)[before:]; !strings.Contains(text, code) {
				return fmt.Errorf("the log does not say %s: %s", code, text)
			}
			return nil
		})
	}
}

// TestProxyRefusals: what cannot work is said at load.
func TestProxyRefusals(t *testing.T) {
	start(t, bare)
	for name, test := range map[string]struct{ transport, want string }{
		"no remote":            {"transport webrtc_tunnel", "wrong argument count"},
		"an unknown remote":    {"transport webrtc_tunnel nosuch web", "there is no remote"},
		"local without expose": {"transport webrtc_tunnel local client:bob/web", "no endpoint of this Caddy has an expose block"},
		"local, a target":      {"transport webrtc_tunnel local web", "give client:IDENTITY/NAME"},
		"local, nothing":       {"transport webrtc_tunnel local", "give client:IDENTITY/NAME"},
		"a flow":               {"transport webrtc_tunnel here udp/10.0.0.1:53", "HTTP goes by streams"},
		"both kinds":           {"transport webrtc_tunnel here web {\ntarget a b\n}", "not both"},
		"twice":                {"transport webrtc_tunnel here {\ntarget a b\ntarget a c\n}", "there is a target for"},
		"endpoint elsewhere":   {"transport webrtc_tunnel here web {\nendpoint gw\n}", "endpoint belongs to the remote local"},
		"a resolver":           {"transport webrtc_tunnel here web {\nresolvers 10.0.0.1\n}", "resolvers: the tunnel's other side connects"},
		"HTTP/3":               {"transport webrtc_tunnel here web {\nversions 3\n}", "HTTP/3 needs UDP"},
		"the PROXY protocol":   {"transport webrtc_tunnel here web {\nproxy_protocol v2\n}", "belongs to the target"},
		"an unknown option":    {"transport webrtc_tunnel here web {\nnosuch\n}", "nosuch"},
	} {
		err := load(proxying(remoteHere, "target web tcp/127.0.0.1:9", "reverse_proxy web {\n"+test.transport+"\n}"))
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v, want %q", name, err, test.want)
		}
	}
}
