package testkit

import (
	"os"
	"path/filepath"
	"testing"
)

// PySocksVersion is the release of PySocks on PyPI that set-up installs.
const PySocksVersion = "1.7.1"

// NeedPySocks returns the Python interpreter that has the module socks.
func NeedPySocks(t testing.TB) (python string) {
	t.Helper()
	return filepath.Join(needPeer(t, "PySocks "+PySocksVersion, "pysocks-"+PySocksVersion), "bin", "python")
}

// NeedNPMSocks returns the folder of modules, for NODE_PATH, that has npm's
// package socks.
func NeedNPMSocks(t testing.TB) (modules string) {
	t.Helper()
	NeedCommands(t, "node")
	return filepath.Join(needPeer(t, "npm's package socks", "npmsocks"), "node_modules")
}

// needPeer returns the folder of what set-up has installed completely.
func needPeer(t testing.TB, what, folder string) string {
	t.Helper()
	dir, err := cacheDir("peers", folder)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "complete")); err != nil {
		Missing(t, what, "make setup installs it")
	}
	return dir
}
