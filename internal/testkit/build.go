package testkit

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
)

// CaddyBinary returns the path of Caddy with our modules: what the environment
// variable CULVERT_CADDY names (such as bin/caddy of `make build`), else a build
// of cmd/caddy, made once per process from what is in the work tree.
func CaddyBinary() (string, error) {
	if path := os.Getenv("CULVERT_CADDY"); path != "" {
		return path, nil
	}
	return caddyBuild()
}

var caddyBuild = sync.OnceValues(func() (string, error) { return build("caddy") })

// FaultyCaddyBinary is CaddyBinary of a build that panics where it is told to and
// whose clock can be set, for tests (internal/faultpoint).
func FaultyCaddyBinary() (string, error) { return faultyBuild() }

var faultyBuild = sync.OnceValues(func() (string, error) {
	return build("caddy-faulty", "-tags="+faultyTags)
})

// faultyTags are those of the Makefile, and ours.
const faultyTags = "nobadger,nomysql,nopgx,culvert_faults"

// build makes .cache/testkit/name of cmd/caddy.
func build(name string, flags ...string) (string, error) {
	root, err := Root()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(root, ".cache", "testkit")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	// Test packages run at the same time and share the file.
	lock, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return "", err
	}
	defer lock.Close()
	if err := lockFile(lock); err != nil {
		return "", fmt.Errorf("waiting for another build: %w", err)
	}
	fresh, binary := filepath.Join(dir, name+".new"), filepath.Join(dir, name)
	cmd := exec.Command("go", slices.Concat([]string{"build", "-o", fresh}, flags, []string{"./cmd/caddy"})...)
	cmd.Dir = root
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("building cmd/caddy: %w\n%s", err, out)
	}
	// Renamed only when it differs: a running one keeps its file, and an unchanged
	// one keeps its place in the page cache.
	if same, err := sameContent(fresh, binary); err == nil && same {
		return binary, os.Remove(fresh)
	}
	return binary, os.Rename(fresh, binary)
}

func sameContent(a, b string) (bool, error) {
	x, err := os.ReadFile(a)
	if err != nil {
		return false, err
	}
	y, err := os.ReadFile(b)
	return bytes.Equal(x, y), err
}
