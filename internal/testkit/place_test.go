package testkit

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestRootIsFoundFromBelow(t *testing.T) {
	root := must[string](t)(Root())
	if _, err := os.Stat(filepath.Join(root, "internal", "testkit", "place.go")); err != nil {
		t.Error(err)
	}
	t.Chdir(t.TempDir())
	if _, err := Root(); err == nil {
		t.Error("found a repository where there is none")
	}
}

func TestWaitForReturnsTheLastError(t *testing.T) {
	calls := 0
	if err := WaitFor(time.Minute, func() error {
		if calls++; calls < 3 {
			return errors.New("not yet")
		}
		return nil
	}); err != nil || calls != 3 {
		t.Errorf("%v after %d calls", err, calls)
	}
	if err := WaitFor(0, func() error { return errors.New("never") }); err == nil || err.Error() != "never" {
		t.Errorf("got %v, want the check's own error", err)
	}
}

func TestPayloadDependsOnTheSeedAlone(t *testing.T) {
	const n = 100_001
	a, b, c := PayloadHash(7, n), PayloadHash(7, n), PayloadHash(8, n)
	if a != b || a == c {
		t.Errorf("hashes of seeds 7, 7, 8: %s %s %s", a, b, c)
	}
	sum, got, err := Hash(strings.NewReader(string(PayloadBytes(7, n))))
	if err != nil || got != n || sum != a {
		t.Errorf("in memory: %d bytes, %s, %v; want %d, %s", got, sum, err, n, a)
	}
}

func TestSetupInstallsWhatWeRun(t *testing.T) {
	text := must[[]byte](t)(os.ReadFile(filepath.Join(must[string](t)(Root()), "scripts", "setup")))
	for _, want := range []string{"\nwheel_version=" + WheelVersion + "\n", "\npysocks_version=" + PySocksVersion + "\n"} {
		if !strings.Contains(string(text), want) {
			t.Errorf("scripts/setup does not say %q", want)
		}
	}
}
