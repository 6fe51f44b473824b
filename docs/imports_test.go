package docs_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"go/parser"
	"go/token"
	"io"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// below is what each room may depend on of ours, through others too. Imports
// point inwards: the list is that of design and of .golangci.yml, whose linter
// sees what a file imports and not what that brings with it.
var below = map[string][]string{
	"framecodec":     {},
	"socks5":         {},
	"tunnel":         {"framecodec", "internal/faultpoint"},
	"tunnel/udp":     {"framecodec", "tunnel", "internal/faultpoint"},
	"tunnel/reactor": {"framecodec", "tunnel", "internal/faultpoint"},
	"tunnel/policy":  {"framecodec", "tunnel", "internal/faultpoint"},
	"tunnel/rtc":     {"framecodec", "tunnel", "internal/faultpoint", "tunnel/udp"},
	"tunnel/signal":  {"framecodec", "tunnel", "internal/faultpoint", "tunnel/udp", "tunnel/rtc"},
	"tunnel/gateway": {"framecodec", "tunnel", "internal/faultpoint", "tunnel/udp", "tunnel/rtc", "tunnel/reactor", "tunnel/policy", "tunnel/signal"},
	"tunnel/client":  {"framecodec", "tunnel", "internal/faultpoint", "tunnel/udp", "tunnel/rtc", "tunnel/reactor", "tunnel/policy", "tunnel/signal"},
	".": {"framecodec", "socks5", "tunnel", "internal/faultpoint", "tunnel/udp", "tunnel/rtc", "tunnel/reactor", "tunnel/policy", "tunnel/signal",
		"tunnel/gateway", "tunnel/client", "internal/top"},
	"internal/top": {"framecodec"},
	"cmd/caddy": {".", "internal/top", "framecodec", "socks5", "tunnel", "internal/faultpoint", "tunnel/udp", "tunnel/rtc", "tunnel/reactor", "tunnel/policy",
		"tunnel/signal", "tunnel/gateway", "tunnel/client"},
}

// strangers are what a room must not have of others': modules by the beginning
// of their path. Its tests neither, where it says so.
var strangers = []struct {
	rooms func(room string) bool
	deny  []string
	tests bool
}{
	{func(room string) bool { return room != "." && room != "cmd/caddy" },
		[]string{"github.com/caddyserver", "github.com/mholt/caddy-l4", "github.com/spf13/cobra"}, true},
	{func(room string) bool { return room == "tunnel" }, []string{"github.com/pion", "go.uber.org/zap"}, false},
	{func(room string) bool { return room == "tunnel/policy" || room == "tunnel/reactor" }, []string{"github.com/pion"}, false},
	{func(string) bool { return true }, []string{module + "/internal/testkit", "testing"}, false},
}

// standardOnly have nothing but the standard library below them.
var standardOnly = []string{"framecodec", "socks5"}

func TestImportsPointInwards(t *testing.T) {
	if len(rooms(t)) != len(below) {
		t.Errorf("the rooms are %q, the table has %d", rooms(t), len(below))
	}
	for _, room := range rooms(t) {
		allowed, known := below[room]
		if !known {
			t.Errorf("%s is not in the table", name(room))
			continue
		}
		for path, pkg := range dependencies(t, room, false) {
			inside, ours := strings.CutPrefix(path+"/", module+"/")
			inside = strings.TrimSuffix(inside, "/")
			if inside == "" {
				inside = "."
			}
			switch {
			case ours && inside != room && !slices.Contains(allowed, inside) && !strings.HasPrefix(inside, "internal/"):
				t.Errorf("%s depends on %s", name(room), name(inside))
			case !ours && !pkg.Standard && slices.Contains(standardOnly, room):
				t.Errorf("%s depends on %s", name(room), path)
			}
		}
		for _, s := range strangers {
			if s.rooms(room) {
				denied(t, room, dependencies(t, room, s.tests), s.deny)
			}
		}
	}
}

// TestTheRulesSeeSomething: rules that nothing could break prove nothing.
func TestTheRulesSeeSomething(t *testing.T) {
	root := dependencies(t, ".", false)
	for _, path := range []string{"github.com/caddyserver/caddy/v2", "github.com/mholt/caddy-l4/layer4", "github.com/spf13/cobra",
		"github.com/pion/webrtc/v4", "go.uber.org/zap", module + "/socks5"} {
		if _, ok := root[path]; !ok {
			t.Errorf("the root package does not depend on %s: is the list read well?", path)
		}
	}
	if root["net/http"].Standard != true || root["go.uber.org/zap"].Standard {
		t.Error("the standard library is not told from the rest")
	}
}

func denied(t *testing.T, room string, found map[string]listed, deny []string) {
	t.Helper()
	for path := range found {
		for _, d := range deny {
			if path == d || strings.HasPrefix(path, d+"/") {
				t.Errorf("%s depends on %s", name(room), path)
			}
		}
	}
}

// listed is what `go list` says of a package.
type listed struct {
	ImportPath string
	Standard   bool
}

// dependencies are all packages that a room is built from, as far as this
// system's files go, and the direct imports of its files for others.
func dependencies(t *testing.T, room string, tests bool) map[string]listed {
	t.Helper()
	args := []string{"list", "-deps", "-json=ImportPath,Standard"}
	if tests {
		args = append(args, "-test")
	}
	cmd := exec.Command("go", append(args, "./"+room)...)
	cmd.Dir = ".."
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list ./%s: %v", room, err)
	}
	found := map[string]listed{}
	for decoder := json.NewDecoder(bytes.NewReader(out)); ; {
		var pkg listed
		if err := decoder.Decode(&pkg); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		pkg.ImportPath, _, _ = strings.Cut(pkg.ImportPath, " ") // "x [y.test]" is x, built for a test
		found[pkg.ImportPath] = pkg
	}
	for _, path := range direct(t, room, tests) {
		if _, ok := found[path]; !ok {
			first, _, _ := strings.Cut(path, "/")
			found[path] = listed{path, !strings.Contains(first, ".")}
		}
	}
	return found
}

// direct are the imports of a room's files, whatever system they are for.
func direct(t *testing.T, room string, tests bool) (paths []string) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join("..", filepath.FromSlash(room), "*.go"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		if !tests && strings.HasSuffix(file, "_test.go") {
			continue
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ImportsOnly)
		if err != nil {
			t.Fatal(err)
		}
		for _, spec := range parsed.Imports {
			path, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				t.Fatal(err)
			}
			paths = append(paths, path)
		}
	}
	return paths
}
