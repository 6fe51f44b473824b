package docs_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2/caddyconfig"
)

// The names that people meet stand in the README, all of them, and the README
// names nothing that is not there. What the code has is taken from its error
// messages where it lists them, else from its source.

const readme = "../README.md"

// section returns what stands below a heading of a document, up to the next
// heading of the same or a higher level.
func section(t *testing.T, file, heading string) string {
	t.Helper()
	_, rest, ok := strings.Cut(documents(t)[file], "\n"+heading+"\n")
	if !ok {
		t.Fatalf("%s has no heading %q", file, heading)
	}
	level := strings.Count(strings.Fields(heading)[0], "#")
	if end := regexp.MustCompile(`\n#{1,` + strconv.Itoa(level) + `} `).FindStringIndex(rest); end != nil {
		rest = rest[:end[0]]
	}
	return rest
}

// sameNames reports what only one of two sets has.
func sameNames(t *testing.T, what string, code, document map[string]bool) {
	t.Helper()
	if len(code) == 0 {
		t.Errorf("no %s found in the code: does the pattern still match?", what)
	}
	for _, name := range slices.Sorted(maps.Keys(code)) {
		if !document[name] {
			t.Errorf("%s: the README does not have %s", what, name)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(document)) {
		if !code[name] {
			t.Errorf("%s: the README has %s, the code has not", what, name)
		}
	}
}

func matches(pattern, text string) map[string]bool {
	found := map[string]bool{}
	for _, m := range regexp.MustCompile(pattern).FindAllStringSubmatch(text, -1) {
		found[m[1]] = true
	}
	return found
}

// source is the text of the root package's files that a pattern names.
func source(t *testing.T, pattern string) string {
	t.Helper()
	files, err := filepath.Glob("../" + pattern)
	if err != nil {
		t.Fatal(err)
	}
	var all strings.Builder
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		all.Write(text)
	}
	return all.String()
}

// optionPlace is a block of the Caddyfile: a text with the word BOGUS where an
// option may stand, and the README's section about it.
type optionPlace struct{ section, caddyfile string }

var optionPlaces = map[string]optionPlace{
	"webrtc_tunnel": {appSection, "{\n webrtc_tunnel {\n BOGUS\n }\n}"},
	"limits":        {appSection, "{\n webrtc_tunnel {\n limits {\n BOGUS\n }\n }\n}"},
	"timeouts":      {appSection, "{\n webrtc_tunnel {\n timeouts {\n BOGUS\n }\n }\n}"},
	"ice_server":    {appSection, "{\n webrtc_tunnel {\n ice_server turn:x {\n BOGUS\n }\n }\n}"},
	"remote":        {appSection, "{\n webrtc_tunnel {\n remote a https://b/c {\n BOGUS\n }\n }\n}"},

	"the directive":           {endpointSection, ":80 {\n webrtc_tunnel {\n BOGUS\n }\n}"},
	"target":                  {endpointSection, ":80 {\n webrtc_tunnel {\n target a tcp/b:1 {\n BOGUS\n }\n }\n}"},
	"dynamic":                 {endpointSection, ":80 {\n webrtc_tunnel {\n dynamic {\n BOGUS\n }\n }\n}"},
	"dynamic { allow }":       {endpointSection, ":80 {\n webrtc_tunnel {\n dynamic {\n allow tcp/b:1 {\n BOGUS\n }\n }\n }\n}"},
	"limits of the directive": {endpointSection, ":80 {\n webrtc_tunnel {\n limits {\n BOGUS\n }\n }\n}"},

	"the entry": {entrySection, "{\n layer4 {\n :81 {\n route {\n webrtc_tunnel a {\n BOGUS\n }\n }\n }\n }\n}"},
}

const (
	appSection      = "### Global option (the app)"
	endpointSection = "### Endpoint (directive `webrtc_tunnel`)"
	entrySection    = "### Entry (layer4 handler)"
)

