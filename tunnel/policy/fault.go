package policy

import (
	"errors"
	"syscall"

	"github.com/culvertgate/culvert/framecodec"
	"github.com/culvertgate/culvert/tunnel"
)

// errNotTried is the outcome of an attempt that came to no end of its own.
var errNotTried = errors.New("not tried to the end")

// hurriedError marks a failure of an attempt that spent its time in line: what
// was left of it says nothing of the target, and who stood in line is for the
// clients to choose.
type hurriedError struct{ err error }

func (e hurriedError) Error() string { return "after waiting in line: " + e.err.Error() }

func (e hurriedError) Unwrap() error { return e.err }

// hurried marks an error if it is a time-out.
func hurried(err error) error {
	if own, ok := errors.AsType[*tunnel.Error](err); ok && own.Code == framecodec.CodeTimeout {
		return codeError(own.Code, hurriedError{own})
	}
	return err
}

// AtFault reports whether an error of Dial, or one that Dialer.Admit's tell is
// told, is the target's doing: it refused, did not answer in its time, cannot be
// reached, or the name of a named target leads to nothing. What clients can bring
// about at will (to cancel, to ask for what they may not have, to queue up), and
// what this process lacks, is not.
func AtFault(err error) bool {
	own, ok := errors.AsType[*tunnel.Error](err)
	if !ok {
		return false
	}
	if _, ok := errors.AsType[hurriedError](err); ok || isShortage(err) {
		return false
	}
	switch own.Code {
	case framecodec.CodeRefused, framecodec.CodeUnreachable, framecodec.CodeTimeout, framecodec.CodeResolveFailed:
		return true
	default:
		return false
	}
}

// isShortage reports whether this machine had no descriptor, port or memory left.
func isShortage(err error) bool {
	for _, e := range []syscall.Errno{syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM, syscall.EADDRNOTAVAIL} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}
