package tunnel

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"

	"github.com/culvertgate/culvert/framecodec"
)

// Code says why a stream or tunnel ended; see framecodec.Code.
type Code = framecodec.Code

// Error is an end with its code. It matches net.ErrClosed where a connection
// or tunnel was closed, and satisfies net.Error.
type Error struct {
	Code Code
	Text string // for people; may be empty
	Err  error  // cause, may be nil; never sent to the peer
}

// Errorf makes an Error; a %w operand becomes its cause.
func Errorf(code Code, format string, args ...any) *Error {
	wrapped := fmt.Errorf(format, args...)
	return &Error{Code: code, Text: wrapped.Error(), Err: errors.Unwrap(wrapped)}
}

// Error returns the code's token and the text.
func (e *Error) Error() string {
	if e.Text == "" {
		return e.Code.String()
	}
	return e.Code.String() + ": " + e.Text
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Is matches another *Error of the same code without a text, net.ErrClosed for
// ends of the connection or tunnel, and os.ErrDeadlineExceeded for time-outs.
func (e *Error) Is(target error) bool {
	switch target {
	case net.ErrClosed:
		return e.Code == framecodec.CodeNormal || e.Code == framecodec.CodeCancelled ||
			e.Code == framecodec.CodeTunnelClosed || e.Code == framecodec.CodeTunnelLost
	case os.ErrDeadlineExceeded:
		return e.Timeout()
	}
	t, ok := target.(*Error)
	return ok && t.Code == e.Code && t.Text == "" && t.Err == nil
}

// Timeout reports whether the end was a time-out (net.Error).
func (e *Error) Timeout() bool { return e.Code == framecodec.CodeTimeout }

// Temporary reports whether the same may succeed later (net.Error).
func (e *Error) Temporary() bool { return e.Code.Retryable() }

// CodeOf returns the code of an error: the Error's own, Timeout and Cancelled
// for those of a context, Normal for nil, and Internal for anything else.
func CodeOf(err error) Code {
	var e *Error
	switch {
	case err == nil:
		return framecodec.CodeNormal
	case errors.As(err, &e):
		return e.Code
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded):
		return framecodec.CodeTimeout
	case errors.Is(err, context.Canceled):
		return framecodec.CodeCancelled
	default:
		return framecodec.CodeInternal
	}
}
