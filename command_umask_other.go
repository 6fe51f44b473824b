//go:build !unix

package culvert

// restrictUmask does nothing where there is no umask.
func restrictUmask() (restore func()) { return func() {} }
