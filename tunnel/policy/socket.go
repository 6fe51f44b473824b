package policy

import (
	"os"
	"path/filepath"
)

// sameSocket reports whether two paths are one socket: by name, or by what the
// names lead to (links).
func sameSocket(a, b string) bool {
	if filepath.Clean(a) == filepath.Clean(b) {
		return true
	}
	ai, err := os.Stat(a)
	if err != nil {
		return false
	}
	bi, err := os.Stat(b)
	return err == nil && os.SameFile(ai, bi)
}
