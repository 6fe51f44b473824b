//go:build unix

package culvert

import "golang.org/x/sys/unix"

// restrictUmask keeps a socket that is about to be made from others, also in the
// moment before its mode is set. The umask is that of the process: a command has
// nothing else that makes files.
func restrictUmask() (restore func()) {
	old := unix.Umask(0o177)
	return func() { unix.Umask(old) }
}
