package testkit

import (
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
)

// Missing ends a test whose part cannot be had on this machine: it skips the
// test and says what to do, or fails it in CI (environment variable CI), where
// every part is expected.
func Missing(t testing.TB, part, cure string) {
	t.Helper()
	if os.Getenv("CI") != "" {
		t.Fatalf("missing in CI: %s (%s)", part, cure)
	}
	t.Skipf("missing: %s (%s)", part, cure)
}

// NeedCommands ends the test with Missing unless all the programs are there.
func NeedCommands(t testing.TB, names ...string) {
	t.Helper()
	var absent []string
	for _, name := range names {
		if _, err := lookCommand(name); err != nil {
			absent = append(absent, name)
		}
	}
	if len(absent) > 0 {
		Missing(t, strings.Join(absent, ", "), "make setup installs it")
	}
}

// lookCommand finds a program also where only root's PATH leads.
func lookCommand(name string) (string, error) {
	path, err := exec.LookPath(name)
	if err == nil {
		return path, nil
	}
	for _, dir := range []string{"/usr/sbin/", "/sbin/"} {
		if found, e := exec.LookPath(dir + name); e == nil {
			return found, nil
		}
	}
	return "", err
}

// NeedNamespaces ends the test with Missing unless this process may make
// network namespaces and set firewall rules in them.
func NeedNamespaces(t testing.TB) {
	t.Helper()
	NeedCommands(t, "ip", "nft")
	if err := namespacesPermitted(); err != nil {
		Missing(t, "permission to make network namespaces: "+err.Error(), "run as root")
	}
}

// namespacesPermitted tries it once per process.
var namespacesPermitted = sync.OnceValue(func() error {
	n, err := OpenNamespace()
	if err != nil {
		return err
	}
	return n.Close()
})
