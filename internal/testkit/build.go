package testkit

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
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

var caddyBuild = sync.OnceValues(func() (string, error) {
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
	fresh, binary := filepath.Join(dir, "caddy.new"), filepath.Join(dir, "caddy")
	cmd := exec.Command("go", "build", "-o", fresh, "./cmd/caddy")
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
})

func sameContent(a, b string) (bool, error) {
	x, err := os.ReadFile(a)
	if err != nil {
		return false, err
	}
	y, err := os.ReadFile(b)
	return bytes.Equal(x, y), err
}
