package culvert

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/spf13/cobra"
	"go.uber.org/goleak"
	"golang.org/x/net/proxy"

	"github.com/culvertgate/culvert/framecodec"
	"github.com/culvertgate/culvert/internal/testkit"
	"github.com/culvertgate/culvert/internal/testkit/gatewaykit"
	"github.com/culvertgate/culvert/tunnel"
)

const commandPatience = 20 * time.Second

// lockedBuffer is an output that a test reads while a command writes.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// running is a command that was started.
type running struct {
	out, err lockedBuffer
	cancel   context.CancelFunc // as an interrupt does
	done     chan error
}

// start runs `webrtc-tunnel` with args in this process.
func start(t *testing.T, stdin io.Reader, args ...string) *running {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	c := &running{cancel: cancel, done: make(chan error, 1)}
	root := &cobra.Command{Use: "webrtc-tunnel", SilenceUsage: true}
	addCommands(root)
	root.SetArgs(args)
	root.SetIn(stdin)
	root.SetOut(&c.out)
	root.SetErr(&c.err)
	go func() { c.done <- root.ExecuteContext(ctx) }()
	t.Cleanup(cancel)
	return c
}

// wait returns how the command ended.
func (c *running) wait(t *testing.T) error {
	t.Helper()
	select {
	case err := <-c.done:
		return err
	case <-time.After(commandPatience):
		t.Fatalf("the command does not end; it said:\n%s", c.err.String())
		return nil
	}
}

// says waits for a text on standard error and returns what the pattern's first
// group holds.
func (c *running) says(t *testing.T, pattern string) string {
	t.Helper()
	re, found := regexp.MustCompile(pattern), ""
	testkit.Eventually(t, commandPatience, func() error {
		m := re.FindStringSubmatch(c.err.String())
		if m == nil {
			return fmt.Errorf("standard error lacks %q:\n%s", pattern, c.err.String())
		}
		found = m[len(m)-1]
		return nil
	})
	return found
}

// commandGateway starts a gateway, and holds that no goroutine is left at the
// test's end.
func commandGateway(t *testing.T) *gatewaykit.Gateway {
	t.Helper()
	before := goleak.IgnoreCurrent()
	t.Cleanup(func() { goleak.VerifyNone(t, before) })
	return gatewaykit.New(t)
}

func secretFile(t *testing.T, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// echoOver sends through a local connection to an echo and holds that the same
// comes back, its end too.
func echoOver(t *testing.T, conn net.Conn) {
	t.Helper()
	_ = conn.SetDeadline(time.Now().Add(commandPatience))
	sent := make([]byte, 1<<18)
	_, _ = rand.Read(sent)
	go func() {
		_, _ = conn.Write(sent)
		_ = conn.(interface{ CloseWrite() error }).CloseWrite()
	}()
	got, err := io.ReadAll(conn)
	if err != nil || !bytes.Equal(got, sent) {
		t.Errorf("%d of %d bytes came back: %v", len(got), len(sent), err)
	}
	_ = conn.Close()
}

func TestCommandConnect(t *testing.T) {
	g := commandGateway(t)
	socket := filepath.Join(t.TempDir(), "s.sock")
	c := start(t, nil, "connect", "--url", g.URL(), "--token-file", secretFile(t, "alice\n"),
		"--target", "echo", "--listen", "127.0.0.1:0", "--forward", "unix/"+socket+"=tcp/echo.example:7")
	address := c.says(t, `listening on (127\.0\.0\.1:\d+) for echo`)
	c.says(t, `connected to http`)
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	echoOver(t, conn)
	if conn, err = net.Dial("unix", socket); err != nil {
		t.Fatal(err)
	}
	echoOver(t, conn)
	if info, err := os.Stat(socket); err != nil || (runtime.GOOS != "windows" && info.Mode().Perm() != 0o600) {
		t.Errorf("the socket's mode is %v, %v", info.Mode(), err)
	}
	c.cancel()
	if err := c.wait(t); err != nil {
		t.Errorf("the command ended with %v", err)
	}
	if c.out.String() != "" || strings.Contains(c.err.String(), "warning") || strings.Contains(c.err.String(), "\x1b") {
		t.Errorf("it wrote %q and, as errors, %q", c.out.String(), c.err.String())
	}
	testkit.Eventually(t, commandPatience, func() error {
		if n := len(g.Sessions()); n != 0 || g.LastIdentity() != "alice" {
			return fmt.Errorf("identity %q, %d sessions are left at the gateway", g.LastIdentity(), n)
		}
		return nil
	})
	if _, err := os.Stat(socket); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket is left: %v", err)
	}
}

