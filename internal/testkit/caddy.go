package testkit

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// CaddyConfig says what Caddy runs. Its admin API listens on a port that
// StartCaddy chooses (AdminURL) unless the configuration names one itself: leave
// it out.
type CaddyConfig struct {
	Caddyfile string            // either this
	JSON      string            // or this
	Namespace *Namespace        // nil: on the machine's loopback
	Binary    string            // empty: CaddyBinary
	Env       map[string]string // besides our own environment
	Ready     time.Duration     // how long it may take to be ready; 0: 60 s
}

// Caddy is a running Caddy, a process of its own with a home of its own. All
// methods are safe for concurrent use.
type Caddy struct {
	*Process
	Home     string // HOME and XDG folders of the process
	Binary   string
	AdminURL string // http://host:port
	client   *http.Client
}

// OpenCaddy starts Caddy with its files in dir and waits until the
// configuration runs.
func OpenCaddy(dir string, cfg CaddyConfig) (*Caddy, error) {
	binary := cfg.Binary
	if binary == "" {
		var err error
		if binary, err = CaddyBinary(); err != nil {
			return nil, err
		}
	}
	admin, err := freeTCPIn(cfg.Namespace)
	if err != nil {
		return nil, err
	}
	args, err := cfg.write(dir)
	if err != nil {
		return nil, err
	}
	c := &Caddy{Home: dir, Binary: binary, AdminURL: "http://" + admin, client: httpClientIn(cfg.Namespace)}
	cmd := commandIn(cfg.Namespace, binary, args...)
	cmd.Dir = dir
	cmd.Env = append(CaddyEnv(dir), "CADDY_ADMIN="+admin)
	for k, v := range cfg.Env {
		cmd.Env = append(cmd.Env, k+"="+v)
	}
	if c.Process, err = startProcess("caddy", dir, cmd); err != nil {
		return nil, err
	}
	ready := cfg.Ready
	if ready == 0 {
		ready = time.Minute
	}
	var ended error
	err = WaitFor(ready, func() error {
		if ended = c.ended(); ended != nil {
			return nil // it will not be ready any more
		}
		return c.running()
	})
	if err = errors.Join(err, ended); err != nil {
		err = fmt.Errorf("%w\n%s", err, tail(c.Log(), 16<<10))
		c.Kill()
		return nil, err
	}
	return c, nil
}

// StartCaddy is OpenCaddy for a test. At the end of the test Caddy is stopped
// as an operator would (unless it has ended before); not ending then fails the
// test.
func StartCaddy(t testing.TB, cfg CaddyConfig) *Caddy {
	t.Helper()
	return startCaddyIn(t, t.TempDir(), cfg)
}

// RestartCaddy starts Caddy anew where old, which has ended, had its files.
func RestartCaddy(t testing.TB, old *Caddy, cfg CaddyConfig) *Caddy {
	t.Helper()
	<-old.Done()
	return startCaddyIn(t, old.Home, cfg)
}

func startCaddyIn(t testing.TB, dir string, cfg CaddyConfig) *Caddy {
	t.Helper()
	c, err := OpenCaddy(dir, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if c.ended() == nil {
			if err := c.Stop(30 * time.Second); err != nil {
				t.Error(err)
			}
		}
		c.logOnFailure(t)
	})
	return c
}

// CaddyEnv returns our environment with every folder that Caddy writes to moved
// into dir, for running its commands too.
func CaddyEnv(dir string) []string {
	return append(os.Environ(), "HOME="+dir, "XDG_CONFIG_HOME="+filepath.Join(dir, "config"),
		"XDG_DATA_HOME="+filepath.Join(dir, "data"), "XDG_CACHE_HOME="+filepath.Join(dir, "cache"))
}

// write puts the configuration into a file and returns the arguments that run it.
func (cfg CaddyConfig) write(dir string) ([]string, error) {
	if (cfg.Caddyfile == "") == (cfg.JSON == "") {
		return nil, errors.New("give either a Caddyfile or JSON")
	}
	if cfg.JSON != "" {
		file := filepath.Join(dir, "caddy.json")
		return []string{"run", "--config", file}, os.WriteFile(file, []byte(cfg.JSON), 0o600)
	}
	file := filepath.Join(dir, "Caddyfile")
	return []string{"run", "--config", file, "--adapter", "caddyfile"}, os.WriteFile(file, []byte(cfg.Caddyfile), 0o600)
}

// running reports whether the configuration has been started: the admin API
// answers with it only then.
func (c *Caddy) running() error {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	text, err := get(ctx, c.client, c.AdminURL+"/config/")
	if err == nil && (text == "" || text == "null\n") {
		return errors.New("no configuration yet")
	}
	return err
}

// Client returns an HTTP client inside the network that Caddy runs in.
func (c *Caddy) Client() *http.Client { return c.client }

// Get asks the admin API for a path such as /webrtc_tunnel/tunnels and returns
// the body of a 2xx answer.
func (c *Caddy) Get(ctx context.Context, path string) (string, error) {
	return get(ctx, c.client, c.AdminURL+path)
}

// Do sends a request to the admin API and returns its status and body.
func (c *Caddy) Do(ctx context.Context, method, path, contentType, body string) (int, string, error) {
	req, err := http.NewRequestWithContext(ctx, method, c.AdminURL+path, bytes.NewBufferString(body))
	if err != nil {
		return 0, "", err
	}
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	resp, err := c.client.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(text), err
}

// Reload loads another Caddyfile as `caddy reload --force` does and returns
// Caddy's own words when it refuses.
func (c *Caddy) Reload(ctx context.Context, caddyfile string) error {
	return c.load(ctx, "text/caddyfile", caddyfile)
}

// ReloadJSON is Reload for a configuration in JSON.
func (c *Caddy) ReloadJSON(ctx context.Context, config string) error {
	return c.load(ctx, "application/json", config)
}

func (c *Caddy) load(ctx context.Context, contentType, config string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.AdminURL+"/load", bytes.NewBufferString(config))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", contentType)
	req.Header.Set("Cache-Control", "must-revalidate") // also when nothing has changed
	resp, err := c.client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		return fmt.Errorf("load: %s: %s", resp.Status, text)
	}
	return err
}

// Profile reads goroutines, heap and stacks through the admin API, after a
// collection.
func (c *Caddy) Profile(ctx context.Context) (Profile, error) {
	return ReadProfile(ctx, c.client, c.AdminURL)
}

// Usage is what the kernel counts for a Caddy process.
type Usage struct {
	Descriptors int
	Memory      Memory
	CPU         time.Duration
}

// Usage reads the process's descriptors, memory and processor time.
func (c *Caddy) Usage() (Usage, error) {
	var u Usage
	var errs [3]error
	u.Descriptors, errs[0] = Descriptors(c.PID())
	u.Memory, errs[1] = MemoryOf(c.PID())
	u.CPU, errs[2] = CPUTime(c.PID())
	return u, errors.Join(errs[:]...)
}

// Interrupt sends SIGINT, which Caddy takes as a wish to end gracefully.
func (c *Caddy) Interrupt() error { return c.Signal(syscall.SIGINT) }

// Command prepares a command of the same binary, such as `webrtc-tunnel list`,
// in network n (nil: outside) and with the same home.
func (c *Caddy) Command(n *Namespace, args ...string) *exec.Cmd {
	cmd := commandIn(n, c.Binary, args...)
	cmd.Dir, cmd.Env = c.Home, CaddyEnv(c.Home)
	return cmd
}

func httpClientIn(n *Namespace) *http.Client {
	if n != nil {
		return n.HTTPClient()
	}
	return &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
}
