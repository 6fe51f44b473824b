//go:build !linux

package testkit

import (
	"errors"
	"os"
	"syscall"
)

func dieWithParent() *syscall.SysProcAttr { return nil }

func enterNetwork(string) (func() error, error) { return nil, errors.ErrUnsupported }

// lockFile does nothing: packages that share a file are only tested at the same
// time on Linux.
func lockFile(*os.File) error { return nil }

// lockByte does nothing: see lockFile.
func lockByte(*os.File, int64) (bool, error) { return true, nil }

func openTUN(string) (*os.File, error) { return nil, errors.ErrUnsupported }

func openWake() (*os.File, error) { return nil, errors.ErrUnsupported }

func ring(*os.File) error { return errors.ErrUnsupported }

func (*cableDirection) pump(_, _ *os.File, _ int) error { return errors.ErrUnsupported }
