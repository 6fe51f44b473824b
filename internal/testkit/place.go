package testkit

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
)

const modulePath = "github.com/culvertgate/culvert"

// Root returns the top folder of the repository: the nearest folder at or above
// the working directory whose go.mod is ours. Tests run in their package's
// folder, the benchmark at the top.
func Root() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		text, err := os.ReadFile(filepath.Join(dir, "go.mod"))
		if err == nil && strings.HasPrefix(string(text), "module "+modulePath+"\n") {
			return dir, nil
		}
		if up := filepath.Dir(dir); up != dir {
			dir = up
			continue
		}
		return "", errors.New("not inside the repository: no go.mod of " + modulePath + " above the working directory")
	}
}

// cacheDir returns the folder .cache/<parts> of the repository, which holds what
// set-up has fetched and what tests build.
func cacheDir(parts ...string) (string, error) {
	root, err := Root()
	if err != nil {
		return "", err
	}
	return filepath.Join(append([]string{root, ".cache"}, parts...)...), nil
}
