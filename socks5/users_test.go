package socks5

import (
	"bytes"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"slices"
	"strings"
	"testing"
)

func newUsers(t *testing.T, passwords map[string]string) *Users {
	t.Helper()
	u, err := NewUsers(passwords)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

func TestUsers(t *testing.T) {
	longest := strings.Repeat("x", 255)
	passwords := map[string]string{
		"alice":  "secret",
		"bob":    "Secret",
		"ab":     "c",
		"same":   "same",
		"twin":   "secret", // of alice
		"\x00":   "\x00",
		"bücher": "größe",
		longest:  longest,
	}
	u := newUsers(t, passwords)
	for user, password := range passwords {
		if !u.Check(user, password) {
			t.Errorf("%q does not come in", user)
		}
		for _, other := range []string{"", password[1:], password + "\x00", password + password, strings.ToUpper(password) + "!", user + password, "\x00" + password} {
			if u.Check(user, other) {
				t.Errorf("%q comes in with %q", user, other)
			}
		}
		for _, other := range []string{"", user + "\x00", "\x00" + user + "x", strings.ToUpper(user) + "x", user + user} {
			if u.Check(other, password) {
				t.Errorf("%q comes in with the password of %q", other, user)
			}
		}
	}
	for user, password := range map[string]string{
		"a":            "bc", // ab, c
		"abc":          "",
		"":             "abc",
		"bob":          "secret", // alice's
		"secret":       "alice",
		longest + "x":  longest[1:],
		longest[:254]:  "x" + longest,
		"nobody":       "nothing",
		"alicesecret":  "",
		"alice\x00":    "secret",
		"alice:secret": "alice:secret",
	} {
		if u.Check(user, password) {
			t.Errorf("%q comes in with %q", user, password)
		}
	}
}

func TestUsersOfNobody(t *testing.T) {
	for name, u := range map[string]*Users{
		"zero value": new(Users),
		"nil map":    newUsers(t, nil),
		"empty map":  newUsers(t, map[string]string{}),
	} {
		for _, user := range []string{"", "alice"} {
			if u.Check(user, user) {
				t.Errorf("%s: %q comes in", name, user)
			}
		}
	}
}

func TestNewUsersRefuses(t *testing.T) {
	long := strings.Repeat("hunter2 ", 32)
	for _, tc := range []struct {
		name           string
		user, password string
		want           string // part of the error
	}{
		{"empty name", "", "hunter2", `user "": a name`},
		{"long name", long, "hunter2", "this one 256"},
		{"empty password", "alice", "", `user "alice": a password`},
		{"long password", "alice", long, `user "alice": a password`},
		{"unsafe name", "a\nb", "", `user "a\nb": a password`},
	} {
		u, err := NewUsers(map[string]string{"good": "hunter2", tc.user: tc.password})
		if u != nil || err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v, %v; want %q", tc.name, u, err, tc.want)
		}
		if err != nil && tc.user != long && strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: the error %q holds a password", tc.name, err)
		}
	}
}

// The table holds neither names nor passwords, nor digests that could be looked
// up in another's table.
func TestUsersKeepsDigestsOfItsOwn(t *testing.T) {
	passwords := map[string]string{"alice": "secret"}
	a, b := newUsers(t, passwords), newUsers(t, passwords)
	if a.key == b.key || a.key == [32]byte{} {
		t.Error("the key is not random")
	}
	if len(a.credentials) != 1 || bytes.Equal(a.credentials[0][:], b.credentials[0][:]) {
		t.Error("two tables have the same digest")
	}
	b.key = a.key
	if b.Check("alice", "secret") {
		t.Error("a table works with the key of another")
	}
	delete(passwords, "alice")
	if !a.Check("alice", "secret") {
		t.Error("the table changes with the map")
	}
}

// How long a check takes may not depend on its outcome. Time is not measured, as
// that would need a quiet machine; the source is read instead: no branch, no
// lookup, no early end, and no comparison but the constant one and that of the
// last line.
func TestUsersCheckHasNoBranches(t *testing.T) {
	file, err := parser.ParseFile(token.NewFileSet(), "users.go", nil, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	calls := map[string][]string{ // all that each function may call, so that nothing hides in another
		"Check":  {"subtle.ConstantTimeCompare", "u.digest"},
		"digest": {"[]byte", "binary.BigEndian.PutUint64", "hmac.New", "len", "mac.Sum", "mac.Write", "uint64"},
	}
	loops := map[string]int{"Check": 1, "digest": 0}
	for _, d := range file.Decls {
		f, ok := d.(*ast.FuncDecl)
		if !ok || calls[f.Name.Name] == nil {
			continue
		}
		name, last := f.Name.Name, f.Body.List[len(f.Body.List)-1]
		called, looped := map[string]bool{}, 0
		ast.Inspect(f.Body, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.IfStmt, *ast.SwitchStmt, *ast.TypeSwitchStmt, *ast.SelectStmt, *ast.BranchStmt, *ast.ForStmt, *ast.DeferStmt, *ast.GoStmt, *ast.FuncLit:
				t.Errorf("%s has a %T", name, n)
			case *ast.RangeStmt:
				looped++
				if source(n.X) != "u.credentials" {
					t.Errorf("%s goes over %s", name, source(n.X))
				}
			case *ast.ReturnStmt:
				if ast.Stmt(n) != last {
					t.Errorf("%s returns early", name)
				}
				return false // found == 1, of which the caller is told anyway
			case *ast.BinaryExpr:
				t.Errorf("%s calculates with %s", name, n.Op)
			case *ast.IndexExpr:
				if source(n) != "u.credentials[i]" {
					t.Errorf("%s looks up %s", name, source(n))
				}
			case *ast.CallExpr:
				called[source(n.Fun)] = true
			}
			return true
		})
		if got := slices.Sorted(maps.Keys(called)); !slices.Equal(got, calls[name]) {
			t.Errorf("%s calls %q, want %q", name, got, calls[name])
		}
		if looped != loops[name] {
			t.Errorf("%s has %d loops", name, looped)
		}
		delete(calls, name)
	}
	if len(calls) > 0 {
		t.Errorf("not found: %v", slices.Collect(maps.Keys(calls)))
	}
}

// source writes the simple expressions that the functions above consist of.
func source(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.Ident:
		return e.Name
	case *ast.SelectorExpr:
		return source(e.X) + "." + e.Sel.Name
	case *ast.IndexExpr:
		return source(e.X) + "[" + source(e.Index) + "]"
	case *ast.ArrayType:
		return "[]" + source(e.Elt)
	default:
		return "something else"
	}
}
