package testkit

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const modulePath = "github.com/culvertgate/culvert"

// Root returns the top folder of the repository: the nearest folder at or above
// the working directory whose go.mod is ours. Tests run in their package's
// folder, the benchmark at the top.
func Root() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		text, err := os.ReadFile(filepath.Join(dir, "go.mod"))
		if err == nil && strings.HasPrefix(string(text), "module "+modulePath+"\n") {
			return dir, nil
		}
		if up := filepath.Dir(dir); up != dir {
			dir = up
			continue
		}
		return "", errors.New("not inside the repository: no go.mod of " + modulePath + " above the working directory")
	}
}

// cacheDir returns the folder .cache/<parts> of the repository, which holds what
// set-up has fetched and what tests build.
func cacheDir(parts ...string) (string, error) {
	root, err := Root()
	if err != nil {
		return "", err
	}
	return filepath.Join(append([]string{root, ".cache"}, parts...)...), nil
}

// FreeTCP returns a loopback address whose TCP port was free a moment ago.
func FreeTCP(t testing.TB) string {
	t.Helper()
	address, err := freeTCP()
	if err != nil {
		t.Fatal(err)
	}
	return address
}

func freeTCP() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("looking for a free TCP port: %w", err)
	}
	defer l.Close()
	return l.Addr().String(), nil
}

// FreeUDP returns a loopback address whose UDP port was free a moment ago.
func FreeUDP(t testing.TB) string {
	t.Helper()
	c, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatalf("looking for a free UDP port: %v", err)
	}
	defer c.Close()
	return c.LocalAddr().String()
}
