package integration

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/culvertgate/culvert/framecodec"
	"github.com/culvertgate/culvert/tunnel"
)

// drainJSON is the state of a drain.
type drainJSON struct {
	Draining bool
	Deadline time.Time
	Tunnels  int
	Streams  int64
}

// TestDrain: nothing new is let in, what runs goes on until the deadline and ends
// with draining then; the drain is prolonged, and taken back.
func TestDrain(t *testing.T) {
	forget(t)
	start(t, global(remoteHere, on("1")+"\n\tlayer4 {\n"+entry1+" {\nroute {\nwebrtc_tunnel here echo\n}\n}\n}\n")+site("target echo tcp/"+echoServer(t)))
	p := connect(t, siteURL, nil)
	conn, err := p.open("echo")
	if err != nil {
		t.Fatal(err)
	}
	local, err := net.Dial("tcp", entry1)
	if err != nil {
		t.Fatal(err)
	}
	defer local.Close()
	if err := pingPong(local); err != nil {
		t.Fatal(err)
	}
	var state drainJSON
	adminJSON(t, http.MethodDelete, "/drain", nil, http.StatusNotFound, nil)
	adminJSON(t, http.MethodPost, "/drain", values{"deadline": "1h"}, http.StatusAccepted, &state)
	if !state.Draining || state.Streams != 3 || time.Until(state.Deadline) < 50*time.Minute { // the entry's counts at both sides
		t.Errorf("the drain is %+v", state)
	}
	select {
	case <-p.session.Away():
	case <-time.After(long):
		t.Error("the client is not told")
	}
	refusedOffer(t, nil, framecodec.CodeDraining)
	if _, err := p.open("echo"); tunnel.CodeOf(err) != framecodec.CodeDraining {
		t.Errorf("a stream: %v", err)
	}
	if c, err := net.Dial("tcp", entry1); err == nil {
		if n, err := c.Read(make([]byte, 1)); n > 0 || err == nil {
			t.Errorf("the entry lets somebody in: %d, %v", n, err)
		}
		c.Close()
	}
	if got := healthStatus(t); got != http.StatusServiceUnavailable {
		t.Errorf("health: status %d", got)
	}
	for name, c := range map[string]net.Conn{"the stream": conn, "the entry's": local} {
		if err := pingPong(c); err != nil {
			t.Errorf("%s does not go on: %v", name, err)
		}
	}
	eventually(t, func() error {
		for _, e := range events() {
			if e.name == "drain_started" && e.data["duration_ms"] == time.Hour.Milliseconds() {
				return nil
			}
		}
		return fmt.Errorf("no event of the drain in %v", events())
	})
	// Taken back: new clients come in; the old one was told to go.
	adminJSON(t, http.MethodDelete, "/drain", nil, http.StatusOK, &state)
	if state.Draining || healthStatus(t) != http.StatusOK {
		t.Errorf("taken back: %+v", state)
	}
	fresh := connect(t, siteURL, nil)
	if c, err := fresh.open("echo"); err != nil || pingPong(c) != nil {
		t.Errorf("a stream behind the drain: %v", err)
	}
	if err := pingPong(conn); err != nil {
		t.Error("the old stream:", err)
	}
	eventually(t, func() error { // the remote makes another tunnel
		c, err := net.Dial("tcp", entry1)
		if err != nil {
			return err
		}
		defer c.Close()
		return pingPong(c)
	})
	// To the end.
	adminJSON(t, http.MethodPost, "/drain", values{"deadline": "1h"}, http.StatusAccepted, nil)
	adminJSON(t, http.MethodPost, "/drain", values{"deadline": "300ms"}, http.StatusAccepted, nil)
	_ = conn.SetReadDeadline(time.Now().Add(long))
	_, err = conn.Read(make([]byte, 1))
	wantCode(t, err, framecodec.CodeDraining)
	_ = local.SetReadDeadline(time.Now().Add(long))
	if n, err := local.Read(make([]byte, 1)); n > 0 || err == nil {
		t.Errorf("the entry's stream goes on: %d, %v", n, err)
	}
	eventually(t, func() error {
		adminJSON(t, http.MethodGet, "/drain", nil, http.StatusOK, &state)
		if !state.Draining || state.Streams != 0 || state.Tunnels != 0 {
			return fmt.Errorf("behind the deadline: %+v", state)
		}
		return nil
	})
	refusedOffer(t, nil, framecodec.CodeDraining)
	adminJSON(t, http.MethodDelete, "/drain", nil, http.StatusOK, nil)
	connect(t, siteURL, nil)
	for _, bad := range []values{{"deadline": "soon"}, {"deadline": "-1s"}, {"dead": "1s"}} {
		adminJSON(t, http.MethodPost, "/drain", bad, http.StatusBadRequest, nil)
	}
}

