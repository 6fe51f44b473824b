package integration

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/culvertgate/culvert/framecodec"
	"github.com/culvertgate/culvert/internal/testkit"
)

// eventKeys is what each event tells, of one side: no more, so that nothing slips
// out, and no less, so that who writes a handler can rely on it.
var eventKeys = map[string][]string{
	"tunnel_opened gateway": {"client_ip", "endpoint", "id", "identity", "side"},
	"tunnel_closed gateway": {"bytes_in", "bytes_out", "client_ip", "code", "duration_ms", "endpoint", "id", "identity", "side"},
	"tunnel_opened client":  {"gateway", "id", "remote", "side"},
	"tunnel_closed client":  {"bytes_in", "bytes_out", "code", "duration_ms", "gateway", "id", "remote", "side"},
	"tunnel_rejected":       {"client_ip", "code", "endpoint", "identity"},
	"stream_denied gateway": {"client_ip", "code", "endpoint", "id", "identity", "side", "target"},
	"breaker_opened":        {"code", "endpoint", "target"},
	"breaker_closed":        {"duration_ms", "endpoint", "target"},
	"drain_started":         {"deadline", "duration_ms"},
}

// lineKeys is what the log lines of tunnels and streams must have, besides those of
// every line.
var lineKeys = map[string][]string{
	"tunnel opened gateway": {"client_ip", "endpoint", "id", "identity", "side"},
	"tunnel closed gateway": {"bytes_in", "bytes_out", "client_ip", "code", "duration_ms", "endpoint", "id", "identity", "side", "text"},
	"tunnel opened client":  {"candidate_pair", "duration_ms", "gateway", "id", "remote", "side"},
	"tunnel closed client":  {"bytes_in", "bytes_out", "code", "duration_ms", "gateway", "id", "remote", "side", "text"},
	"stream ended gateway":  {"bytes_in", "bytes_out", "client_ip", "code", "duration_ms", "endpoint", "id", "identity", "side", "stream", "target"},
	"stream ended client":   {"bytes_in", "bytes_out", "code", "duration_ms", "id", "remote", "side", "stream", "target"},
	"stream denied gateway": {"client_ip", "code", "endpoint", "id", "identity", "reason", "rule", "side", "target"},
	"signalling refused":    {"client_ip", "code", "endpoint", "identity", "reason"},
}

// TestKeysOfEventsAndLines has every event and every line happen, and looks at the
// keys.
func TestKeysOfEventsAndLines(t *testing.T) {
	echo, dead := echoServer(t), testkit.FreeTCP(t)
	log := filepath.Join(t.TempDir(), "log")
	config := func(n, targets string) string {
		remote := "\t\tremote gw " + siteURL + "\n"
		entries := "\tlayer4 {\n\t\t" + entry1 + " {\n\t\t\troute {\n\t\t\t\twebrtc_tunnel gw echo\n\t\t\t}\n\t\t}\n\t}\n"
		text := global(remote, on(n)+"\n"+entries) + site("target echo tcp/"+echo+"\n"+targets)
		return strings.Replace(text, logging(), "\tdebug\n\tlog {\n\t\toutput file "+log+"\n\t\tlevel DEBUG\n\t}\n", 1)
	}
	start(t, config("1", "target dead tcp/"+dead))
	forget(t)

	p := connect(t, siteURL, nil)
	_, err := p.open("nosuch")
	wantCode(t, err, framecodec.CodeUnknownTarget)
	for range 5 { // opens the breaker
		_, err := p.open("dead")
		wantCode(t, err, framecodec.CodeRefused)
	}
	conn, err := p.open("echo")
	if err != nil {
		t.Fatal(err)
	}
	_ = conn.Close()
	p.close()
	if _, err := tryConnect(t.Context(), siteURL+"?target=nosuch", nil); err == nil {
		t.Fatal("an offer for an unknown target was answered")
	}
	pingEntry(t, entry1) // a tunnel and a stream of the client's side
	if err := load(config("2", "")); err != nil {
		t.Fatal(err) // the breaker goes with its target
	}
	ask := func(method, path, body string) {
		t.Helper()
		req, err := http.NewRequestWithContext(context.Background(), method, adminURL+"/webrtc_tunnel"+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if resp.StatusCode >= 300 {
			t.Fatalf("%s %s: %s", method, path, resp.Status)
		}
	}
	for _, i := range tunnels(t, "client") {
		ask(http.MethodDelete, "/tunnels/"+i.ID, "")
	}
	ask(http.MethodPost, "/drain", "")
	ask(http.MethodDelete, "/drain", "")

	eventually(t, func() error {
		found := map[string]map[string]any{}
		for _, e := range events() {
			found[withSide(e.name, e.data)] = e.data
		}
		return sameKeys("event", eventKeys, found, true)
	})
	eventually(t, func() error {
		text, err := os.ReadFile(log)
		if err != nil {
			return err
		}
		found := map[string]map[string]any{}
		for line := range bytes.Lines(text) {
			var fields map[string]any
			if json.Unmarshal(line, &fields) != nil || fields["logger"] != "webrtc_tunnel" {
				continue
			}
			message, _ := fields["msg"].(string)
			found[withSide(message, fields)] = fields
		}
		return sameKeys("line", lineKeys, found, false)
	})
}

// pingEntry sends something through an entry and back.
func pingEntry(t *testing.T, address string) {
	t.Helper()
	c, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := pingPong(c); err != nil {
		t.Fatal(err)
	}
}

func withSide(name string, data map[string]any) string {
	if side, ok := data["side"].(string); ok {
		return name + " " + side
	}
	return name
}

// sameKeys holds keys against those that are wanted: all there are, or at least.
func sameKeys(what string, want map[string][]string, found map[string]map[string]any, exactly bool) error {
	for name, keys := range want {
		data, ok := found[name]
		if !ok {
			return fmt.Errorf("no %s %q, but %v", what, name, slices.Sorted(maps.Keys(found)))
		}
		has := slices.Sorted(maps.Keys(data))
		for _, key := range keys {
			if !slices.Contains(has, key) {
				return fmt.Errorf("%s %q has no %s: %v", what, name, key, data)
			}
		}
		if exactly && !slices.Equal(has, keys) {
			return fmt.Errorf("%s %q has the keys %v, want %v", what, name, has, keys)
		}
	}
	return nil
}
