package docs_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// proof is a test that security.md names: folder.TestName or
// folder.TestName/row, the folder empty for the module's root.
var proof = regexp.MustCompile("`([a-z0-9/]*)\\.(Test[A-Za-z0-9_]+)(?:/([^`]+))?`")

// TestSecurityRulesHaveTheirTests: each rule of security.md names tests, and
// those exist, down to the row of a table.
func TestSecurityRulesHaveTheirTests(t *testing.T) {
	rules := 0
	for line := range strings.Lines(documents(t)["security.md"]) {
		if !strings.HasPrefix(line, "| ") || strings.HasPrefix(line, "| rule |") {
			continue
		}
		rules++
		cells := strings.Split(strings.Trim(line, "| \n"), " | ")
		named := proof.FindAllStringSubmatch(cells[len(cells)-1], -1)
		if len(cells) != 2 || len(named) == 0 || strings.Count(cells[1], "`") != 2*len(named) {
			t.Errorf("no tests, or something that is none: %s", line)
		}
		for _, m := range named {
			found := testsIn(t, filepath.Join("..", filepath.FromSlash(m[1])))
			switch {
			case !found.functions[m[2]]:
				t.Errorf("there is no %s in %s", m[2], m[1])
			case m[3] != "" && !found.texts[m[3]]:
				t.Errorf("%s of %s has no row %q", m[2], m[1], m[3])
			}
		}
	}
	if rules < 40 {
		t.Errorf("security.md has only %d rules", rules)
	}
}

// found is what the test files of a folder have: test functions, and texts, of
// which some name rows.
type found struct{ functions, texts map[string]bool }

var parsed = map[string]found{}

func testsIn(t *testing.T, dir string) found {
	t.Helper()
	if f, ok := parsed[dir]; ok {
		return f
	}
	f := found{map[string]bool{}, map[string]bool{}}
	parsed[dir] = f
	files, err := filepath.Glob(filepath.Join(dir, "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range files {
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(file, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.FuncDecl:
				f.functions[n.Name.Name] = n.Recv == nil
			case *ast.BasicLit:
				if text, err := strconv.Unquote(n.Value); err == nil && n.Kind == token.STRING {
					f.texts[text] = true
				}
			}
			return true
		})
	}
	return f
}
