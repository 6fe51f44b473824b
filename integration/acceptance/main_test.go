// Package acceptance proves what the first issue of Culvert promises to show
// ("Must show"), with real parts only: Caddy processes built from cmd/caddy,
// curl, OpenSSH, firewalls. A test of row n is called TestMustShow<n>...
//
// Each test has a network namespace of its own, so that ports are fixed and
// traffic can be cut, and starts its own gateway and client there (pair_test.go).
// Every exchange of signalling between them passes a tap that remembers its
// secrets; when a test ends, the logs, metrics, events and admin API of its
// processes are searched for them (row 11), whatever the test is about.
//
// Functions that log are no t.Helper: the place of a line is how make test tells
// a log from a complaint.
//
// Tests that measure run one after the other; those that mostly wait for
// time-outs are parallel and run behind them.
package acceptance

import (
	"errors"
	"flag"
	"fmt"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	// The parallel tests wait, they do not compute: all of them at once.
	if err := flag.Set("test.parallel", "16"); err != nil {
		panic(err)
	}
	goleak.VerifyTestMain(m)
}

func must[T any](t testing.TB) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func check(t testing.TB, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

// unchanged reports an error when the value of look changes within d: proof
// that something is at rest.
func unchanged[T comparable](d time.Duration, look func() T) error {
	first := look()
	tick := time.NewTicker(d / 10)
	defer tick.Stop()
	for range 10 {
		<-tick.C
		if now := look(); now != first {
			return fmt.Errorf("went from %v to %v", first, now)
		}
	}
	return nil
}
