//go:build !linux

package udp

// The settings that bound what a socket may ask for.
const (
	readSetting  = "the system's limit for socket buffers (sysctl kern.ipc.maxsockbuf)"
	writeSetting = readSetting
)
