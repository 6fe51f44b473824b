package acceptance

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/culvertgate/culvert/internal/testkit"
)

// example returns the Caddyfile of the first run.
func example(t *testing.T) (file, text string) {
	t.Helper()
	file = filepath.Join(must[string](t)(testkit.Root()), "Caddyfile.example")
	return file, string(must[[]byte](t)(os.ReadFile(file)))
}

// The two commands of the first run.
var (
	curlSOCKS = []string{"--socks5-hostname", "127.0.0.1:1080", "http://127.0.0.1:8081/"}
	curlNamed = []string{"http://127.0.0.1:8022/"}
)

// fetched is what curl says of a request.
type fetched struct {
	Status int `json:"http_code"`
	Body   int `json:"size_download"`
	Header int `json:"size_header"`
	exit   int
	errors string
}

// curl runs one request inside a namespace.
func curl(t *testing.T, n *testkit.Namespace, args []string) fetched {
	t.Helper()
	args = append([]string{"--silent", "--show-error", "--noproxy", "", "--max-time", "60", "--output", "/dev/null", "--write-out", "%{json}"}, args...)
	cmd := n.Command("curl", args...)
	var problems strings.Builder
	cmd.Stderr = &problems
	out, err := cmd.Output()
	var f fetched
	if e := json.Unmarshal(out, &f); e != nil {
		t.Fatalf("curl: %v, %v: %s%s", err, e, out, problems.String())
	}
	f.exit, f.errors = cmd.ProcessState.ExitCode(), strings.TrimSpace(problems.String())
	return f
}

// gatewayBytes returns bytes_out of the gateway's only tunnel, 0 without one.
func gatewayBytes(t *testing.T, c *testkit.Caddy) uint64 {
	t.Helper()
	var sum uint64
	for _, i := range tunnelsOf(t, c) {
		if i.Side == "gateway" {
			sum += i.BytesOut
		}
	}
	return sum
}

func TestMustShow1FirstRun(t *testing.T) {
	t.Parallel() // it mostly waits for the blocked commands to end
	testkit.NeedCommands(t, "curl")
	n := testkit.NewNamespace(t)
	_, text := example(t)
	c := testkit.StartCaddy(t, testkit.CaddyConfig{Caddyfile: text, Namespace: n})
	for _, args := range [][]string{curlSOCKS, curlNamed, curlSOCKS, curlNamed} {
		before := gatewayBytes(t, c)
		f := curl(t, n, args)
		if f.exit != 0 || f.Status != 200 || f.Body == 0 {
			t.Fatalf("curl %s: %+v", strings.Join(args, " "), f)
		}
		// Everything of the answer and nothing else has come through the tunnel.
		testkit.Eventually(t, patience, func() error {
			if rose := gatewayBytes(t, c) - before; rose != uint64(f.Header+f.Body) {
				return fmt.Errorf("bytes_out rose by %d, header and body were %d + %d", rose, f.Header, f.Body)
			}
			return nil
		})
	}
	blockedRun(t, n, c)
	for _, args := range [][]string{curlSOCKS, curlNamed} {
		testkit.Eventually(t, 2*time.Minute, func() error {
			if f := curl(t, n, args); f.Status != 200 {
				return fmt.Errorf("after the block: %+v", f)
			}
			return nil
		})
	}
}

// blockedRun has no UDP: with a tunnel from before, and without one.
func blockedRun(t *testing.T, n *testkit.Namespace, c *testkit.Caddy) {
	rule, err := n.BlockUDP(gatewayUDP)
	check(t, err)
	defer func() { check(t, rule.Remove()) }()
	blockedCommands(t, n, c, "with a tunnel")
	for _, i := range tunnelsOf(t, c) {
		check(t, adminDelete(c, "/webrtc_tunnel/tunnels/"+i.ID))
	}
	before := len(c.Log())
	blockedCommands(t, n, c, "without one")
	if log := c.Log()[before:]; !strings.Contains(log, "gateway not reached") || !strings.Contains(log, "UDP") {
		t.Errorf("the log does not say that UDP is blocked:\n%s", log)
	}
}

