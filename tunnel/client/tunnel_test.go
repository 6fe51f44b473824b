package client

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/nettest"

	"github.com/culvertgate/culvert/framecodec"
	"github.com/culvertgate/culvert/internal/testkit"
	"github.com/culvertgate/culvert/internal/testkit/gatewaykit"
	"github.com/culvertgate/culvert/tunnel"
	"github.com/culvertgate/culvert/tunnel/rtc"
)

const patience = 20 * time.Second

func withTimeout(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

func dialTest(t *testing.T, cfg Config) *Tunnel {
	t.Helper()
	tun, err := Dial(withTimeout(t), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = tun.Close() })
	return tun
}

// exchange sends random bytes to an echo, ends its direction and holds that the
// same comes back, and its end.
func exchange(t *testing.T, conn net.Conn, size int) {
	t.Helper()
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	sent := make([]byte, size)
	_, _ = rand.Read(sent)
	var wg sync.WaitGroup
	wg.Go(func() {
		if _, err := conn.Write(sent); err != nil {
			t.Errorf("Write: %v", err)
		}
		if err := conn.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
			t.Errorf("CloseWrite: %v", err)
		}
	})
	got, err := io.ReadAll(conn)
	wg.Wait()
	if err != nil || !bytes.Equal(got, sent) {
		t.Errorf("%d of %d bytes came back, equal: %v, error %v", len(got), size, bytes.Equal(got, sent), err)
	}
	if err := conn.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
}

func TestOpen(t *testing.T) {
	t.Parallel()
	for _, dialect := range []tunnel.Dialect{tunnel.Dialect1, tunnel.Dialect2} {
		t.Run(fmt.Sprint("dialect", dialect), func(t *testing.T) {
			t.Parallel()
			g := gatewaykit.New(t)
			cfg := configFor(g)
			cfg.Dialect, cfg.Target = dialect, "echo"
			tun := dialTest(t, cfg)
			conn, err := tun.Open(withTimeout(t), "echo")
			if err != nil {
				t.Fatal(err)
			}
			exchange(t, conn, 1<<20)
			conn, err = tun.DialContext(withTimeout(t), "tcp", "echo.example:7")
			if err != nil {
				t.Fatal(err)
			}
			if conn.RemoteAddr().String() != "tcp/echo.example:7" {
				t.Errorf("RemoteAddr = %s", conn.RemoteAddr())
			}
			exchange(t, conn, 100)
			if stats := tun.Stats(); stats.Session.BytesOut < 1<<20 || stats.Peer.CandidatePair == "" {
				t.Errorf("stats = %+v", stats)
			}
			if !slices.Equal(g.OfferTargets(), []string{"echo"}) {
				t.Errorf("?target= was %q", g.OfferTargets())
			}
		})
	}
}

// TestConn holds that the connections of a tunnel keep every promise of
// net.Conn: the suite of golang.org/x/net/nettest over a real tunnel.
func TestConn(t *testing.T) {
	g := gatewaykit.New(t)
	tun := dialTest(t, configFor(g))
	nettest.TestConn(t, func() (c1, c2 net.Conn, stop func(), err error) {
		c1, err = tun.Open(withTimeout(t), "pipe")
		if err != nil {
			return nil, nil, nil, err
		}
		c2 = <-g.Conns
		return c1, c2, func() { _ = c1.Close(); _ = c2.Close() }, nil
	})
}

