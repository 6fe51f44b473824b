package acceptance

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/culvertgate/culvert/internal/testkit"
)

// TestMustShow1MakeRun is what README tells a new user to do, word by word: `make
// run` in the checkout, the two commands when it says so, Ctrl-C. It is not
// parallel: it may have to compile.
func TestMustShow1MakeRun(t *testing.T) {
	testkit.NeedCommands(t, "make", "curl")
	n := testkit.NewNamespace(t)
	run := startMakeRun(t, n)
	testkit.Eventually(t, 5*time.Minute, func() error {
		if err := run.over(); err != nil {
			return nil //nolint:nilerr // told below
		}
		if text := run.output(); !strings.Contains(text, "== Culvert runs") {
			return fmt.Errorf("no announcement:\n%s", text)
		}
		return nil
	})
	if err := run.over(); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{curlSOCKS, curlNamed} {
		command := "curl " + strings.Join(args, " ")
		if !strings.Contains(run.output(), "   "+command+" ") {
			t.Errorf("the announcement does not name %q", command)
		}
		if f := curl(t, n, args); f.exit != 0 || f.Status != 200 || f.Body == 0 {
			t.Errorf("%s: %+v", command, f)
		}
	}
	check(t, syscall.Kill(-run.cmd.Process.Pid, syscall.SIGINT)) // as a terminal does: to all of them
	select {
	case <-run.ended:
	case <-time.After(patience):
		t.Fatalf("it does not end after Ctrl-C:\n%s", run.output())
	}
	// make itself ends by the signal; Caddy says how it has ended.
	if !run.saidExit(0) {
		t.Errorf("Caddy has not ended well:\n%s", run.output())
	}
	for _, port := range []int{1080, 8022, 8080, 8081} {
		if c, err := dialIn(n, port); err == nil {
			_ = c.Close()
			t.Errorf("port %d is still served", port)
		}
	}
}

// makeRun is a running `make run`, a process group of its own.
type makeRun struct {
	cmd   *exec.Cmd
	ended chan struct{} // closed when nobody has its output any more: all are gone

	mu   sync.Mutex
	text bytes.Buffer // guarded by mu
}

func startMakeRun(t *testing.T, n *testkit.Namespace) *makeRun {
	t.Helper()
	r := &makeRun{cmd: n.Command("make", "run"), ended: make(chan struct{})}
	r.cmd.Dir = must[string](t)(testkit.Root())
	r.cmd.Env = makeEnv(t)
	r.cmd.Stdout, r.cmd.Stderr = r, r
	r.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	check(t, r.cmd.Start())
	go func() {
		defer close(r.ended)
		_ = r.cmd.Wait() // over reads its outcome
	}()
	t.Cleanup(func() {
		_ = syscall.Kill(-r.cmd.Process.Pid, syscall.SIGKILL) // they may be over
		<-r.ended
	})
	return r
}

// makeEnv is our environment as a new terminal would have it: without what a
// `make test` around us says to its children, and with Caddy's own folders
// elsewhere. Go keeps its own: another cache would mean minutes of compiling.
func makeEnv(t *testing.T) []string {
	t.Helper()
	env := slices.DeleteFunc(testkit.CaddyEnv(t.TempDir()), func(s string) bool {
		name, _, _ := strings.Cut(s, "=")
		return slices.Contains([]string{"MAKEFLAGS", "MFLAGS", "MAKELEVEL", "MAKEOVERRIDES", "RUN", "PKG"}, name)
	})
	var settings map[string]string
	out, err := exec.Command("go", "env", "-json", "GOCACHE", "GOMODCACHE", "GOPATH", "GOENV", "GOFLAGS").Output()
	check(t, err, json.Unmarshal(out, &settings))
	for name, value := range settings {
		env = append(env, name+"="+value)
	}
	return env
}

// Write takes what make and its children say.
func (r *makeRun) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.text.Write(p)
}

func (r *makeRun) output() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.text.String()
}

// over returns an error when it has ended.
func (r *makeRun) over() error {
	select {
	case <-r.ended:
		return fmt.Errorf("make run has ended: %s\n%s", r.cmd.ProcessState, r.output())
	default:
		return nil
	}
}

// saidExit reports whether Caddy's last words are of an end with this code.
func (r *makeRun) saidExit(code int) bool {
	for line := range strings.Lines(r.output()) {
		plain := strings.ReplaceAll(line, " ", "") // a console's log has spaces there
		if strings.Contains(line, "shutdown complete") && strings.Contains(plain, fmt.Sprintf(`"exit_code":%d}`, code)) {
			return true
		}
	}
	return false
}

// TestMakeRunBuildsWhatWeTest: without this the test above could run another
// program than the rest of these tests.
func TestMakeRunBuildsWhatWeTest(t *testing.T) {
	text := string(must[[]byte](t)(os.ReadFile(filepath.Join(must[string](t)(testkit.Root()), "Makefile"))))
	for _, want := range []string{"go build -o bin/caddy-dev ./cmd/caddy", "exec bin/caddy-dev run --config Caddyfile.example"} {
		if !strings.Contains(text, want) {
			t.Errorf("the Makefile lacks %q", want)
		}
	}
}
