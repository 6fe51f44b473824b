package integration

import (
	"net/http"
	"testing"
	"time"

	"github.com/culvertgate/culvert/framecodec"
	"github.com/culvertgate/culvert/tunnel"
)

// TestIdle: timeouts.idle holds for a stream by every way to a target. Flows have
// a limit of their own, TestUDPIdle.
func TestIdle(t *testing.T) {
	echo := echoServer(t)
	start(t, global("timeouts {\nidle 1s\n}", "")+site("target echo tcp/"+echo+"\ndefault_target echo\ndialects 1 2\ndynamic {\nallow tcp/"+echo+"\n}"))
	p := connect(t, siteURL, nil)
	old, err := trySession(t, nil, "", tunnel.Dialect1)
	if err != nil {
		t.Fatal(err)
	}
	raw, channels, err := tryChannels(t, http.Header{}, "", rawSpec("echo"))
	if err != nil {
		t.Fatal(err)
	}
	defer raw.close()
	if code := rawOutcome(t, raw, channels[0]); code != framecodec.CodeNormal {
		t.Fatalf("the raw channel: %v", code)
	}
	address, err := tunnel.ParseTarget("tcp/" + echo)
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	ends := map[string]chan error{}
	for name, way := range map[string]struct {
		p      *peer
		target tunnel.Target
	}{
		"named": {p, tunnel.Target{Kind: tunnel.KindNamed, Host: "echo"}}, "dynamic": {p, address},
		"dialect 1": {old, unnamed}, "dialect 1, dynamic": {old, address},
	} {
		conn, ep := tunnel.NewConn(tunnel.Addr{}, tunnel.Addr{})
		if _, err := way.p.session.Open(t.Context(), way.target, ep); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if err := pingPong(conn); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		_ = conn.SetDeadline(time.Now().Add(long))
		end := make(chan error, 1)
		ends[name] = end
		go func() {
			_, err := conn.Read(make([]byte, 1))
			end <- err
		}()
	}
	for name, end := range ends {
		want := framecodec.CodeIdleTimeout
		if name == "dialect 1" || name == "dialect 1, dynamic" {
			want = framecodec.CodeTimeout // all that its close reasons tell
		}
		wantCode(t, <-end, want)
		if took := time.Since(began); took < time.Second {
			t.Errorf("%s ended after %v", name, took)
		}
	}
	if code := rawReply(t, raw, channels[0], "", "more than the echo of before"); code != framecodec.CodeIdleTimeout {
		t.Errorf("the raw channel ended with %v", code)
	}
}
