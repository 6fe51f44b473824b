package integration

import (
	"context"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/culvertgate/culvert/internal/testkit"
	"github.com/culvertgate/culvert/tunnel"
	"github.com/culvertgate/culvert/tunnel/rtc"
)

// hears serves a listener that notes all that a client says until it has said
// "end", and answers that with "ok".
func hears(t *testing.T, l net.Listener) <-chan string {
	t.Helper()
	heard := make(chan string, 8)
	serveListener(t, l, func(c net.Conn) {
		var all strings.Builder
		buf := make([]byte, 256)
		for !strings.HasSuffix(all.String(), "end") {
			n, err := c.Read(buf)
			all.Write(buf[:n])
			if err != nil {
				heard <- all.String() + " " + err.Error()
				return
			}
		}
		heard <- all.String()
		_, _ = io.WriteString(c, "ok")
		_, _ = io.Copy(io.Discard, c)
	})
	return heard
}

// TestProxyProtocol: the header is the first that a target hears, exactly as the
// specification has it, by whatever way the client comes, and the client sees
// nothing of it.
func TestProxyProtocol(t *testing.T) {
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "s")
	unix, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	heardTCP, heardUnix := hears(t, tcp), hears(t, unix)
	port := tcp.Addr().(*net.TCPAddr).Port
	v2 := func(dst string) string { return "\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c\x7f\x00\x00\x01" + dst }
	dst := "\x7f\x00\x00\x01\x00\x00" + string([]byte{byte(port >> 8), byte(port)})
	_, portText, _ := net.SplitHostPort(tcp.Addr().String())
	for _, target := range []struct {
		name, options, header string
		heard                 <-chan string
	}{
		{"v1", "tcp/" + tcp.Addr().String() + " {\nproxy_protocol v1\n}", "PROXY TCP4 127.0.0.1 127.0.0.1 0 " + portText + "\r\n", heardTCP},
		{"v2", "tcp/" + tcp.Addr().String() + " {\nproxy_protocol v2\n}", v2(dst), heardTCP},
		{"unix1", "unix/" + path + " {\nproxy_protocol v1\n}", "PROXY TCP4 127.0.0.1 0.0.0.0 0 0\r\n", heardUnix},
		{"unix2", "unix/" + path + " {\nproxy_protocol v2\n}", v2(strings.Repeat("\x00", 8)), heardUnix},
		{"failover", "tcp/" + testkit.FreeTCP(t) + " tcp/" + tcp.Addr().String() + " {\nproxy_protocol v1\n}", "PROXY TCP4 127.0.0.1 127.0.0.1 0 " + portText + "\r\n", heardTCP},
		{"none", "tcp/" + tcp.Addr().String(), "", heardTCP},
	} {
		t.Run(target.name, func(t *testing.T) {
			start(t, global(remoteHere, entries("t"))+site("target t "+target.options+"\ndefault_target t\ndialects 1 2"))
			want := func(way string) {
				t.Helper()
				select {
				case got := <-target.heard:
					if got != target.header+"end" {
						t.Errorf("%s: the target heard %q, want %q", way, got, target.header+"end")
					}
				case <-time.After(long):
					t.Fatalf("%s: the target heard nothing", way)
				}
			}
			stream := func(way string, c net.Conn) {
				t.Helper()
				defer c.Close()
				_ = c.SetDeadline(time.Now().Add(long))
				say(t, c, "end", "ok")
				want(way)
			}
			c, err := connect(t, siteURL, nil).open("t")
			if err != nil {
				t.Fatal(err)
			}
			stream("a stream", c)

			p, err := trySession(t, nil, "", tunnel.Dialect1)
			if err != nil {
				t.Fatal(err)
			}
			conn, ep := tunnel.NewConn(tunnel.Addr{}, tunnel.Addr{})
			if _, err := p.session.Open(t.Context(), unnamed, ep); err != nil {
				t.Fatal(err)
			}
			stream("dialect 1", conn)

			entry, err := net.Dial("tcp", entry1)
			if err != nil {
				t.Fatal(err)
			}
			stream("an entry", entry)

			raw, channels, err := tryChannels(t, http.Header{}, "", []rtc.ChannelSpec{{Protocol: "raw:t"}})
			if err != nil {
				t.Fatal(err)
			}
			if code := rawReply(t, raw, channels[0], "end", "ok"); code != 0 {
				t.Errorf("a raw channel ended with %v", code)
			}
			want("a raw channel")
			raw.close()

			if target.name != "v1" && target.name != "v2" {
				return
			}
			stream("the command", command(t, "connect", "--url", siteURL, "--target", "t", "--stdio"))
		})
	}
}

// piped is a program's standard input and output.
type piped struct {
	net.Conn // not used
	io.Reader
	io.WriteCloser
}

func (p piped) Read(b []byte) (int, error)  { return p.Reader.Read(b) }
func (p piped) Write(b []byte) (int, error) { return p.WriteCloser.Write(b) }
func (p piped) Close() error                { return p.WriteCloser.Close() }
func (p piped) SetDeadline(time.Time) error { return nil }

// command runs `caddy webrtc-tunnel`.
func command(t *testing.T, args ...string) net.Conn {
	t.Helper()
	binary, err := testkit.CaddyBinary()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	cmd := exec.CommandContext(ctx, binary, append([]string{"webrtc-tunnel"}, args...)...)
	cmd.Env = testkit.CaddyEnv(t.TempDir())
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		_ = cmd.Wait()
	})
	return piped{Reader: out, WriteCloser: in}
}

// TestProxyProtocolNeedsAStream: the header has no place in datagrams.
func TestProxyProtocolNeedsAStream(t *testing.T) {
	start(t, global("", ""))
	for options, want := range map[string]string{
		"udp/127.0.0.1:53 {\nproxy_protocol v2\n}": "proxy_protocol v2 is for streams",
		"tcp/127.0.0.1:22 {\nproxy_protocol 2\n}":  "write v1 or v2",
		"tcp/127.0.0.1:22 {\nbreaker maybe\n}":     "the only word is off",
	} {
		if err := load(global("", "") + site("target t "+options)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", options, err, want)
		}
	}
}