// TestCommandDrains holds that an interrupt lets a running stream finish and
// lets no new one in.
func TestCommandDrains(t *testing.T) {
	g := commandGateway(t)
	for _, mode := range []string{"--once=false", "--once"} {
		c := start(t, nil, "connect", "--url", g.URL(), "--token-file", secretFile(t, "alice"), "--forward", "0=echo", mode)
		address := c.says(t, `listening on (127\.0\.0\.1:\d+)`)
		c.says(t, `connected to`)
		conn, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = conn.Write([]byte("x"))
		if _, err := io.ReadFull(conn, make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
		c.cancel()
		testkit.Eventually(t, commandPatience, func() error {
			late, err := net.Dial("tcp", address)
			if err == nil {
				_ = late.Close()
				return errors.New("it still listens")
			}
			return nil
		})
		select {
		case err := <-c.done:
			t.Fatalf("%s: it did not wait for the stream: %v", mode, err)
		default:
		}
		echoOver(t, conn)
		if err := c.wait(t); err != nil {
			t.Errorf("%s: %v", mode, err)
		}
	}
}

// TestCommandReconnects holds that a lost tunnel is made anew, and with --once
// is the end.
func TestCommandReconnects(t *testing.T) {
	g := commandGateway(t)
	c := start(t, nil, "connect", "--url", g.URL(), "--token-file", secretFile(t, "alice"), "--forward", "0=echo")
	address := c.says(t, `listening on (127\.0\.0\.1:\d+)`)
	c.says(t, `connected to`)
	g.Sessions()[0].Close(framecodec.CodeClosedByAdmin, "enough")
	c.says(t, `the tunnel has ended: closed_by_admin: enough; reconnecting`)
	c.says(t, `(?s)reconnecting.*connected to`)
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	echoOver(t, conn)
	c.cancel()
	if err := c.wait(t); err != nil {
		t.Error(err)
	}

	once := start(t, nil, "connect", "--once", "--url", g.URL(), "--token-file", secretFile(t, "alice"), "--forward", "0=echo")
	once.says(t, `connected to`)
	for _, s := range g.Sessions() { // one of the command before may still be ending
		if s.Tunnel() != nil {
			s.Close(framecodec.CodeClosedByAdmin, "enough")
		}
	}
	if err := once.wait(t); tunnel.CodeOf(err) != framecodec.CodeClosedByAdmin {
		t.Errorf("--once ended with %v", err)
	}
}

func TestCommandStdio(t *testing.T) {
	g := commandGateway(t)
	sent := make([]byte, 1<<20)
	_, _ = rand.Read(sent)
	c := start(t, bytes.NewReader(sent), "connect", "--stdio", "--url", g.URL(), "--target", "echo", "--token-file", secretFile(t, "alice"))
	if err := c.wait(t); err != nil {
		t.Fatal(err)
	}
	if c.out.String() != string(sent) || c.err.String() != "" {
		t.Errorf("%d bytes came out, %q was said", len(c.out.String()), c.err.String())
	}
	c = start(t, strings.NewReader(""), "connect", "--stdio", "--url", g.URL(), "--target", "nothing", "--token-file", secretFile(t, "alice"))
	if err := c.wait(t); tunnel.CodeOf(err) != framecodec.CodeUnknownTarget || c.out.String() != "" {
		t.Errorf("unknown target: %v, output %q", err, c.out.String())
	}
}

func TestCommandSOCKS(t *testing.T) {
	g := commandGateway(t)
	c := start(t, nil, "socks", "--url", g.URL(), "--listen", "0", "--token-file", secretFile(t, "alice"))
	address := c.says(t, `listening on (127\.0\.0\.1:\d+) for SOCKS5`)
	dialer, err := proxy.SOCKS5("tcp", address, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := dialer.Dial("tcp", "echo.example:7")
	if err != nil {
		t.Fatal(err)
	}
	sent := []byte("through a proxy")
	_, _ = conn.Write(sent)
	got := make([]byte, len(sent))
	if _, err := io.ReadFull(conn, got); err != nil || !bytes.Equal(got, sent) {
		t.Errorf("read %q, %v", got, err)
	}
	_ = conn.Close()
	if _, err := dialer.Dial("tcp", "other.example:7"); err == nil || !strings.Contains(err.Error(), "host unreachable") {
		t.Errorf("a target that the gateway refuses: %v, want reply 4", err)
	}
	control := associateEcho(t, address)
	c.cancel() // with the association still there
	_ = control.SetReadDeadline(time.Now().Add(20 * time.Second))
	if n, err := control.Read(make([]byte, 1)); n != 0 || err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the association goes on: %d bytes, %v", n, err)
	}
	if err := c.wait(t); err != nil {
		t.Error(err)
	}
}

// associateEcho has datagrams come back through a UDP ASSOCIATE of a SOCKS5 server
// and returns the TCP connection that keeps it.
func associateEcho(t *testing.T, address string) net.Conn {
	t.Helper()
	control, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = control.Close() })
	_ = control.SetDeadline(time.Now().Add(20 * time.Second))
	_, _ = io.WriteString(control, "\x05\x01\x00\x05\x03\x00\x01\x00\x00\x00\x00\x00\x00")
	answer := make([]byte, 12)
	if _, err := io.ReadFull(control, answer); err != nil || string(answer[:6]) != "\x05\x00\x05\x00\x00\x01" {
		t.Fatalf("answer % x, %v", answer, err)
	}
	relay := netip.AddrPortFrom(netip.AddrFrom4([4]byte(answer[6:10])), binary.BigEndian.Uint16(answer[10:]))
	u, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(relay))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = u.Close() })
	want := "\x00\x00\x00\x03\x0cecho.example\x00\x07hello"
	got := make([]byte, 100)
	for range 20 { // a datagram may be lost
		_, _ = io.WriteString(u, want)
		_ = u.SetReadDeadline(time.Now().Add(time.Second))
		if n, err := u.Read(got); err == nil && string(got[:n]) == want {
			return control
		}
	}
	t.Fatal("no datagram came back")
	return nil
}

