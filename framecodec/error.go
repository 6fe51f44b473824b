package framecodec

import (
	"errors"
	"strconv"
)

// ErrShort is returned by ParseFrame when the input ends inside a frame. It is
// not a fault: the rest is still to come.
var ErrShort = errors.New("frame is not complete")

// SyntaxError is input that no peer may send. What ends because of it (the
// session, a stream) is the caller's to decide; SPEC.md says which.
type SyntaxError struct {
	Offset int    // in bytes, within the slice that the parse function was given
	What   string // for people; holds nothing of the input
}

// Error returns what is wrong and where.
func (e *SyntaxError) Error() string {
	return e.What + " at byte " + strconv.Itoa(e.Offset)
}

// syntax is apart from its callers so that they stay small and allocate only
// here.
//
//go:noinline
func syntax(offset int, what string) error {
	return &SyntaxError{Offset: offset, What: what}
}
