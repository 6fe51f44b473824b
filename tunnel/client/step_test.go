package client

import (
	"crypto/tls"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/culvertgate/culvert/framecodec"
	"github.com/culvertgate/culvert/tunnel"
	"github.com/culvertgate/culvert/tunnel/signal"
)

// TestTemporary holds which failures are waited out, also among several URLs.
func TestTemporary(t *testing.T) {
	t.Parallel()
	answer := func(status int, code tunnel.Code, after time.Duration) error {
		return &StepError{Err: &signal.ResponseError{Status: status, RetryAfter: after, Err: &tunnel.Error{Code: code}}}
	}
	untrusted := &StepError{Err: &tunnel.Error{Code: framecodec.CodeUnreachable, Err: &tls.CertificateVerificationError{Err: errors.New("x")}}}
	refused := &StepError{Err: &tunnel.Error{Code: framecodec.CodeRefused}}
	denied := answer(401, framecodec.CodeUnauthenticated, 0)
	busy := answer(503, framecodec.CodeOverloaded, 7*time.Second)
	ending := answer(503, framecodec.CodeDraining, time.Second)
	all := func(list ...error) error { return fmt.Errorf("all: %w", errors.Join(list...)) }
	for _, tt := range []struct {
		err      error
		want     bool
		replaced bool
		after    time.Duration
	}{
		{untrusted, false, false, 0},
		{denied, false, false, 0},
		{refused, true, false, 0},
		{busy, true, false, 7 * time.Second},
		{ending, true, true, time.Second},
		{all(untrusted, denied), false, false, 0},
		{all(untrusted, refused), true, false, 0},
		{all(refused, ending), true, true, time.Second},
		{all(denied, busy, answer(429, framecodec.CodeTooManyTunnels, time.Second)), true, false, 7 * time.Second},
	} {
		if got := beingReplaced(tt.err); got != tt.replaced {
			t.Errorf("%v: being replaced %v, want %v", tt.err, got, tt.replaced)
		}
		if got, after := temporary(tt.err), retryAfter(tt.err); got != tt.want || after != tt.after {
			t.Errorf("%v: temporary %v after %v, want %v after %v", tt.err, got, after, tt.want, tt.after)
		}
	}
}

// TestStepOfAFailure: what is released may still get further.
func TestStepOfAFailure(t *testing.T) {
	t.Parallel()
	a := &attempt{progress: func(Progress) {}}
	a.enter(StepICE, "")
	a.stop()
	a.enter(StepDTLS, "")
	var e *StepError
	if err := a.finish(errors.New("not done in time")); !errors.As(err, &e) || e.Step != StepICE {
		t.Errorf("failed with %v, want the step ice", err)
	}
}

// TestHintOfALimit: who meets a limit is told which one, and what helps.
func TestHintOfALimit(t *testing.T) {
	t.Parallel()
	for code, want := range map[tunnel.Code][]string{
		framecodec.CodeTooManyTunnels:    {"tunnels_per_identity", "handshakes_per_client", "end one", "operator"},
		framecodec.CodeOverloaded:        {"limits tunnels", "handshakes", "operator"},
		framecodec.CodeOutOfMemoryBudget: {"limits memory", "memory_per_identity", "operator"},
		framecodec.CodeDraining:          {"again"},
		framecodec.CodeInternal:          {"log"},
	} {
		err := newStepError(StepSignal, "https://gw.example", &signal.ResponseError{Status: 429, Err: &tunnel.Error{Code: code}})
		for _, part := range want {
			if !strings.Contains(err.Error(), part) {
				t.Errorf("%v: %q lacks %q", code, err.Hint, part)
			}
		}
	}
}
