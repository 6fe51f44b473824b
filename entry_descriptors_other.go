//go:build !unix

package culvert

import "net"

// descriptorsShort reports whether conn has got one of the last descriptors of the
// process. There is no limit here.
func descriptorsShort(net.Conn) bool { return false }