func TestRefusals(t *testing.T) {
	t.Parallel()
	g := gatewaykit.New(t)
	cfg := configFor(g)
	cfg.DialTimeout = 2 * time.Second
	tun := dialTest(t, cfg)
	for target, code := range map[string]tunnel.Code{
		"nothing": framecodec.CodeUnknownTarget,
		"silent":  framecodec.CodeTimeout,
		"Not A":   framecodec.CodeUnknownTarget,
	} {
		conn, err := tun.Open(withTimeout(t), target)
		if conn != nil || tunnel.CodeOf(err) != code {
			t.Errorf("Open(%q) = %v, %v, want %s", target, conn, err, code)
		}
	}
	for network, address := range map[string]string{"udp": "10.0.0.1:53", "tcp": "nohost", "tcp4": ":22", "tcp6": "h:nosuchservice"} {
		if _, err := tun.DialContext(withTimeout(t), network, address); err == nil {
			t.Errorf("DialContext(%s, %s) succeeded", network, address)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := tun.Open(ctx, "echo"); tunnel.CodeOf(err) != framecodec.CodeCancelled {
		t.Errorf("cancelled: %v", err)
	}
}

// TestDialect1NamesNoOther holds that a stream never reaches another target than
// the one it was asked for.
func TestDialect1NamesNoOther(t *testing.T) {
	t.Parallel()
	g := gatewaykit.New(t)
	cfg := configFor(g)
	cfg.Dialect, cfg.Target = tunnel.Dialect1, "echo"
	if conn, err := dialTest(t, cfg).Open(withTimeout(t), "other"); conn != nil || tunnel.CodeOf(err) != framecodec.CodeUnknownTarget {
		t.Errorf("Open = %v, %v", conn, err)
	}
}

// TestAttachLater opens without an Endpoint, as SOCKS does: its reply is written
// before data flows.
func TestAttachLater(t *testing.T) {
	t.Parallel()
	g := gatewaykit.New(t)
	tun := dialTest(t, configFor(g))
	st, err := tun.OpenEndpoint(withTimeout(t), tunnel.Target{Kind: tunnel.KindNamed, Host: "pipe"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	far := <-g.Conns
	if _, err := far.Write([]byte("early")); err != nil {
		t.Fatal(err)
	}
	conn, ep := tunnel.NewConn(tunnel.Addr{}, tunnel.Addr{})
	if err := st.Attach(ep); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 5)
	if _, err := io.ReadFull(conn, got); err != nil || string(got) != "early" {
		t.Errorf("read %q, %v", got, err)
	}
	_ = conn.Close()
	_ = far.Close()
}

func TestErrorsMatchNet(t *testing.T) {
	t.Parallel()
	g := gatewaykit.New(t)
	tun := dialTest(t, configFor(g))
	open := func() net.Conn {
		conn, err := tun.Open(withTimeout(t), "pipe")
		if err != nil {
			t.Fatal(err)
		}
		return conn
	}
	conn := open()
	_ = conn.SetReadDeadline(time.Now().Add(-time.Second))
	if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("past the deadline: %v", err)
	}
	_ = conn.SetReadDeadline(time.Time{})
	_ = conn.Close()
	if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
		t.Errorf("closed here: %v", err)
	}
	conn = open()
	_ = tun.Close()
	if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
		t.Errorf("tunnel closed: %v", err)
	}
	if _, err := tun.Open(withTimeout(t), "echo"); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Open in a closed tunnel: %v", err)
	}
}

// gone waits until the gateway has no session left.
func gone(t *testing.T, g *gatewaykit.Gateway) {
	t.Helper()
	testkit.Eventually(t, patience, func() error {
		if n := len(g.Sessions()); n != 0 {
			return fmt.Errorf("%d sessions are left at the gateway", n)
		}
		return nil
	})
}

// TestCloseLeavesNothing holds that the gateway is told of the end, within the
// tunnel: a DELETE of what has just ended would be refused, and logged.
func TestCloseLeavesNothing(t *testing.T) {
	t.Parallel()
	g := gatewaykit.New(t)
	ended := make(chan error, 2)
	cfg := configFor(g)
	cfg.Ended = func(_ *Tunnel, err error) { ended <- err }
	tun := dialTest(t, cfg)
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() { _ = tun.Close() })
	}
	wg.Wait()
	gone(t, g)
	if tunnel.CodeOf(tun.Err()) != framecodec.CodeTunnelClosed || len(ended) != 1 || g.Seen("DELETE /s/") != 0 {
		t.Errorf("Err = %v, told %d times, %d DELETE", tun.Err(), len(ended), g.Seen("DELETE /s/"))
	}
}

// TestCloseWithoutAPath: then the gateway is told by DELETE.
func TestCloseWithoutAPath(t *testing.T) {
	t.Parallel()
	g := gatewaykit.New(t)
	tun := dialTest(t, configFor(g))
	tun.pathUp.Store(false)
	_ = tun.Close()
	if g.Seen("DELETE /s/") != 1 {
		t.Errorf("%d DELETE, want 1", g.Seen("DELETE /s/"))
	}
}

// TestTLS holds that the gateway's certificate is checked, before credentials
// are sent, and against the roots that were given.
func TestTLS(t *testing.T) {
	t.Parallel()
	g := gatewaykit.NewTLS(t)
	cfg := configFor(g)
	_, err := Dial(withTimeout(t), cfg)
	var e *StepError
	if !errors.As(err, &e) || e.Step != StepTLS || !strings.Contains(e.Hint, "--ca") || temporary(err) || g.Seen("OPTIONS ") != 0 {
		t.Errorf("untrusted: %v", err)
	}
	cfg.TLS = &tls.Config{RootCAs: x509.NewCertPool(), MinVersion: tls.VersionTLS13}
	cfg.TLS.RootCAs.AddCert(g.Server.Certificate())
	conn, err := dialTest(t, cfg).Open(withTimeout(t), "echo")
	if err != nil {
		t.Fatal(err)
	}
	exchange(t, conn, 1000)
	if len(cfg.TLS.NextProtos) != 0 {
		t.Errorf("the caller's configuration was changed: %q", cfg.TLS.NextProtos)
	}
}

