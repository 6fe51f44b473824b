package acceptance

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/culvertgate/culvert/internal/testkit"
)

// TestMustShow2SSH reaches a real sshd with `connect --stdio` as ProxyCommand.
func TestMustShow2SSH(t *testing.T) {
	sshThrough(t, must[string](t)(testkit.CaddyBinary()))
}

// TestMustShow2SSHFromMakeBuild is the same with the binary that `make build`
// makes: xcaddy's way of putting Caddy together, from this checkout. It is not
// parallel, because a compiler beside them would spoil what others measure.
func TestMustShow2SSHFromMakeBuild(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: no build with xcaddy")
	}
	root, binary := must[string](t)(testkit.Root()), filepath.Join(t.TempDir(), "caddy")
	ctx, cancel := context.WithTimeout(t.Context(), 8*time.Minute)
	defer cancel()
	for _, step := range [][]string{
		{"go", "build", "-C", "tools", "-o", filepath.Join(filepath.Dir(binary), "xcaddybuild"), "./xcaddybuild"},
		{filepath.Join(filepath.Dir(binary), "xcaddybuild"), "-o", binary, "xcaddy.json"},
	} {
		cmd := exec.CommandContext(ctx, step[0], step[1:]...)
		cmd.Dir = root
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", strings.Join(step, " "), err, out)
		}
	}
	sshThrough(t, binary)
}

// sshThrough runs a command and copies a large file there and back.
func sshThrough(t *testing.T, binary string) {
	const size = 100_000_000
	p := startGatewayOnly(t, setup{endpoint: "\t\ttarget ssh tcp/%SSH%\n"})
	dir := t.TempDir()
	token := filepath.Join(dir, "token")
	check(t, os.WriteFile(token, []byte(bearer+"\n"), 0o600))
	options := append(p.sshd.ClientOptions(), "-o", fmt.Sprintf(
		"ProxyCommand=%s webrtc-tunnel connect --url http://127.0.0.1:%d/tunnel --token-file %s --target ssh --stdio", binary, tapPort, token))
	run := func(name string, args ...string) string {
		t.Helper()
		cmd := p.net.Command(name, append(options, args...)...)
		cmd.Env = testkit.CaddyEnv(dir)
		var problems strings.Builder
		cmd.Stderr = &problems
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("%s %s: %v: %s", name, strings.Join(args, " "), err, problems.String())
		}
		// Everything but data is a person's to read, and there is no terminal here.
		p.tap.search(t, "stderr of "+name, problems.String())
		return string(out)
	}
	if got := run("ssh", p.sshd.User+"@culvert", "echo through $((6*7))"); got != "through 42\n" {
		t.Fatalf("ssh: %q", got)
	}

	there, here, back := filepath.Join(dir, "there"), filepath.Join(dir, "here"), filepath.Join(dir, "back")
	file := must[*os.File](t)(os.Create(here))
	sum, err := send(file, 2, size, nil)
	check(t, err, file.Close())
	start := time.Now()
	run("scp", here, p.sshd.User+"@culvert:"+there)
	up := time.Since(start)
	run("scp", p.sshd.User+"@culvert:"+there, back)
	t.Logf("scp of %d bytes: %v there, %v back", size, up, time.Since(start)-up)
	for _, name := range []string{there, back} {
		file := must[*os.File](t)(os.Open(name))
		check(t, receive(file, size, func() (string, error) { return sum, nil }), file.Close())
	}
}

// sshPair is a gateway before an SSH server; clients are commands.
type sshPair struct {
	*pair
	sshd *testkit.SSHD
}

// startGatewayOnly starts a gateway whose endpoint may name %SSH%, the address
// of an SSH server.
func startGatewayOnly(t *testing.T, s setup) sshPair {
	t.Helper()
	p := &pair{t: t, net: testkit.NewNamespace(t)}
	server := testkit.StartSSHD(t, p.net)
	s.endpoint = strings.ReplaceAll(s.endpoint, "%SSH%", server.Addr)
	p.setup = s
	p.tap = startTap(t, p.net)
	p.tap.plant("bearer", bearer)
	t.Cleanup(p.searchLogs)
	p.startGateway()
	t.Cleanup(p.searchLive)
	return sshPair{p, server}
}
