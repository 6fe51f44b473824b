package testkit

import (
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
)

// ClockCaddyBinary is FaultyCaddyBinary with a wall clock that can be set: a build
// in which time.Now adds what admin_faults_clock.go says. The changed file of the
// standard library is made here from the one that is installed, and is nowhere
// else. All of Caddy is compiled anew for it: minutes, the first time.
func ClockCaddyBinary() (string, error) { return clockBuild() }

var clockBuild = sync.OnceValues(func() (string, error) {
	root, err := Root()
	if err != nil {
		return "", err
	}
	out, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		return "", err
	}
	original := filepath.Join(strings.TrimSpace(string(out)), "src", "time", "time.go")
	text, err := os.ReadFile(original)
	if err != nil {
		return "", err
	}
	const reads = "func Now() Time {\n\tsec, nsec, mono := runtimeNow()\n"
	if strings.Count(string(text), reads) != 1 {
		return "", errors.New("time.Now of this Go is another: ClockCaddyBinary must learn it")
	}
	changed := strings.Replace(string(text), reads, reads+"\tsec += wallJump\n", 1) +
		"\n// wallJump is in seconds. It is written when nothing else is going on.\n//\n//go:linkname wallJump\nvar wallJump int64\n"
	dir := filepath.Join(root, ".cache", "testkit", "clock")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	file, overlay := filepath.Join(dir, "time.go"), filepath.Join(dir, "overlay.json")
	list, err := json.Marshal(map[string]map[string]string{"Replace": {original: file}})
	if err != nil {
		return "", err
	}
	if err := errors.Join(os.WriteFile(file, []byte(changed), 0o600), os.WriteFile(overlay, list, 0o600)); err != nil {
		return "", err
	}
	return build("caddy-clock", "-tags="+faultyTags+",culvert_clock", "-overlay="+overlay)
})