// TestCommandFailures holds that what a person can mend ends the command with an
// error that says so, and that other failures are reported while it goes on.
func TestCommandFailures(t *testing.T) {
	g := commandGateway(t)
	c := start(t, nil, "connect", "--url", g.URL(), "--forward", "0=echo")
	if err := c.wait(t); tunnel.CodeOf(err) != framecodec.CodeUnauthenticated || !strings.Contains(err.Error(), "--password-file") {
		t.Errorf("without credentials: %v", err)
	}
	g.Intercept(func(w http.ResponseWriter, _ *http.Request) bool {
		w.WriteHeader(http.StatusServiceUnavailable)
		return true
	})
	c = start(t, nil, "connect", "--url", g.URL(), "--forward", "0=echo", "--token-file", secretFile(t, "alice"))
	c.says(t, `exchanging offer and answer failed.*trying again`)
	g.Intercept(nil)
	c.says(t, `connected to`)
	c.cancel()
	if err := c.wait(t); err != nil {
		t.Error(err)
	}
}

func TestCommandWarnsBeyondLoopback(t *testing.T) {
	g := commandGateway(t)
	c := start(t, nil, "socks", "--url", g.URL(), "--listen", "0.0.0.0:0", "--token-file", secretFile(t, "alice"))
	c.says(t, `warning: .* can be reached from other machines`)
	c.cancel()
	if err := c.wait(t); err != nil {
		t.Error(err)
	}
}

