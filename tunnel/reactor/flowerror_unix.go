//go:build !windows

package reactor

import "syscall"

// What the system says of a connected UDP socket.
var (
	peerRefused     = []error{syscall.ECONNREFUSED}
	peerUnreachable = []error{syscall.EHOSTUNREACH, syscall.ENETUNREACH, syscall.EHOSTDOWN, syscall.ENETDOWN, syscall.ENOPROTOOPT}
	tooLarge        = []error{syscall.EMSGSIZE}
	sendDropped     = []error{syscall.EPERM, syscall.EACCES, syscall.ENOBUFS, syscall.ENOMEM}
)
