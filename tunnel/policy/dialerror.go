package policy

import (
	"context"
	"errors"
	"net"
	"os"
	"syscall"

	"github.com/culvertgate/culvert/framecodec"
	"github.com/culvertgate/culvert/tunnel"
)

// dialError gives a failed attempt its code: unreachable where nothing better is
// known (no route, filtered, a unix socket that nobody made). Errors that have one already
// (refusals at connect, a full line) keep it.
func dialError(ctx context.Context, err error) error {
	if known, ok := errors.AsType[*tunnel.Error](err); ok {
		return known
	}
	var network net.Error
	code := framecodec.CodeUnreachable
	switch {
	case errors.Is(ctx.Err(), context.Canceled), errors.Is(err, context.Canceled):
		code = framecodec.CodeCancelled
	case ctx.Err() != nil, errors.Is(err, os.ErrDeadlineExceeded), errors.As(err, &network) && network.Timeout():
		code = framecodec.CodeTimeout
	case isRefused(err):
		code = framecodec.CodeRefused
	case errors.Is(err, syscall.EMFILE), errors.Is(err, syscall.ENFILE), errors.Is(err, syscall.ENOBUFS):
		code = framecodec.CodeOverloaded
	}
	return codeError(code, err)
}
