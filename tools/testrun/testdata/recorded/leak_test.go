package example

import (
	"runtime"
	"testing"
)

// TestLeaks reports as goleak.VerifyNone does.
func TestLeaks(t *testing.T) {
	stop := make(chan bool)
	go func() { <-stop }()
	runtime.Gosched()
	stack := make([]byte, 1<<16)
	t.Error("found unexpected goroutines:\n[" + string(stack[:runtime.Stack(stack, true)]) + "]")
	close(stop)
}
