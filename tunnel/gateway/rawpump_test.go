package gateway

import (
	"net"
	"os"
	"syscall"
	"testing"

	"github.com/culvertgate/culvert/framecodec"
)

// TestBrokenTarget: a reset and a silence have names of their own, as the socket
// reports them.
func TestBrokenTarget(t *testing.T) {
	for errno, want := range map[syscall.Errno]framecodec.Code{
		syscall.ETIMEDOUT:  framecodec.CodeTimeout,
		syscall.ECONNRESET: framecodec.CodeTargetClosed,
		syscall.EPIPE:      framecodec.CodeTargetClosed,
	} {
		err := targetError{&net.OpError{Op: "write", Net: "tcp", Err: os.NewSyscallError("write", errno)}}
		if got := brokenTarget(err); got != want {
			t.Errorf("%v: %s, want %s", errno, got, want)
		}
	}
}
