// Package reference proves that the reference system is a peer of ours: its
// published wheel, unchanged, as the listening side of our gateway
// (listening_test.go) and as the dialling side of our client (dialling_test.go),
// both Caddy processes. They speak dialect 1 (framecodec/SPEC.md section 2).
//
// What the reference does by itself, good or bad, stands in the tests as a
// comment that begins with "The reference"; what is asserted is always what our
// side does with it, and that is all it depends on where the two can differ.
//
// Each test has a network namespace of its own, so that ports are fixed, and a
// fresh wheel: it decays as it leaks.
package reference

import (
	"errors"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

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