func TestGatewayEndsTheTunnel(t *testing.T) {
	t.Parallel()
	g := gatewaykit.New(t)
	tun := dialTest(t, configFor(g))
	conn, err := tun.Open(withTimeout(t), "echo")
	if err != nil {
		t.Fatal(err)
	}
	g.Sessions()[0].Tunnel().Close(framecodec.CodeClosedByAdmin, "go away")
	_, err = conn.Read(make([]byte, 1))
	if tunnel.CodeOf(err) != framecodec.CodeClosedByAdmin {
		t.Errorf("Read: %v, want closed_by_admin", err)
	}
	<-tun.Done()
	if tunnel.CodeOf(tun.Err()) != framecodec.CodeClosedByAdmin {
		t.Errorf("Err = %v, want closed_by_admin", tun.Err())
	}
}

// TestGoAway holds that a tunnel that takes no new streams lets the running one
// finish and ends with it.
func TestGoAway(t *testing.T) {
	t.Parallel()
	g := gatewaykit.New(t)
	tun := dialTest(t, configFor(g))
	conn, err := tun.Open(withTimeout(t), "echo")
	if err != nil {
		t.Fatal(err)
	}
	g.Sessions()[0].Tunnel().GoAway(framecodec.CodeDraining, time.Minute)
	<-tun.Session().Away()
	if _, err := tun.Open(withTimeout(t), "echo"); tunnel.CodeOf(err) != framecodec.CodeDraining {
		t.Errorf("Open after GoAway: %v", err)
	}
	exchange(t, conn, 1000)
	select {
	case <-tun.Done():
	case <-time.After(patience):
		t.Fatal("the tunnel outlives its last stream")
	}
	if tunnel.CodeOf(tun.Err()) != framecodec.CodeDraining {
		t.Errorf("Err = %v", tun.Err())
	}
}

// TestSteps holds which step an error names, for each way to fail.
func TestSteps(t *testing.T) {
	t.Parallel()
	refused := gatewaykit.New(t)
	refused.Server.Close()
	status := func(code int) func(*testing.T, *gatewaykit.Gateway) string {
		return func(_ *testing.T, g *gatewaykit.Gateway) string {
			g.Intercept(func(w http.ResponseWriter, r *http.Request) bool {
				w.WriteHeader(code)
				return true
			})
			return g.URL()
		}
	}
	tests := []struct {
		name string
		prep func(*testing.T, *gatewaykit.Gateway) string // returns the URL
		step Step
		code tunnel.Code
		hint string
	}{
		{"no such host", func(*testing.T, *gatewaykit.Gateway) string { return "https://gateway.invalid/tunnel" }, StepResolve, framecodec.CodeResolveFailed, "DNS"},
		{"nobody listens", func(*testing.T, *gatewaykit.Gateway) string { return refused.URL() }, StepConnect, framecodec.CodeRefused, "port"},
		{"plain HTTP where TLS is expected", func(_ *testing.T, g *gatewaykit.Gateway) string {
			return strings.Replace(g.URL(), "http:", "https:", 1)
		}, StepTLS, framecodec.CodeUnreachable, "TLS"},
		{"not authenticated", status(401), StepSignal, framecodec.CodeUnauthenticated, "credentials"},
		{"wrong path", func(_ *testing.T, g *gatewaykit.Gateway) string { return g.Server.URL + "/other" }, StepSignal, framecodec.CodeNotFound, "base_path"},
		{"no answer", func(_ *testing.T, g *gatewaykit.Gateway) string {
			g.Intercept(func(_ http.ResponseWriter, r *http.Request) bool {
				_, _ = io.Copy(io.Discard, r.Body)
				<-r.Context().Done()
				return true
			})
			return g.URL()
		}, StepSignal, framecodec.CodeTimeout, ""},
		{"UDP leads nowhere", func(t *testing.T, g *gatewaykit.Gateway) string {
			g.Intercept(divert(t, g))
			return g.URL()
		}, StepICE, framecodec.CodeTimeout, "UDP"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			g := gatewaykit.New(t)
			var mu sync.Mutex
			var last Progress
			cfg := configFor(g)
			cfg.URLs = []string{tt.prep(t, g)}
			cfg.ConnectTimeout = patience
			if tt.code == framecodec.CodeTimeout {
				cfg.ConnectTimeout = 3 * time.Second
			}
			cfg.Progress = func(p Progress) {
				mu.Lock()
				defer mu.Unlock()
				last = p
			}
			tun, err := Dial(withTimeout(t), cfg)
			var e *StepError
			if !errors.As(err, &e) {
				t.Fatalf("Dial = %v, %v", tun, err)
			}
			if e.Step != tt.step || tunnel.CodeOf(err) != tt.code || !strings.Contains(e.Hint, tt.hint) {
				t.Errorf("step %s, code %s, hint %q: %v; want %s, %s", e.Step, tunnel.CodeOf(err), e.Hint, err, tt.step, tt.code)
			}
			mu.Lock()
			defer mu.Unlock()
			if last.Step != tt.step || !last.Done || last.Err == nil {
				t.Errorf("the last progress was %+v", last)
			}
		})
	}
}

