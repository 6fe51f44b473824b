package reactor

import (
	"net"

	"github.com/culvertgate/culvert/framecodec"
)

const codeInternal = framecodec.CodeInternal

// maxWraps bounds the walk through wrapped connections: a conn that returns
// itself must not hang us.
const maxWraps = 16

type writeCloser interface{ CloseWrite() error }

// inner returns what c wraps, or nil. NetConn is crypto/tls's name for it,
// Unwrap that of other wrappers.
func inner(c net.Conn) net.Conn {
	switch w := c.(type) {
	case interface{ NetConn() net.Conn }:
		return w.NetConn()
	case interface{ Unwrap() net.Conn }:
		return w.Unwrap()
	}
	return nil
}

// writeEnd returns the outermost layer of c that can end one direction: TLS
// must say close_notify before TCP says FIN. Nil: only closing ends it.
func writeEnd(c net.Conn) writeCloser {
	for range maxWraps {
		if w, ok := c.(writeCloser); ok {
			return w
		}
		if c = inner(c); c == nil {
			break
		}
	}
	return nil
}

// reset ends the innermost layer of c, a TCP connection with a RST, so that no
// layer above can say a clean goodbye. It does not block.
func reset(c net.Conn) {
	for range maxWraps {
		next := inner(c)
		if next == nil {
			break
		}
		c = next
	}
	if l, ok := c.(interface{ SetLinger(sec int) error }); ok {
		_ = l.SetLinger(0) // fails only on a dead socket
	}
	_ = c.Close()
}
