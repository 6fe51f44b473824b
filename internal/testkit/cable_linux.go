package testkit

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// openTUN makes a network interface in the network of the calling thread that
// lasts as long as the file, which does not wait for packets.
func openTUN(name string) (*os.File, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("/dev/net/tun: %w", err)
	}
	request, err := unix.NewIfreq(name)
	if err == nil {
		request.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, request)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("making interface %s: %w", name, err), unix.Close(fd))
	}
	return os.NewFile(uintptr(fd), name), nil
}

// openWake makes a file that ring makes readable.
func openWake() (*os.File, error) {
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), "wake"), nil
}

func ring(wake *os.File) error {
	_, err := wake.Write(binary.NativeEndian.AppendUint64(nil, 1))
	return err
}

// pump carries packets until stop is called. It polls by itself on a thread of
// its own: the runtime's timers wait in steps of a millisecond.
func (d *cableDirection) pump(from, to *os.File, mtu int) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	in, out := int(from.Fd()), int(to.Fd())
	// File.Fd has made them wait.
	if err := errors.Join(unix.SetNonblock(in, true), unix.SetNonblock(out, true)); err != nil {
		return err
	}
	poll := []unix.PollFd{{Fd: int32(in), Events: unix.POLLIN}, {Fd: int32(d.wake.Fd()), Events: unix.POLLIN}}
	packet := make([]byte, mtu+64)
	write := func(p []byte) error {
		_, err := unix.Write(out, p)
		return err
	}
	for !d.stopped.Load() {
		if err := d.wait(poll); err != nil {
			return err
		}
		d.mu.Lock()
		// A bounded number at once, so that what is due leaves in between.
		for range 64 {
			n, err := unix.Read(in, packet)
			if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR) {
				break
			}
			if err != nil {
				d.mu.Unlock()
				return fmt.Errorf("reading packets: %w", err)
			}
			d.line.enter(d.now(), packet[:n])
		}
		d.line.leave(d.now(), write)
		d.mu.Unlock()
	}
	return nil
}

// wait returns when there is a packet, or one is due, or the wake rings.
func (d *cableDirection) wait(poll []unix.PollFd) error {
	var timeout *unix.Timespec
	d.mu.Lock()
	if due, some := d.line.next(); some {
		ts := unix.NsecToTimespec(int64(max(due-d.now(), 0)))
		timeout = &ts
	}
	d.mu.Unlock()
	if _, err := unix.Ppoll(poll, timeout, nil); err != nil && !errors.Is(err, unix.EINTR) {
		return fmt.Errorf("waiting for packets: %w", err)
	}
	return nil
}
