package testkit

import (
	"testing"
	"time"
)

// Eventually calls check until it returns nil, and ends the test with its last
// error when that has not happened within timeout. Checks are 1 ms apart at
// first and 50 ms in the end.
func Eventually(t testing.TB, timeout time.Duration, check func() error) {
	t.Helper()
	if err := WaitFor(timeout, check); err != nil {
		t.Fatalf("not within %v: %v", timeout, err)
	}
}

// WaitFor calls check until it returns nil or timeout is over, and returns the
// last error of check.
func WaitFor(timeout time.Duration, check func() error) error {
	deadline := time.Now().Add(timeout)
	for pause := time.Millisecond; ; pause = min(pause*2, 50*time.Millisecond) {
		err := check()
		if err == nil || time.Now().After(deadline) {
			return err
		}
		time.Sleep(pause)
	}
}