// divert has the answers of a gateway name a UDP port where nobody answers.
func divert(t *testing.T, g *gatewaykit.Gateway) func(http.ResponseWriter, *http.Request) bool {
	hole, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = hole.Close() })
	addresses, err := g.RTC.Addresses(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	from := fmt.Sprintf(" %d typ host", addresses[0].Port())
	to := fmt.Sprintf(" %d typ host", hole.LocalAddr().(*net.UDPAddr).Port)
	return func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method != http.MethodPost {
			return false
		}
		sdp, err := io.ReadAll(r.Body)
		if err != nil {
			return false
		}
		peer, answer, err := g.RTC.Answer(r.Context(), string(sdp), rtc.Handler{})
		if err != nil {
			t.Errorf("Answer: %v", err)
			return false
		}
		t.Cleanup(func() { peer.Close(framecodec.CodeCancelled) })
		w.Header().Set("Location", "/tunnel/s/none")
		w.Header().Set("Content-Type", "application/sdp")
		w.WriteHeader(http.StatusCreated)
		_, _ = io.WriteString(w, strings.ReplaceAll(answer, from, to))
		return true
	}
}

func TestProgressNamesTheSteps(t *testing.T) {
	t.Parallel()
	g := gatewaykit.New(t)
	var mu sync.Mutex
	var steps []string
	cfg := configFor(g)
	cfg.Progress = func(p Progress) {
		mu.Lock()
		defer mu.Unlock()
		if p.Done {
			steps = append(steps, p.Step.String())
			if p.Err != nil || p.URL != g.URL() {
				t.Errorf("progress %+v", p)
			}
		}
	}
	dialTest(t, cfg)
	mu.Lock()
	defer mu.Unlock()
	if got := strings.Join(steps, " "); got != "resolve connect signal ice dtls channel hello" {
		t.Errorf("steps were %q", got)
	}
}

func TestNextURL(t *testing.T) {
	t.Parallel()
	closed, g := gatewaykit.New(t), gatewaykit.New(t)
	closed.Server.Close()
	cfg := configFor(g)
	cfg.URLs = []string{closed.URL(), g.URL()}
	var failed []error
	cfg.Failed = func(err error, _ time.Duration) { failed = append(failed, err) }
	if tun := dialTest(t, cfg); tun.URL() != g.URL() || len(failed) != 1 {
		t.Errorf("URL = %s, %d attempts failed", tun.URL(), len(failed))
	}
	cfg.URLs = []string{closed.URL(), closed.URL()}
	_, err := Dial(withTimeout(t), cfg)
	if err == nil || strings.Count(err.Error(), "connecting to the gateway failed") != 2 || tunnel.CodeOf(err) != framecodec.CodeRefused {
		t.Errorf("all gone: %v", err)
	}
}

// TestRenewal holds that a tunnel outlives the identity's time by renewing it.
func TestRenewal(t *testing.T) {
	t.Parallel()
	g := gatewaykit.New(t)
	g.SetExpires(1200 * time.Millisecond) // told as 1 s
	tun := dialTest(t, configFor(g))
	testkit.Eventually(t, patience, func() error {
		if n := g.Seen("POST /s/renew"); n < 2 {
			return fmt.Errorf("%d renewals", n)
		}
		return nil
	})
	if tun.Err() != nil {
		t.Errorf("Err = %v", tun.Err())
	}
}

