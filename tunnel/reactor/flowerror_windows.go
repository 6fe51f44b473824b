package reactor

import "golang.org/x/sys/windows"

// What the system says of a connected UDP socket. That nobody listens is a reset
// here.
var (
	peerRefused     = []error{windows.WSAECONNRESET, windows.WSAECONNREFUSED}
	peerUnreachable = []error{windows.WSAEHOSTUNREACH, windows.WSAENETUNREACH, windows.WSAEHOSTDOWN, windows.WSAENETDOWN}
	tooLarge        = []error{windows.WSAEMSGSIZE}
	sendDropped     = []error{windows.WSAEACCES, windows.WSAENOBUFS}
)