func TestCommandTargets(t *testing.T) {
	g := commandGateway(t)
	c := start(t, nil, "targets", "--url", g.URL(), "--token-file", secretFile(t, "alice"))
	if err := c.wait(t); err != nil {
		t.Fatal(err)
	}
	if out := c.out.String(); !strings.Contains(out, "echo  stream  yes") || !strings.Contains(out, "tcp/host:port") {
		t.Errorf("output:\n%s", out)
	}
	c = start(t, nil, "targets", "--json", "--url", g.URL(), "--token-file", secretFile(t, "alice"))
	if err := c.wait(t); err != nil || !strings.HasPrefix(c.out.String(), `{"dynamic":true`) {
		t.Errorf("--json: %q, %v", c.out.String(), err)
	}
}

func TestCommandDoctor(t *testing.T) {
	g := commandGateway(t)
	token := secretFile(t, "alice")
	c := start(t, nil, "doctor", "--url", g.URL(), "--token-file", token)
	if err := c.wait(t); err != nil {
		t.Fatal(err)
	}
	out := c.out.String()
	at := 0
	for _, step := range []string{
		"looking up the gateway's name", "connecting to the gateway", "exchanging offer and answer", "finding a network path (UDP)",
		"setting up encryption (DTLS)", "opening the data channel", "greeting the gateway", "asking for the targets", "opening a stream",
	} {
		next := strings.Index(out[at:], "ok      "+step)
		if next < 0 {
			t.Fatalf("%q is missing or out of order:\n%s", step, out)
		}
		at += next
	}
	c = start(t, nil, "doctor", "--url", g.URL(), "--token-file", token, "--target", "nothing")
	if err := c.wait(t); !errors.Is(err, errUnwell) || !strings.Contains(c.out.String(), "FAILED  opening a stream") ||
		!strings.Contains(c.out.String(), "what to do: caddy webrtc-tunnel targets") {
		t.Errorf("unknown target: %v\n%s", err, c.out.String())
	}
	c = start(t, nil, "doctor", "--url", g.URL())
	if err := c.wait(t); !errors.Is(err, errUnwell) || !strings.Contains(c.out.String(), "what to do: give credentials") {
		t.Errorf("no credentials: %v\n%s", err, c.out.String())
	}
}

func TestCommandAdmin(t *testing.T) {
	var asked []string
	admin := testServer(t, func(w http.ResponseWriter, r *http.Request) {
		asked = append(asked, r.Method+" "+r.URL.EscapedPath())
		if r.Method == http.MethodGet {
			_, _ = io.WriteString(w, `[{"id":"abc","side":"gateway","endpoint":"gw","identity":"al\u001bice","state":"open","streams":3,"bytes_in":2048,"bytes_out":1,"rtt_ms":1.5}]`)
		} else if strings.HasSuffix(r.URL.Path, "/none") {
			w.WriteHeader(http.StatusNotFound)
			_, _ = io.WriteString(w, `{"error":"no tunnel"}`)
		}
	})
	c := start(t, nil, "list", "--address", admin)
	if err := c.wait(t); err != nil || !strings.Contains(c.out.String(), "abc  gateway  gw") || !strings.Contains(c.out.String(), "2.0 KiB") || strings.ContainsRune(c.out.String(), 0x1b) {
		t.Errorf("list: %v\n%q", err, c.out.String())
	}
	c = start(t, nil, "kill", "abc", "a/b", "--address", admin)
	if err := c.wait(t); err != nil {
		t.Errorf("kill: %v", err)
	}
	c = start(t, nil, "kill", "none", "--address", admin)
	if err := c.wait(t); err == nil || err.Error() != "tunnel none: no tunnel" {
		t.Errorf("kill of an unknown tunnel: %v", err)
	}
	other := testServer(t, http.NotFound)
	c = start(t, nil, "list", "--address", other)
	if err := c.wait(t); err == nil || !strings.Contains(err.Error(), "built without this module") {
		t.Errorf("list of another Caddy: %v", err)
	}
	c = start(t, nil, "list", "--address", "127.0.0.1:1")
	if err := c.wait(t); err == nil || !strings.Contains(err.Error(), "does Caddy run here") {
		t.Errorf("list without Caddy: %v", err)
	}
	want := "GET /webrtc_tunnel/tunnels DELETE /webrtc_tunnel/tunnels/abc DELETE /webrtc_tunnel/tunnels/a%2Fb DELETE /webrtc_tunnel/tunnels/none"
	if got := strings.Join(asked, " "); got != want {
		t.Errorf("asked %q, want %q", got, want)
	}
}