// TestRestart holds that a path that falls silent while this machine's addresses
// change is restarted, and that the streams live on.
func TestRestart(t *testing.T) {
	t.Parallel()
	g := gatewaykit.New(t)
	tun := dialTest(t, configFor(g))
	conn, err := tun.Open(withTimeout(t), "echo")
	if err != nil {
		t.Fatal(err)
	}
	tun.pathUp.Store(false)
	if now := tun.watchAddresses(withTimeout(t), []string{"192.0.2.1"}); slices.Equal(now, []string{"192.0.2.1"}) {
		t.Fatal("the change was not seen")
	}
	testkit.Eventually(t, patience, func() error {
		if n := g.Restarts(); n != 1 || !tun.pathUp.Load() {
			return fmt.Errorf("%d restarts, path up: %v", n, tun.pathUp.Load())
		}
		return nil
	})
	exchange(t, conn, 1<<20)
	if tun.Err() != nil {
		t.Errorf("Err = %v", tun.Err())
	}
}

// TestNoRestartInPlace holds that a silent path alone is waited for: a restart
// would give up the pair that may come back.
func TestNoRestartInPlace(t *testing.T) {
	t.Parallel()
	g := gatewaykit.New(t)
	tun := dialTest(t, configFor(g))
	tun.pathUp.Store(false)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	tun.watchAddresses(ctx, localAddresses())
	if g.Seen("PATCH /s/") != 0 {
		t.Error("ICE was restarted")
	}
}

// TestFailedRestartEndsTheTunnel: the old path is gone by then.
func TestFailedRestartEndsTheTunnel(t *testing.T) {
	t.Parallel()
	g := gatewaykit.New(t)
	tun := dialTest(t, configFor(g))
	g.Intercept(func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method == http.MethodPatch {
			w.WriteHeader(http.StatusConflict)
		}
		return r.Method == http.MethodPatch
	})
	tun.restart(withTimeout(t))
	<-tun.Done()
	if tunnel.CodeOf(tun.Err()) != framecodec.CodeTunnelLost {
		t.Errorf("Err = %v, want tunnel_lost", tun.Err())
	}
	_ = tun.Close()
	if g.Seen("DELETE /s/") != 1 {
		t.Errorf("%d DELETE, want 1", g.Seen("DELETE /s/"))
	}
}

// TestCloseDuringRestart: the old path is gone and the new one not there, so that
// the gateway is told by DELETE.
func TestCloseDuringRestart(t *testing.T) {
	t.Parallel()
	g := gatewaykit.New(t)
	tun := dialTest(t, configFor(g))
	asked := make(chan struct{})
	g.Intercept(func(_ http.ResponseWriter, r *http.Request) bool {
		if r.Method != http.MethodPatch {
			return false
		}
		_, _ = io.Copy(io.Discard, r.Body)
		close(asked)
		<-r.Context().Done()
		return true
	})
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { tun.restart(ctx) })
	<-asked
	tun.shut(framecodec.CodeTunnelClosed, "closed by the test")
	<-tun.gone
	cancel()
	wg.Wait()
	if tunnel.CodeOf(tun.Err()) != framecodec.CodeTunnelClosed || g.Seen("DELETE /s/") != 1 {
		t.Errorf("Err = %v, %d DELETE, want tunnel_closed and 1", tun.Err(), g.Seen("DELETE /s/"))
	}
}

func TestTrickle(t *testing.T) {
	t.Parallel()
	g := gatewaykit.New(t)
	tun := dialTest(t, configFor(g))
	const line = "candidate:9 1 udp 1677729535 192.0.2.9 4000 typ srflx raddr 0.0.0.0 rport 0"
	tun.mu.Lock()
	tun.candidates = []string{line, ""}
	tun.mu.Unlock()
	token(tun.found)
	testkit.Eventually(t, patience, func() error {
		if got := g.Trickled(); !slices.Equal(got, []string{line}) {
			return fmt.Errorf("trickled %q", got)
		}
		return nil
	})
}

func TestTargets(t *testing.T) {
	t.Parallel()
	g := gatewaykit.New(t)
	if list, err := dialTest(t, configFor(g)).Targets(withTimeout(t)); err != nil || !strings.Contains(string(list), `"name":"pipe"`) {
		t.Errorf("Targets = %q, %v", list, err)
	}
}

func TestInvalidConfigs(t *testing.T) {
	t.Parallel()
	for name, cfg := range map[string]Config{
		"no URL":     {},
		"plain HTTP": {URLs: []string{"http://gw.example.com/tunnel"}},
		"dialect 3":  {URLs: []string{"https://gw.example.com/tunnel"}, Dialect: 3},
		"bad target": {URLs: []string{"https://gw.example.com/tunnel"}, Target: "a b"},
	} {
		if _, err := Dial(t.Context(), cfg); err == nil {
			t.Errorf("%s: Dial succeeded", name)
		}
		r := NewRemote(cfg)
		if _, err := r.Open(t.Context(), "echo"); err == nil {
			t.Errorf("%s: Open succeeded", name)
		}
		r.Close()
	}
}
