// Command xcaddybuild builds Caddy as xcaddy.json says: the manifest that users
// of xcaddy read is the one that `make build` builds.
//
//	xcaddybuild [-o bin/caddy] xcaddy.json
package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/caddyserver/xcaddy"
)

// readManifest decodes a file in the form of xcaddy's own Builder type. Unknown
// keys are errors. Replacements by a folder (a path that starts with a dot) are
// meant from the folder of the file and become absolute, since xcaddy builds
// elsewhere.
func readManifest(file string) (xcaddy.Builder, error) {
	var b xcaddy.Builder
	text, err := os.ReadFile(file)
	if err != nil {
		return b, err
	}
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(&b); err != nil {
		return b, fmt.Errorf("%s: %w", file, err)
	}
	if d.More() {
		return b, fmt.Errorf("%s: more than one JSON value", file)
	}
	top, err := filepath.Abs(filepath.Dir(file))
	if err != nil {
		return b, err
	}
	for i, r := range b.Replacements {
		if to := string(r.New); strings.HasPrefix(to, ".") {
			b.Replacements[i].New = xcaddy.ReplacementPath(filepath.Join(top, to))
		}
	}
	return b, nil
}
