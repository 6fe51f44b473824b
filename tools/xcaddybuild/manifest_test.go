package main

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/mod/modfile"
)

const top = "../.."

// pinned returns the versions that our go.mod requires.
func pinned(t *testing.T) (string, map[string]string) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(top, "go.mod"))
	if err != nil {
		t.Fatal(err)
	}
	f, err := modfile.Parse("go.mod", text, nil)
	if err != nil {
		t.Fatal(err)
	}
	versions := map[string]string{}
	for _, r := range f.Require {
		versions[r.Mod.Path] = r.Mod.Version
	}
	return f.Module.Mod.Path, versions
}

func TestManifestAgreesWithGoMod(t *testing.T) {
	b, err := readManifest(filepath.Join(top, "xcaddy.json"))
	if err != nil {
		t.Fatal(err)
	}
	us, versions := pinned(t)
	if want := versions["github.com/caddyserver/caddy/v2"]; b.CaddyVersion != want {
		t.Errorf("xcaddy.json builds Caddy %s, go.mod requires %s", b.CaddyVersion, want)
	}
	found := false
	for _, p := range b.Plugins {
		if p.PackagePath == us {
			found = true
			continue
		}
		if want := versions[p.PackagePath]; p.Version != want {
			t.Errorf("xcaddy.json: %s %s, go.mod requires %q", p.PackagePath, p.Version, want)
		}
	}
	if !found {
		t.Errorf("xcaddy.json does not build %s", us)
	}
}

func TestManifestReplacesUsByTheCheckout(t *testing.T) {
	b, err := readManifest(filepath.Join(top, "xcaddy.json"))
	if err != nil {
		t.Fatal(err)
	}
	want, err := filepath.Abs(top)
	if err != nil {
		t.Fatal(err)
	}
	us, _ := pinned(t)
	if len(b.Replacements) != 1 || string(b.Replacements[0].Old) != us+"@v0.0.0" || string(b.Replacements[0].New) != want {
		t.Errorf("replacements %v, want %s by %s", b.Replacements, us, want)
	}
}

func TestManifestIsReadStrictly(t *testing.T) {
	for name, text := range map[string]string{
		"unknown key": `{"caddy_version": "v2.0.0", "plugin": []}`,
		"two values":  `{} {}`,
		"not JSON":    `caddy_version: v2`,
	} {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "xcaddy.json")
			if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			if _, err := readManifest(file); err == nil {
				t.Error("accepted")
			}
		})
	}
}
