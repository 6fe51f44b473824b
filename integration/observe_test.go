package integration

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"

	"github.com/culvertgate/culvert/framecodec"
)

// scrape returns what Caddy's metrics endpoint says, and the value of each of
// our series.
func scrape(t *testing.T) (text []byte, values map[string]float64) {
	t.Helper()
	req, err := http.NewRequest(http.MethodGet, adminURL+"/metrics", nil)
	if err != nil {
		t.Fatal(err)
	}
	res, err := patiently(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if text, err = io.ReadAll(res.Body); err != nil {
		t.Fatal(err)
	}
	told(text)
	values = map[string]float64{}
	for line := range strings.Lines(string(text)) {
		name, value, ok := strings.Cut(strings.TrimSpace(line), " ")
		if at := strings.LastIndex(line, "} "); at >= 0 { // labels may hold spaces
			name, value = line[:at+1], strings.TrimSpace(line[at+2:])
		}
		if !ok || !strings.HasPrefix(name, "caddy_webrtc_tunnel_") {
			continue
		}
		v, err := strconv.ParseFloat(value, 64)
		if err != nil {
			t.Fatalf("metric line %q: %v", line, err)
		}
		values[strings.TrimPrefix(name, "caddy_webrtc_tunnel_")] = v
	}
	return text, values
}

// TestMetrics: what happens is counted, and goes on counting over reloads, a
// failed one included.
func TestMetrics(t *testing.T) {
	echo := echoServer(t)
	config := global(remoteHere, entries("echo")+"\n\tmetrics") + site("target echo tcp/"+echo+"\ndynamic {\ndeny 127.0.0.13\n}")
	start(t, config)
	_, before := scrape(t)
	p := connect(t, siteURL, nil)
	c, err := p.open("echo")
	if err != nil {
		t.Fatal(err)
	}
	if err := pingPong(c); err != nil {
		t.Fatal(err)
	}
	_, err = p.open("tcp/127.0.0.13:22")
	wantCode(t, err, framecodec.CodeNotAllowed)
	other, err := openEither(p, false)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	if err := pingPong(other); err != nil {
		t.Fatal(err)
	}
	if p.session.Stream(1) == nil {
		t.Fatal("the stream has no number")
	}
	p.session.Stream(1).Reset(framecodec.CodeCancelled, "")
	rises := map[string]float64{
		`tunnels_opened_total{result="ok",side="gateway"}`:                     2,
		`tunnels_opened_total{result="ok",side="client"}`:                      1,
		`streams_opened_total{kind="named",result="ok",side="gateway"}`:        2,
		`streams_opened_total{kind="tcp",result="not_allowed",side="gateway"}`: 1,
		`streams_opened_total{kind="named",result="ok",side="client"}`:         1,
		`stream_ends_total{code="cancelled",side="gateway"}`:                   1,
		`signalling_requests_total{code="201",method="POST"}`:                  2,
		`policy_denials_total{rule="gw dynamic.rules[0]"}`:                     1,
		`handshake_seconds_count`:                                              3,
		`stream_open_seconds_count`:                                            3,
		`tunnels{carrier="webrtc",side="gateway"}`:                             2,
		`tunnels{carrier="webrtc",side="client"}`:                              1,
		`streams{side="client"}`:                                               1,
	}
	check := func() error {
		_, now := scrape(t)
		for name, want := range rises {
			if got := now[name] - before[name]; got != want {
				return fmt.Errorf("%s rose by %v, want %v", name, got, want)
			}
		}
		for _, name := range []string{
			`bytes_total{direction="in",side="gateway"}`, `bytes_total{direction="out",side="client"}`,
			`frames_total{direction="out",side="gateway"}`, `udp_packets_total{direction="in"}`, `udp_packets_total{direction="out"}`,
		} {
			if now[name] <= before[name] {
				return fmt.Errorf("%s is %v, was %v", name, now[name], before[name])
			}
		}
		return nil
	}
	eventually(t, check)
	for range 2 {
		config = strings.Replace(config, "target echo", "target more tcp/"+echo+"\ntarget echo", 1)
		config = strings.ReplaceAll(config, "target more tcp/"+echo+"\ntarget more", "target even tcp/"+echo+"\ntarget more")
		if err := load(config); err != nil {
			t.Fatal(err)
		}
		eventually(t, check)
	}
	if err := load(config + site2("webrtc_tunnel {\ndefault_target nosuch\n}")); err == nil {
		t.Fatal("a broken configuration was loaded")
	}
	eventually(t, check)

	text, _ := scrape(t)
	problems, err := promlint.New(bytes.NewReader(ours(text))).Lint()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
}

// ours returns the lines about our metrics.
func ours(text []byte) []byte {
	var b bytes.Buffer
	for line := range bytes.Lines(text) {
		if bytes.Contains(line, []byte("caddy_webrtc_tunnel_")) {
			b.Write(line)
		}
	}
	return b.Bytes()
}

// TestEventsAfterReload: a tunnel that was born under the first configuration
// tells its end to the subscribers of the newest one.
func TestEventsAfterReload(t *testing.T) {
	echo := echoServer(t)
	config := func(n string) string {
		return global("", on(n)) + site("target echo tcp/"+echo+"\ntarget t"+n+" tcp/"+echo)
	}
	start(t, config("1"))
	forget(t)
	p := connect(t, siteURL, nil)
	id := tunnels(t, "gateway")[0].ID
	waitEvent(t, recorded{"1", "tunnel_opened", map[string]any{"id": id, "endpoint": "gw", "identity": "", "client_ip": "127.0.0.1"}})
	if err := load(config("2")); err != nil {
		t.Fatal(err)
	}
	_, err := p.open("nosuch")
	wantCode(t, err, framecodec.CodeUnknownTarget)
	waitEvent(t, recorded{"2", "stream_denied", map[string]any{"id": id, "target": "nosuch", "code": "unknown_target"}})
	if err := load(config("3") + site2("webrtc_tunnel {\ndefault_target nosuch\n}")); err == nil {
		t.Fatal("a broken configuration was loaded")
	}
	p.close()
	waitEvent(t, recorded{"2", "tunnel_closed", map[string]any{"id": id, "endpoint": "gw", "client_ip": "127.0.0.1", "code": "tunnel_closed"}})
	if _, err := tryConnect(t.Context(), siteURL+"?target=nosuch", nil); err == nil {
		t.Fatal("an offer for an unknown target was answered")
	}
	waitEvent(t, recorded{"2", "tunnel_rejected", map[string]any{"endpoint": "gw", "client_ip": "127.0.0.1", "code": "unknown_target"}})
	for _, e := range events() {
		if e.name == "tunnel_closed" {
			for _, key := range []string{"bytes_in", "bytes_out", "duration_ms"} {
				if _, ok := e.data[key]; !ok {
					t.Errorf("tunnel_closed has no %s: %v", key, e.data)
				}
			}
		}
	}
}

// waitEvent wants an event by a configuration's recorder, with these data.
func waitEvent(t *testing.T, want recorded) {
	t.Helper()
	eventually(t, func() error {
		for _, e := range events() {
			if e.generation == want.generation && e.name == want.name && holds(e.data, want.data) {
				return nil
			}
		}
		return fmt.Errorf("no event %v in %v", want, events())
	})
}

func holds(data, want map[string]any) bool {
	for key, value := range want {
		if data[key] != value {
			return false
		}
	}
	return true
}

// TestLogsAfterReload: long-lived things log to the newest configuration's file.
func TestLogsAfterReload(t *testing.T) {
	echo := echoServer(t)
	dir := t.TempDir()
	file := func(n int) string { return filepath.Join(dir, strconv.Itoa(n)) }
	config := func(n int) string {
		return strings.Replace(global("", ""), logging(), "\tlog {\n\t\toutput file "+file(n)+"\n\t}\n", 1) + site("target echo tcp/"+echo)
	}
	start(t, config(1))
	p := connect(t, siteURL, nil)
	id := tunnels(t, "gateway")[0].ID
	if err := load(config(2)); err != nil {
		t.Fatal(err)
	}
	p.close()
	eventually(t, func() error {
		text, err := os.ReadFile(file(2))
		if err == nil && !hasLine(text, "tunnel closed", id) {
			err = fmt.Errorf("the new log has no end of %s", id)
		}
		return err
	})
	old, err := os.ReadFile(file(1))
	if err != nil {
		t.Fatal(err)
	}
	if !hasLine(old, "tunnel opened", id) || hasLine(old, "tunnel closed", id) {
		t.Error("the old log should have the tunnel's beginning and not its end")
	}
}

func hasLine(text []byte, message, id string) bool {
	for line := range bytes.Lines(text) {
		if bytes.Contains(line, []byte(`"msg":"`+message+`"`)) && bytes.Contains(line, []byte(`"id":"`+id+`"`)) {
			return true
		}
	}
	return false
}
