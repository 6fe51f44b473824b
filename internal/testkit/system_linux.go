package testkit

import (
	"errors"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// dieWithParent makes the kernel kill the child when the thread that started it
// ends: the test process was killed, or timed out. Go ends a thread earlier only
// when a goroutine that is locked to it returns.
func dieWithParent() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
}

// enterNetwork moves the calling thread, to which the goroutine is locked, into
// the network namespace of file; leave moves it back and is called once.
func enterNetwork(file string) (leave func() error, err error) {
	outside, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return nil, err
	}
	inside, err := os.Open(file)
	if err != nil {
		return nil, errors.Join(err, outside.Close())
	}
	defer inside.Close()
	if err := unix.Setns(int(inside.Fd()), unix.CLONE_NEWNET); err != nil {
		return nil, errors.Join(err, outside.Close())
	}
	return func() error {
		defer outside.Close()
		return unix.Setns(int(outside.Fd()), unix.CLONE_NEWNET)
	}, nil
}

// lockFile waits for the exclusive lock of f.
func lockFile(f *os.File) error { return unix.Flock(int(f.Fd()), unix.LOCK_EX) }

// lockByte takes the exclusive lock of one byte of f, which may be behind its
// end, until f is closed. It reports false when another open file has it: the
// lock belongs to the open file, not to the process.
func lockByte(f *os.File, at int64) (bool, error) {
	err := unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &unix.Flock_t{Type: unix.F_WRLCK, Start: at, Len: 1})
	if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EACCES) {
		return false, nil
	}
	return err == nil, err
}
