package integration

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/culvertgate/culvert/framecodec"
	"github.com/culvertgate/culvert/internal/testkit"
)

// separate starts a Caddy of its own, with a gateway on free ports, and returns
// its endpoint's URL.
func separate(t *testing.T, drain string) (c *testkit.Caddy, config, url string) {
	t.Helper()
	echo := echoServer(t)
	site := testkit.FreeTCP(t)
	config = fmt.Sprintf(`{
	auto_https off
	persist_config off
	webrtc_tunnel {
		listen udp/%s
		timeouts {
			drain %s
		}
	}
}

http://%s {
	webrtc_tunnel /tunnel* {
		name gw
		allow_anonymous
		target echo tcp/%s
	}
}
`, testkit.FreeUDP(t), drain, site, echo)
	c = testkit.StartCaddy(t, testkit.CaddyConfig{Caddyfile: config})
	return c, config, "http://" + site + "/tunnel"
}

// TestExitDrains: at the end of the process clients are told, streams may
// finish, and the process ends as soon as they have.
func TestExitDrains(t *testing.T) {
	c, _, url := separate(t, "20s")
	p := connect(t, url, nil)
	conn, err := p.open("echo")
	if err != nil {
		t.Fatal(err)
	}
	stopped := make(chan error, 1)
	go func() { stopped <- c.Stop(long) }()
	select {
	case <-p.session.Away():
	case <-time.After(long):
		t.Fatal("no GoAway came")
	}
	if err := pingPong(conn); err != nil {
		t.Errorf("a stream that runs: %v", err)
	}
	_, err = p.open("echo")
	wantCode(t, err, framecodec.CodeDraining)
	conn.Close()
	if err := <-stopped; err != nil {
		t.Errorf("the process did not end with its last stream: %v", err)
	}
}

// TestExitCuts: what has not finished by then is cut, and told so.
func TestExitCuts(t *testing.T) {
	c, _, url := separate(t, "200ms")
	p := connect(t, url, nil)
	conn, err := p.open("echo")
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Stop(long); err != nil {
		t.Fatal(err)
	}
	_, err = conn.Read(make([]byte, 1))
	wantCode(t, err, framecodec.CodeDraining)
	<-p.session.Done()
	wantCode(t, p.session.Err(), framecodec.CodeDraining)
}

// TestSecondProcess: `caddy validate` beside a running Caddy takes nothing from
// it; a second one on the same UDP port says what to change.
func TestSecondProcess(t *testing.T) {
	c, config, url := separate(t, "1s")
	p := connect(t, url, nil)
	conn, err := p.open("echo")
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(c.Home, "Caddyfile")
	validate := exec.Command(c.Binary, "validate", "--config", file, "--adapter", "caddyfile")
	validate.Env = testkit.CaddyEnv(t.TempDir())
	if out, err := validate.CombinedOutput(); err != nil {
		t.Errorf("validate: %v\n%s", err, out)
	}
	// Another site address, so that only the UDP port is the same.
	other := strings.Replace(config, "http://127.0.0.1:", "http://127.0.0.2:", 1)
	_, err = testkit.OpenCaddy(t.TempDir(), testkit.CaddyConfig{Caddyfile: other, Binary: c.Binary})
	if err == nil || !strings.Contains(err.Error(), "is in use by another program") || !strings.Contains(err.Error(), "listen udp/:3479") {
		t.Errorf("a second process on the same port: %v", err)
	}
	if err := pingPong(conn); err != nil {
		t.Errorf("the first process: %v", err)
	}
}
