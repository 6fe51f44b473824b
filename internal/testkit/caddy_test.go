package testkit

import (
	"context"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// plainCaddy is a build of Caddy with nothing of ours: these tests are about
// starting processes, and must not depend on what they are used to test.
var plainCaddy = sync.OnceValues(func() (string, error) {
	dir, err := cacheDir("testkit")
	if err != nil {
		return "", err
	}
	binary := filepath.Join(dir, "plaincaddy")
	return binary, run("go", "build", "-o", binary, "./testdata/plaincaddy")
})

func page(t *testing.T, c *Caddy, url string) string {
	t.Helper()
	resp, err := c.Client().Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("GET %s: %s %v", url, resp.Status, err)
	}
	return string(text)
}

func TestCaddyRunsReloadsAndStops(t *testing.T) {
	binary := must[string](t)(plainCaddy())
	for _, inside := range []bool{false, true} {
		name, n := "loopback", (*Namespace)(nil)
		if inside {
			name = "namespace"
		}
		t.Run(name, func(t *testing.T) {
			if inside {
				n = NewNamespace(t)
			}
			address := must[string](t)(freeTCPIn(n))
			site := func(body string) string { return "http://" + address + " {\n\trespond " + body + "\n}\n" }
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()

			c := StartCaddy(t, CaddyConfig{Caddyfile: site("one"), Namespace: n, Binary: binary})
			if got := page(t, c, "http://"+address); got != "one" {
				t.Errorf("first configuration: %q", got)
			}
			if err := c.Reload(ctx, site("two")); err != nil {
				t.Fatal(err)
			}
			if got := page(t, c, "http://"+address); got != "two" {
				t.Errorf("after the reload: %q", got)
			}
			if err := c.Reload(ctx, "nonsense {"); err == nil {
				t.Error("a broken Caddyfile was loaded")
			}
			if p, err := c.Profile(ctx); err != nil || p.Goroutines < 5 || p.HeapAlloc < 1<<20 || p.StackInuse < 1<<16 {
				t.Errorf("profile: %+v, %v", p, err)
			}
			if u, err := c.Usage(); err != nil || u.Descriptors < 5 || u.Memory.Peak < u.Memory.RSS || u.Memory.RSS < 1<<20 {
				t.Errorf("usage: %+v, %v", u, err)
			}
			if err := c.Stop(30 * time.Second); err != nil {
				t.Error(err)
			}
			if log := c.Log(); !strings.Contains(log, "serving initial configuration") {
				t.Errorf("log:\n%s", log)
			}
		})
	}
}

func TestCaddyThatDoesNotStartSaysWhy(t *testing.T) {
	_, err := OpenCaddy(t.TempDir(), CaddyConfig{Caddyfile: "{\n\tno_such_option\n}\n", Binary: must[string](t)(plainCaddy())})
	if err == nil || !strings.Contains(err.Error(), "no_such_option") {
		t.Errorf("got %v, want Caddy's own words", err)
	}
}