// knownOptions asks the Caddyfile adapter what may stand in a place.
func knownOptions(t *testing.T, text string) []string {
	t.Helper()
	_, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(text), map[string]any{"filename": "Caddyfile"})
	if err == nil {
		t.Fatalf("BOGUS was taken for an option:\n%s", text)
	}
	m := regexp.MustCompile(`unrecognized option "BOGUS" in .*, known are: (.*), at `).FindStringSubmatch(err.Error())
	if m == nil {
		t.Fatalf("the error does not list the options: %v", err)
	}
	return strings.Split(m[1], ", ")
}

// TestEveryOptionIsInTheReadme: in the section's example or in its table.
func TestEveryOptionIsInTheReadme(t *testing.T) {
	for name, place := range optionPlaces {
		text := section(t, readme, place.section)
		said := matches(`(?m)^\t+([a-z_0-9]+)`, text)
		for span := range matches("`([^`\n]+)`", fence.ReplaceAllString(text, "")) {
			for word := range strings.FieldsSeq(span) {
				said[word] = true
			}
		}
		for _, option := range knownOptions(t, place.caddyfile) {
			if !said[option] {
				t.Errorf("%s: option %s of %s is not mentioned", place.section, option, name)
			}
		}
	}
}

// TestEveryOptionOfTheReadmeIsThere: what its tables explain can be written.
// (What its examples write is adapted by TestCaddyfilesAdapt.)
func TestEveryOptionOfTheReadmeIsThere(t *testing.T) {
	rows := 0
	for _, heading := range []string{appSection, endpointSection} {
		known := map[string]bool{}
		for _, place := range optionPlaces {
			if place.section == heading {
				for _, option := range knownOptions(t, place.caddyfile) {
					known[option] = true
				}
			}
		}
		for row := range matches("(?m)^\\| `([^`]+)` \\|", section(t, readme, heading)) {
			rows++
			for word := range strings.FieldsSeq(row) {
				if regexp.MustCompile(`^[a-z0-9_]+$`).MatchString(word) && !known[word] {
					t.Errorf("%s: there is no option %s", heading, word)
				}
			}
		}
	}
	if rows < 25 {
		t.Errorf("only %d rows found: does the pattern still match?", rows)
	}
}

// TestMetricsAreInTheReadme compares names and labels.
func TestMetricsAreInTheReadme(t *testing.T) {
	document := map[string]bool{}
	for line := range strings.Lines(section(t, readme, "## Metrics")) {
		if cell, _, ok := strings.Cut(strings.TrimPrefix(line, "| "), " | "); ok && strings.HasPrefix(line, "| `") {
			maps.Copy(document, matches("`([^`]+)`", cell))
		}
	}
	sameNames(t, "metrics", metricsOfTheSource(t), document)
}

// metricsOfTheSource are the names behind metricsPrefix, with the labels that
// follow in calls of desc and counterVec: name{label,label}.
func metricsOfTheSource(t *testing.T) map[string]bool {
	t.Helper()
	names := map[string]bool{}
	files, err := filepath.Glob("../metrics*.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range files {
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		ast.Inspect(file, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.CallExpr:
				if f, ok := n.Fun.(*ast.Ident); ok && (f.Name == "desc" || f.Name == "counterVec") {
					words := literals(n.Args)
					metric := words[0]
					if len(words) > 2 {
						metric += "{" + strings.Join(words[2:], ",") + "}"
					}
					names[metric] = true
				}
			case *ast.BinaryExpr:
				if prefix, ok := n.X.(*ast.Ident); ok && prefix.Name == "metricsPrefix" {
					if words := literals([]ast.Expr{n.Y}); len(words) == 1 {
						names[words[0]] = true
					}
				}
			}
			return true
		})
	}
	return names
}

// literals are the texts among expressions.
func literals(list []ast.Expr) (texts []string) {
	for _, e := range list {
		if literal, ok := e.(*ast.BasicLit); ok && literal.Kind == token.STRING {
			if text, err := strconv.Unquote(literal.Value); err == nil {
				texts = append(texts, text)
			}
		}
	}
	return texts
}