// testServer serves h on loopback and returns its address.
func testServer(t *testing.T, h http.HandlerFunc) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: h, ReadHeaderTimeout: commandPatience}
	go func() { _ = server.Serve(l) }()
	t.Cleanup(func() { _ = server.Close() })
	return l.Addr().String()
}

func TestCommandRefusesUsage(t *testing.T) {
	const url = "https://gw.example.com/tunnel"
	empty := secretFile(t, "\n")
	for _, tt := range []struct{ args, want string }{
		{"connect --forward 2222=ssh", "--url"},
		{"connect --url http://gw.example.com/tunnel --forward 2222=ssh", "https"},
		{"connect --url " + url, "what for"},
		{"connect --url " + url + " --target ssh", "belong together"},
		{"connect --url " + url + " --listen 2222", "belong together"},
		{"connect --url " + url + " --stdio", "--stdio takes one --target"},
		{"connect --url " + url + " --stdio --target ssh --listen 1", "--stdio takes one --target"},
		{"connect --url " + url + " --forward 2222", "LOCAL=TARGET"},
		{"connect --url " + url + " --forward x=ssh", "no address"},
		{"connect --url " + url + " --forward 99999=ssh", "no address"},
		{"connect --url " + url + " --forward unix/=ssh", "path"},
		{"connect --url " + url + " --forward 1=udp/h:53", "write the local address as udp"},
		{"connect --url " + url + " --forward 1=Not_A", "neither a target name"},
		{"connect --url " + url + " --target ssh --listen 1 --expose a=h:1", "write it as tcp/host:port"},
		{"connect --url " + url + " --target ssh --listen 1 --dialect 3", "no dialect 3"},
		{"connect --url " + url + " --dialect 1 --forward 1=a --forward 2=b", "one named target"},
		{"connect --url " + url + " --target ssh --listen 1 --user alice:secret", "argument list"},
		{"connect --url " + url + " --target ssh --listen 1 --user alice", "no password"},
		{"connect --url " + url + " --target ssh --listen 1 --password-file x", "needs --user"},
		{"connect --url " + url + " --target ssh --listen 1 --user a --token-file x", "give one of"},
		{"connect --url " + url + " --target ssh --listen 1 --token-file " + empty, "is empty"},
		{"connect --url " + url + " --target ssh --listen 1 --token-file /does/not/exist", "--token-file: "},
		{"connect --url " + url + " --target ssh --listen 1 --token-file " + empty, "--token-file: "},
		{"connect --url " + url + " --target ssh --listen 1 --token-file " + secretFile(t, "a\nb"), "--token-file: "},
		{"connect --url " + url + " --target ssh --listen 1 --header-file /does/not/exist", "--header-file: "},
		{"connect --url " + url + " --target ssh --listen 1 --user a --password-file /does/not/exist", "--password-file: "},
		{"connect --url " + url + " --target ssh --listen 1 --ca /does/not/exist", "--ca: "},
		{"connect --url " + url + " --target ssh --listen 1 --cert /does/not/exist --key " + empty, "--cert: "},
		{"connect --url " + url + " --target ssh --listen 1 --cert " + empty + " --key /does/not/exist", "--key: "},
		{"connect --url " + url + " --target ssh --listen 1 --cert " + empty + " --key " + empty, "--cert and --key: "},
		{"connect --url " + url + " --target ssh --listen 1 --header-file " + empty, "no header"},
		{"connect --url " + url + " --target ssh --listen 1 --header-file " + secretFile(t, "canary secret"), "line 1: want Name: value"},
		{"connect --url " + url + " --target ssh --listen 1 --cert x", "belong together"},
		{"connect --url " + url + " --target ssh --listen 1 --ca " + empty, "no certificate"},
		{"kill", "requires at least 1 arg"},
		{"drain --deadline -1s --address localhost:1", "must not be negative"},
		{"drain --address localhost:1", "does Caddy run here"},
		{"bench --url " + url, "unknown flag"},
	} {
		c := start(t, nil, strings.Fields(tt.args)...)
		if err := c.wait(t); err == nil || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "canary") {
			t.Errorf("%s: %v, want %q", tt.args, err, tt.want)
		}
	}
}

