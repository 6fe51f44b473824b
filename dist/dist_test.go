// Package dist_test holds what this folder ships against the program and the
// checkout that it speaks of. Nothing is installed.
package dist_test

import (
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/culvertgate/culvert/internal/testkit"
)

func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// instructions are the lines of a Dockerfile, continued ones as one.
func instructions(t *testing.T) (list [][]string) {
	t.Helper()
	for line := range strings.Lines(strings.ReplaceAll(read(t, "Dockerfile"), "\\\n", " ")) {
		if words := strings.Fields(line); len(words) > 0 && words[0] != "#" {
			list = append(list, words)
		}
	}
	return list
}

// TestDockerfileNamesWhatThereIs: what is copied, what make is asked for, what it
// leaves, and where things are in the image.
func TestDockerfileNamesWhatThereIs(t *testing.T) {
	makefile := read(t, "../Makefile")
	installed := ""
	for _, words := range instructions(t) {
		line := strings.Join(words, " ")
		switch {
		case words[0] == "COPY" && strings.HasPrefix(words[1], "--from=build"):
			inside, found := strings.CutPrefix(words[2], "/src/")
			if !found || !strings.Contains(makefile, "-o "+inside+" ") {
				t.Errorf("%s: `make build` does not leave %s", line, inside)
			}
			installed = words[3]
		case words[0] == "COPY":
			for _, source := range words[1 : len(words)-1] {
				if _, err := os.Stat(filepath.Join("..", filepath.FromSlash(source))); err != nil {
					t.Errorf("%s: %v", line, err)
				}
			}
		case words[0] == "RUN" && words[1] == "make":
			if !strings.Contains(makefile, "\n"+words[2]+": ") {
				t.Errorf("%s: the Makefile has no such target", line)
			}
		case words[0] == "RUN" && words[1] == "setcap" && words[len(words)-1] != installed:
			t.Errorf("%s: Caddy is %s", line, installed)
		}
	}
	if installed != "/usr/bin/caddy" {
		t.Errorf("the image has Caddy as %q, its command looks for it in PATH", installed)
	}
}

// TestDockerfileBuildsWithTheRightGo: an older compiler would fetch another one,
// or fail.
func TestDockerfileBuildsWithTheRightGo(t *testing.T) {
	from := regexp.MustCompile(`(?m)^FROM golang:(\d+\.\d+)-`).FindStringSubmatch(read(t, "Dockerfile"))
	if from == nil {
		t.Fatal("no image of Go")
	}
	for _, file := range []string{"../go.mod", "../tools/go.mod"} {
		wants := regexp.MustCompile(`(?m)^go (\d+\.\d+)`).FindStringSubmatch(read(t, file))
		if wants == nil || wants[1] != from[1] {
			t.Errorf("%s wants Go %q, the image has %s", file, wants, from[1])
		}
	}
}

// TestDockerfilePorts: the tunnels' UDP port is the default of `listen`.
func TestDockerfilePorts(t *testing.T) {
	for _, words := range instructions(t) {
		if words[0] == "EXPOSE" && !slices.Contains(words, "3478/udp") {
			t.Errorf("%s: the UDP port of tunnels is missing", strings.Join(words, " "))
		}
	}
	if !strings.Contains(read(t, "../app_config.go"), `"udp/:3478"`) {
		t.Error("the default of listen is another one now")
	}
}

// commands are the command lines of Caddy in this folder.
func commands(t *testing.T) map[string][]string {
	t.Helper()
	lines := map[string][]string{}
	for _, words := range instructions(t) {
		if words[0] != "CMD" {
			continue
		}
		var args []string
		if err := json.Unmarshal([]byte(strings.Join(words[1:], " ")), &args); err != nil {
			t.Fatalf("CMD is no list: %v", err)
		}
		lines["the image's command"] = args
	}
	for _, m := range regexp.MustCompile(`(?m)^(Exec\w+)=(.*)$`).FindAllStringSubmatch(read(t, "culvert.service"), -1) {
		lines[m[1]] = strings.Fields(m[2])
	}
	return lines
}

// TestCommandsAreUnderstood has the program read every command line of this
// folder, with a configuration of its own in place of the installed one.
func TestCommandsAreUnderstood(t *testing.T) {
	binary, err := testkit.CaddyBinary()
	if err != nil {
		t.Fatal(err)
	}
	lines := commands(t)
	if len(lines) != 3 {
		t.Fatalf("%d command lines, want the image's and two of the unit: %q", len(lines), lines)
	}
	for name, args := range lines {
		if filepath.Base(args[0]) != "caddy" {
			t.Errorf("%s: %q is not Caddy", name, args[0])
		}
		at := slices.Index(args, "--config")
		if at < 0 || args[at+1] != "/etc/caddy/Caddyfile" {
			t.Errorf("%s: no configuration, or not where it is installed: %q", name, args)
			continue
		}
		// The help of a command is printed after its flags were read.
		out, err := exec.Command(binary, append(args[1:], "--help")...).CombinedOutput()
		if err != nil || !strings.Contains(string(out), "caddy "+args[1]+" ") {
			t.Errorf("%s: %q: %v\n%s", name, args, err, out)
		}
	}
	if out, err := exec.Command(binary, "run", "--no-such-flag", "--help").CombinedOutput(); err == nil {
		t.Errorf("a wrong flag is not noticed, so this test proves nothing:\n%s", out)
	}
}

// TestImageCaddyfile: what the image runs with until it is replaced.
func TestImageCaddyfile(t *testing.T) {
	binary, err := testkit.CaddyBinary()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(binary, "validate", "--config", "Caddyfile", "--adapter", "caddyfile")
	cmd.Env = testkit.CaddyEnv(t.TempDir())
	if out, err := cmd.CombinedOutput(); err != nil || strings.Contains(string(out), "not formatted") {
		t.Errorf("%v\n%s", err, out)
	}
}

// TestUnitIsAccepted has systemd read the unit, where there is one, with the
// program where a test may put it. What the unit runs is held against the program
// everywhere.
func TestUnitIsAccepted(t *testing.T) {
	unit := read(t, "culvert.service")
	for _, want := range []string{"Type=notify", "User=caddy", "AmbientCapabilities=CAP_NET_BIND_SERVICE", "WantedBy=multi-user.target"} {
		if !strings.Contains(unit, "\n"+want+"\n") {
			t.Errorf("the unit lacks %s", want)
		}
	}
	analyze, err := exec.LookPath("systemd-analyze")
	if errors.Is(err, exec.ErrNotFound) {
		t.Log("no systemd-analyze here: the unit's syntax was not read by systemd")
		return
	}
	dir := t.TempDir()
	program := filepath.Join(dir, "caddy")
	if err := os.WriteFile(program, []byte("#!/bin/sh\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"culvert.service": unit,
		"wrong.service":   strings.Replace(unit, "TimeoutStopSec=30s", "TimeoutStopSec=soon", 1),
	} {
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, []byte(strings.ReplaceAll(text, "/usr/local/bin/caddy", program)), 0o600); err != nil {
			t.Fatal(err)
		}
		out, err := exec.Command(analyze, "verify", "--man=no", file).CombinedOutput()
		if accepted := err == nil && !strings.Contains(string(out), name); accepted != (name == "culvert.service") {
			t.Errorf("%s: %v\n%s", name, err, out)
		}
	}
}