// blockedCommands runs both commands, which must fail in time and with a name
// for it: a SOCKS reply, or a reset connection and the code in the log.
func blockedCommands(t *testing.T, n *testkit.Namespace, c *testkit.Caddy, state string) {
	start, before := time.Now(), len(c.Log())
	byName := make(chan fetched, 1)
	go func() { byName <- curl(t, n, curlNamed) }()
	bySOCKS, named := curl(t, n, curlSOCKS), <-byName
	// 97 is curl's number for a SOCKS server that refused; the text has its reply.
	if bySOCKS.exit != 97 || !strings.Contains(bySOCKS.errors, fmt.Sprintf("(%d)", replyTimeout)) {
		t.Errorf("%s, SOCKS: %+v, want reply %d", state, bySOCKS, replyTimeout)
	}
	if named.exit != 56 { // connection reset
		t.Errorf("%s, named target: %+v, want a reset connection", state, named)
	}
	if took := time.Since(start); took > 45*time.Second {
		t.Errorf("%s: took %v", state, took)
	}
	var codes []string
	for line := range strings.Lines(c.Log()[before:]) {
		var entry struct{ Msg, Code string }
		if json.Unmarshal([]byte(line), &entry) == nil && entry.Msg == "stream not opened" {
			codes = append(codes, entry.Code)
		}
	}
	t.Logf("%s, after %v: %s; %s; codes in the log: %v", state, time.Since(start).Round(time.Millisecond), bySOCKS.errors, named.errors, codes)
	if !slices.Equal(codes, []string{"timeout", "timeout"}) {
		t.Errorf("%s: codes %v in the log, want one timeout for each command", state, codes)
	}
}

func TestMustShow1Commands(t *testing.T) {
	binary := must[string](t)(testkit.CaddyBinary())
	file, text := example(t)
	run := func(args ...string) (string, error) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		cmd := exec.CommandContext(ctx, binary, args...)
		cmd.Env = testkit.CaddyEnv(t.TempDir())
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	modules, err := run("list-modules")
	check(t, err)
	for _, want := range []string{
		"webrtc_tunnel", "http.handlers.webrtc_tunnel", "layer4.handlers.webrtc_tunnel", "admin.api.webrtc_tunnel",
		"http.reverse_proxy.transport.webrtc_tunnel",
	} {
		if !strings.Contains(modules, "\n"+want+"\n") {
			t.Errorf("list-modules does not show %s", want)
		}
	}
	if out, err := run("validate", "--config", file, "--adapter", "caddyfile"); err != nil || hasWarning(out) {
		t.Errorf("validate: %v\n%s", err, out)
	}
	if out, err := run("fmt", "--diff", file); err != nil || changed(out) {
		t.Errorf("fmt --diff: %v\n%s", err, out)
	}
	out, err := run("adapt", "--config", file, "--adapter", "caddyfile")
	if err != nil || hasWarning(out) || !strings.Contains(out, `"webrtc_tunnel"`) {
		t.Errorf("adapt: %v\n%s", err, out)
	}
	if text == "" || strings.Contains(text, "{$") {
		t.Error("Caddyfile.example is empty or uses {$...}")
	}
}

// hasWarning finds lines above info.
func hasWarning(out string) bool {
	lower := strings.ToLower(out)
	return strings.Contains(lower, `"level":"warn"`) || strings.Contains(lower, `"level":"error"`) || strings.Contains(lower, "not formatted")
}

// changed finds lines that fmt --diff would add or remove.
func changed(out string) bool {
	for line := range strings.Lines(out) {
		if strings.HasPrefix(line, "+") || strings.HasPrefix(line, "-") {
			return true
		}
	}
	return false
}
