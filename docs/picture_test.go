package docs_test

import (
	"cmp"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/culvertgate/culvert"

// TestThePictureIsTrue: each arrow of architecture.md between rooms is an import
// of the code, and each import of the code follows arrows of the picture.
func TestThePictureIsTrue(t *testing.T) {
	picture := blocks(t, "mermaid")["architecture.md 1"]
	arrows := map[string][]string{}
	for line := range strings.Lines(picture) {
		if m := regexp.MustCompile(`^\s*(\w+)(?:\[.*?\])? --> (\w+)(?:\[.*\])?\s*$`).FindStringSubmatch(line); m != nil {
			from, to := roomOf(t, m[1]), roomOf(t, m[2])
			arrows[from] = append(arrows[from], to)
		}
	}
	if len(arrows) < 8 {
		t.Fatalf("only %d rooms have arrows: does the pattern still match?\n%s", len(arrows), picture)
	}
	code := map[string]map[string]bool{}
	for _, room := range rooms(t) {
		code[room] = importsOf(t, room)
	}
	for from, list := range arrows {
		for _, to := range list {
			if !code[from][to] {
				t.Errorf("the picture has %s --> %s, the code does not import that", name(from), name(to))
			}
		}
	}
	for from, list := range code {
		for to := range list {
			if !reaches(arrows, from, to) {
				t.Errorf("%s imports %s, no arrows of the picture lead there", name(from), name(to))
			}
		}
	}
}

// roomOf is the folder, from the module's root, that a word of the picture means.
func roomOf(t *testing.T, word string) string {
	t.Helper()
	switch word {
	case "root":
		return "."
	case "cmd":
		return "cmd/caddy"
	}
	for _, dir := range []string{word, "tunnel/" + word, "internal/" + word} {
		if _, err := os.Stat(filepath.Join("..", filepath.FromSlash(dir))); err == nil {
			return dir
		}
	}
	t.Fatalf("the picture's %s is no folder", word)
	return ""
}

func name(room string) string {
	if room == "." {
		return "the root package"
	}
	return room
}

// rooms are the folders of the product: what the picture is about.
func rooms(t *testing.T) []string {
	t.Helper()
	inner, err := filepath.Glob("../tunnel/*/*.go")
	if err != nil {
		t.Fatal(err)
	}
	list := []string{".", "cmd/caddy", "framecodec", "internal/top", "socks5", "tunnel"}
	for _, file := range inner {
		list = append(list, filepath.ToSlash(strings.TrimPrefix(filepath.Dir(file), ".."+string(filepath.Separator))))
	}
	slices.Sort(list)
	return slices.Compact(list)
}

// importsOf are the rooms that the code of a room imports, tests aside.
func importsOf(t *testing.T, room string) map[string]bool {
	t.Helper()
	files, err := filepath.Glob(filepath.Join("..", filepath.FromSlash(room), "*.go"))
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]bool{}
	for _, path := range files {
		if strings.HasSuffix(path, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ImportsOnly)
		if err != nil {
			t.Fatal(err)
		}
		for _, spec := range file.Imports {
			imported, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				t.Fatal(err)
			}
			if inside, ours := strings.CutPrefix(imported, module); ours {
				found[cmp.Or(strings.TrimPrefix(inside, "/"), ".")] = true
			}
		}
	}
	return found
}

// reaches reports whether arrows lead from one room to another.
func reaches(arrows map[string][]string, from, to string) bool {
	seen := map[string]bool{from: true}
	for queue := []string{from}; len(queue) > 0; queue = queue[1:] {
		for _, next := range arrows[queue[0]] {
			if !seen[next] {
				seen[next] = true
				queue = append(queue, next)
			}
		}
	}
	return seen[to]
}
