package integration

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddytest"
)

// TestAdapt holds what Caddyfiles become against testdata/adapt: a Caddyfile, a
// line of ten dashes, the JSON.
func TestAdapt(t *testing.T) {
	files, err := filepath.Glob("testdata/adapt/*.caddytest")
	if err != nil || len(files) == 0 {
		t.Fatalf("no golden files: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".caddytest"), func(t *testing.T) {
			raw, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			input, want, ok := strings.Cut(string(raw), "----------\n")
			if !ok {
				t.Fatal("no line of ten dashes")
			}
			if !caddytest.CompareAdapt(t, "Caddyfile", input, "caddyfile", strings.TrimSuffix(want, "\n")) {
				t.Fail()
			}
			checkFormat(t, input)
		})
	}
}

// checkFormat wants a Caddyfile as `caddy fmt` would leave it.
func checkFormat(t *testing.T, input string) {
	t.Helper()
	if got := string(caddyfile.Format([]byte(input))); got != input {
		t.Errorf("caddy fmt would change it to:\n%s", got)
	}
}

func TestExampleFormat(t *testing.T) {
	raw, err := os.ReadFile("../Caddyfile.example")
	if err != nil {
		t.Fatal(err)
	}
	checkFormat(t, string(raw))
}