func TestEventsAreInTheReadme(t *testing.T) {
	sentence, _, _ := strings.Cut(section(t, readme, "## Events and logs"), ", with ")
	sameNames(t, "events", matches(`event[A-Z]\w+\s+= "(\w+)"`, source(t, "events.go")), matches("`(\\w+_\\w+)`", sentence))
}

func TestAdminRequestsAreInTheReadme(t *testing.T) {
	code := map[string]bool{}
	routes := regexp.MustCompile(`route\("([^"]+)", map\[string\]caddy\.AdminHandlerFunc\{([^}]*)\}`)
	for _, m := range routes.FindAllStringSubmatch(source(t, "admin.go"), -1) {
		for method := range matches(`http\.Method(\w+)`, m[2]) {
			code[strings.ToUpper(method)+" /webrtc_tunnel"+m[1]] = true
		}
	}
	sameNames(t, "admin requests", code, matches("\\| `([A-Z]+ /webrtc_tunnel[^`?]*)", section(t, readme, "## Admin API")))
}

// TestCommandsAreInTheReadme: each sub-command, each of its options, and the
// environment that they read; and whatever else a document types exists.
func TestCommandsAreInTheReadme(t *testing.T) {
	code, text := source(t, "command*.go"), section(t, readme, "## Command")
	commands := matches(`Use:\s+"([a-z]+) `, code)
	sameNames(t, "commands", commands, matches(`(?m)^caddy webrtc-tunnel ([a-z]+)`, text))
	options := matches(`VarP?\(&[^,]+, "([a-z-]+)"`, code)
	said := matches(`--([a-z][a-z-]+)`, text)
	delete(said, "help") // cobra's
	sameNames(t, "options of commands", options, said)
	sameNames(t, "environment", matches(`Getenv\("(\w+)"\)`, code), matches(`(WEBRTC_TUNNEL_\w+)`, text))

	typed := regexp.MustCompile(`caddy webrtc-tunnel ([a-z]+)([^\n'` + "`" + `]*)`)
	for file, text := range documents(t) {
		for _, m := range typed.FindAllStringSubmatch(text, -1) {
			if !commands[m[1]] {
				t.Errorf("%s: there is no `caddy webrtc-tunnel %s`", file, m[1])
			}
			for option := range matches(` --([a-z][a-z-]+)`, m[2]) {
				if !options[option] && option != "help" {
					t.Errorf("%s: caddy webrtc-tunnel %s has no --%s", file, m[1], option)
				}
			}
		}
	}
}

// TestVersionsAreThoseOfTheModule: what the documents say of versions is what
// go.mod requires.
func TestVersionsAreThoseOfTheModule(t *testing.T) {
	gomod := source(t, "go.mod")
	for pattern, path := range map[string]string{
		`Caddy (v[0-9.]+[0-9])`:       "github.com/caddyserver/caddy/v2",
		`xcaddy build (v[0-9.]+)`:     "github.com/caddyserver/caddy/v2",
		`caddy-l4[ @](v[0-9.]+[0-9])`: "github.com/mholt/caddy-l4",
		`pion/webrtc (v[0-9.]+[0-9])`: "github.com/pion/webrtc/v4",
	} {
		required := matches(regexp.QuoteMeta(path)+` (v[0-9.]+)`, gomod)
		if len(required) != 1 {
			t.Fatalf("go.mod requires %d versions of %s", len(required), path)
		}
		said := 0
		for _, file := range []string{readme, "troubleshooting.md"} {
			for version := range matches(pattern, documents(t)[file]) {
				said++
				if !required[version] {
					t.Errorf("%s: %s is not the version of %s in go.mod", file, version, path)
				}
			}
		}
		if said == 0 {
			t.Errorf("no document says %q: does the pattern still match?", pattern)
		}
	}
}
