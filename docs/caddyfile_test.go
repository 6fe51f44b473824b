package docs_test

import (
	"encoding/json"
	"fmt"
	"os"
	"regexp"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	_ "github.com/caddyserver/caddy/v2/modules/standard"
	_ "github.com/mholt/caddy-l4"

	_ "github.com/culvertgate/culvert"
	_ "github.com/culvertgate/culvert/internal/testkit/jwtauth"
)

// blocks returns the code blocks of a language in all documents, by place.
func blocks(t *testing.T, language string) map[string]string {
	t.Helper()
	found := map[string]string{}
	pattern := regexp.MustCompile("(?s)\n```" + language + "\n(.*?)```")
	for file, text := range documents(t) {
		for i, m := range pattern.FindAllStringSubmatch(text, -1) {
			found[fmt.Sprintf("%s %d", file, i+1)] = m[1]
		}
	}
	return found
}

// TestCaddyfilesAdapt: every Caddyfile in the documents is one that Caddy takes,
// formatted as `caddy fmt` does.
func TestCaddyfilesAdapt(t *testing.T) {
	files := blocks(t, "caddyfile")
	for _, file := range []string{"../Caddyfile.example", "../dist/Caddyfile"} {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		files[file] = string(text)
	}
	if len(files) < 15 {
		t.Errorf("only %d Caddyfiles found: does the pattern still match?", len(files))
	}
	adapter := caddyconfig.GetAdapter("caddyfile")
	for place, text := range files {
		t.Run(place, func(t *testing.T) {
			config, warnings, err := adapter.Adapt([]byte(text), map[string]any{"filename": "Caddyfile"})
			if err != nil {
				t.Fatalf("%v\n%s", err, text)
			}
			for _, w := range warnings {
				t.Errorf("line %d: %s", w.Line, w.Message)
			}
			if !json.Valid(config) {
				t.Errorf("adapted to what is not JSON: %s", config)
			}
			if formatted := string(caddyfile.Format([]byte(text))); formatted != text {
				t.Errorf("not formatted; it should be\n%s", formatted)
			}
		})
	}
}

// TestJSONIsValid: every configuration in JSON passes what `caddy validate` does.
func TestJSONIsValid(t *testing.T) {
	files := blocks(t, "json")
	if len(files) == 0 {
		t.Error("no JSON found: does the pattern still match?")
	}
	for place, text := range files {
		t.Run(place, func(t *testing.T) {
			config := new(caddy.Config)
			if err := caddy.StrictUnmarshalJSON([]byte(text), config); err != nil {
				t.Fatal(err)
			}
			if err := caddy.Validate(config); err != nil {
				t.Error(err)
			}
		})
	}
}
