package integration

import (
	"errors"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/culvertgate/culvert/framecodec"
	"github.com/culvertgate/culvert/internal/testkit"
	"github.com/culvertgate/culvert/tunnel"
)

func portOf(t *testing.T, address string) uint16 {
	t.Helper()
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		t.Fatal(err)
	}
	return uint16(n)
}

// says is a server that tells its name and then sends back what it gets.
func says(name string) func(net.Conn) {
	return func(c net.Conn) {
		if _, err := io.WriteString(c, name); err == nil {
			_, _ = io.Copy(c, c)
		}
	}
}

// listenUnix serves a unix socket until the test ends.
func listenUnix(t *testing.T, path string, handle func(net.Conn)) {
	t.Helper()
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	serveListener(t, l, handle)
}

// TestTargets: what each kind of named target leads to, by a stream, a raw
// channel and an entry, with half close.
func TestTargets(t *testing.T) {
	dir := t.TempDir()
	file, gone := filepath.Join(dir, "u"), filepath.Join(dir, "gone")
	listenUnix(t, file, says("unix.."))
	first, second := serve(t, says("first.")), serve(t, says("second"))
	dead := testkit.FreeTCP(t)
	const refused = framecodec.CodeRefused
	targets := map[string]struct {
		addresses string
		want      string // what the server says, all of six bytes
		code      framecodec.Code
	}{
		"one":             {"tcp/" + first, "first.", 0},
		"socket":          {"unix/" + file, "unix..", 0},
		"order":           {"tcp/" + second + " tcp/" + first, "second", 0},
		"failover":        {"tcp/" + dead + " tcp/" + second, "second", 0},
		"failover-twice":  {"tcp/" + dead + " tcp/127.0.0.77:1 tcp/" + first, "first.", 0},
		"failover-unix":   {"unix/" + gone + " tcp/" + first, "first.", 0},
		"failover-socket": {"tcp/" + dead + " unix/" + file, "unix..", 0},
		"dead":            {"tcp/" + dead, "", refused},
		"all-dead":        {"tcp/" + dead + " tcp/127.0.0.77:1", "", refused},
		"no-socket":       {"unix/" + gone, "", framecodec.CodeUnreachable},
		"forbidden-first": {"tcp/127.0.0.1:2999 tcp/" + first, "first.", 0},
		"forbidden":       {"tcp/127.0.0.1:2999", "", framecodec.CodeNotAllowed},
	}
	var options, listeners strings.Builder
	entry := map[string]string{}
	for name, target := range targets {
		options.WriteString("target " + name + " " + target.addresses + "\n")
		entry[name] = testkit.FreeTCP(t)
		listeners.WriteString(entry[name] + " {\nroute {\nwebrtc_tunnel here " + name + "\n}\n}\n")
	}
	start(t, global(remoteHere, "\tlayer4 {\n"+listeners.String()+"}")+site(options.String()+"limits {\ntunnels_per_identity 40\n}"))
	p := connect(t, siteURL, nil)
	for name, target := range targets {
		t.Run(name, func(t *testing.T) {
			c, err := p.open(name)
			if tunnel.CodeOf(err) != target.code && (err != nil || target.code != 0) {
				t.Fatalf("a stream: %v, want %v", err, target.code)
			}
			if err == nil {
				wantServer(t, "a stream", c, target.want)
			}
			wantEntry(t, entry[name], target.want)
			if code := rawSays(t, name, target.want); code != target.code {
				t.Errorf("a raw channel: %v, want %v", code, target.code)
			}
		})
	}
}

// wantServer wants the server's name, and half close.
func wantServer(t *testing.T, path string, c net.Conn, name string) {
	t.Helper()
	defer c.Close()
	got := make([]byte, len(name))
	if _, err := io.ReadFull(c, got); err != nil || string(got) != name {
		t.Errorf("%s leads to %q, %v; want %q", path, got, err, name)
		return
	}
	if err := halfClose(c); err != nil {
		t.Errorf("%s: %v", path, err)
	}
}

func wantEntry(t *testing.T, address, name string) {
	t.Helper()
	c, err := net.Dial("tcp", address)
	if name == "" && errors.Is(err, syscall.ECONNRESET) {
		return // before connect returned
	}
	if err != nil {
		t.Fatal(err)
	}
	if name != "" {
		wantServer(t, "an entry", c, name)
		return
	}
	defer c.Close()
	if n, err := c.Read(make([]byte, 1)); err == nil || errors.Is(err, io.EOF) {
		t.Errorf("an entry: %d bytes, %v; want a reset", n, err)
	}
}

// rawSays opens a raw channel and wants the server's name, or returns the code.
func rawSays(t *testing.T, target, name string) framecodec.Code {
	t.Helper()
	p, channels, err := tryChannels(t, http.Header{}, "", rawSpec(target))
	if err != nil {
		t.Fatal(err)
	}
	defer p.close()
	if name == "" {
		return rawOutcome(t, p, channels[0])
	}
	return rawReply(t, p, channels[0], "x", name)
}