func healthStatus(t *testing.T) int {
	t.Helper()
	return admin(t, http.MethodGet, "/webrtc_tunnel/health", "", nil)
}

// TestOnReload: what becomes of streams that the new policy refuses. However many
// there are, those that are cut are cut within a second.
func TestOnReload(t *testing.T) {
	echo := echoServer(t)
	const many = 2000
	config := func(mode, users string) string {
		return global("", "") + strings.Replace(strings.Replace(site("target echo tcp/"+echo+users+"\non_reload "+mode), "allow_anonymous", "identity {http.request.header.X-User}", 1),
			"\n\n", "\n", 1)
	}
	withDrain := func(text string) string {
		return strings.Replace(text, "listen udp/"+udpAddr, "listen udp/"+udpAddr+"\ntimeouts {\ndrain 1s\n}", 1)
	}
	for mode, wait := range map[string][2]time.Duration{"cut": {0, time.Second}, "drain": {700 * time.Millisecond, 3 * time.Second}, "keep": {-1, 0}} {
		t.Run(mode, func(t *testing.T) {
			start(t, withDrain(config(mode, "")))
			p := connect(t, siteURL, user("alice"))
			conns := make([]*tunnel.Conn, many)
			for i := range conns {
				var err error
				if conns[i], err = p.open("echo"); err != nil {
					t.Fatal(err)
				}
			}
			if err := load(withDrain(config(mode, " {\nusers bob\n}"))); err != nil {
				t.Fatal(err)
			}
			reloaded := time.Now()
			if _, err := p.open("echo"); tunnel.CodeOf(err) != framecodec.CodeNotAllowed {
				t.Errorf("a new stream: %v", err)
			}
			if mode == "keep" {
				for _, c := range conns[:20] {
					if err := pingPong(c); err != nil {
						t.Fatal(err)
					}
				}
				return
			}
			if mode == "drain" {
				if err := pingPong(conns[0]); err != nil {
					t.Error("a stream that may finish:", err)
				}
			}
			for _, c := range conns {
				_ = c.SetReadDeadline(time.Now().Add(long))
				_, err := io.ReadAll(c)
				wantCode(t, err, framecodec.CodePolicyChanged)
			}
			if took := time.Since(reloaded); took < wait[0] || took > wait[1] {
				t.Errorf("%d streams were ended %v behind the reload", many, took)
			}
		})
	}
	if err := load(config("later", "")); err == nil || !strings.Contains(err.Error(), "none of keep, drain and cut") {
		t.Errorf("another word: %v", err)
	}
}

// TestEndpointHealth: what a load balancer asks needs no identity and tells no
// reasons.
func TestEndpointHealth(t *testing.T) {
	start(t, global("", "")+users("target echo tcp/127.0.0.1:9\nhealth /health"))
	ask := func(method, path string) (int, string) {
		t.Helper()
		req, _ := http.NewRequest(method, siteURL+path, nil)
		res, err := patiently(req)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		body, err := io.ReadAll(res.Body)
		if err != nil {
			t.Fatal(err)
		}
		return res.StatusCode, strings.TrimSpace(string(body))
	}
	if status, body := ask(http.MethodGet, "/health"); status != http.StatusOK || body != `{"status":"ok"}` {
		t.Errorf("%d %s", status, body)
	}
	if status, _ := ask(http.MethodHead, "/health"); status != http.StatusOK {
		t.Errorf("HEAD: %d", status)
	}
	if status, _ := ask(http.MethodPost, "/health"); status != http.StatusMethodNotAllowed {
		t.Errorf("POST: %d", status)
	}
	if status, _ := ask(http.MethodGet, "/healthy"); status != http.StatusUnauthorized && status != http.StatusNotFound {
		t.Errorf("another path: %d", status)
	}
	adminJSON(t, http.MethodPost, "/drain", values{"deadline": "1h"}, http.StatusAccepted, nil)
	if status, body := ask(http.MethodGet, "/health"); status != http.StatusServiceUnavailable || body != `{"status":"unavailable"}` {
		t.Errorf("while draining: %d %s", status, body)
	}
	adminJSON(t, http.MethodDelete, "/drain", nil, http.StatusOK, nil)
	for path, want := range map[string]string{"/s": "otherwise", "/targets": "otherwise", "/client.js": "otherwise", "health": "plain path", "/": "plain path", "/a?b": "plain path"} {
		if err := load(global("", "") + users("health "+path)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("health %s: %v", path, err)
		}
	}
}