func TestCommandCredentials(t *testing.T) {
	g := commandGateway(t)
	t.Setenv("WEBRTC_TUNNEL_PASSWORD", "")
	asked := func(want string, args ...string) {
		t.Helper()
		c := start(t, nil, append([]string{"targets", "--url", g.URL()}, args...)...)
		if err := c.wait(t); err != nil || g.LastIdentity() != want {
			t.Errorf("%q: identity %q, %v; want %q", args, g.LastIdentity(), err, want)
		}
	}
	asked("bob", "--user", "bob", "--password-file", secretFile(t, "pass:word\n"))
	asked("carol", "--header-file", secretFile(t, "# who\n\nAuthorization: Bearer carol\r\nX-Other: 1\n"))
	if runtime.GOOS != "windows" {
		asked("dave", "--token-command", "echo dave")
		c := start(t, nil, "targets", "--url", g.URL(), "--token-command", "exit 3")
		if err := c.wait(t); err == nil || !strings.Contains(err.Error(), "token-command failed") {
			t.Errorf("a token command that fails: %v", err)
		}
	}
	t.Setenv("WEBRTC_TUNNEL_TOKEN", "erin")
	asked("erin")
	t.Setenv("WEBRTC_TUNNEL_TOKEN", "")
	t.Setenv("WEBRTC_TUNNEL_USER", "frank")
	t.Setenv("WEBRTC_TUNNEL_PASSWORD", "x")
	asked("frank")
	t.Setenv("WEBRTC_TUNNEL_URL", g.URL())
	c := start(t, nil, "targets")
	if err := c.wait(t); err != nil {
		t.Errorf("URL of the environment: %v", err)
	}
}

func TestCommandWarnsOfSharedSecrets(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("files have no mode there")
	}
	g := commandGateway(t)
	path := secretFile(t, "alice")
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	c := start(t, nil, "targets", "--url", g.URL(), "--token-file", path)
	if err := c.wait(t); err != nil || !strings.Contains(c.err.String(), "chmod 600") {
		t.Errorf("%v, %q", err, c.err.String())
	}
}

// TestStaleSocket holds that a socket nobody serves is replaced, one that is
// served is not, and that a file of another kind is left alone.
func TestStaleSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s.sock")
	f := forward{network: "unix", address: path}
	first, err := f.listen()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.listen(); err == nil {
		t.Fatal("a served socket was replaced")
	}
	first.(*net.UnixListener).SetUnlinkOnClose(false)
	_ = first.Close()
	again, err := f.listen()
	if err != nil {
		t.Fatalf("a stale socket was not replaced: %v", err)
	}
	_ = again.Close()
	if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := f.listen(); err == nil {
		t.Error("a file was replaced")
	}
	if content, err := os.ReadFile(path); err != nil || string(content) != "precious" {
		t.Errorf("the file holds %q, %v", content, err)
	}
}
