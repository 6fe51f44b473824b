package socks5

import "errors"

// ErrNoMethod: the client offered no method that is taken, and has been told so
// (FF). The usual cases are a client that insists on a user name where nobody is
// asked for one, and one that has none where one is.
var ErrNoMethod = errors.New("SOCKS5 client offers no acceptable authentication method")

// Protocol is what a client speaks that is at the wrong port.
type Protocol string

// What the first byte of a connection gives away.
const (
	SOCKS4  Protocol = "SOCKS4"
	HTTP    Protocol = "HTTP"
	TLS     Protocol = "TLS"
	Unknown Protocol = "an unknown protocol"
)

// NotSOCKS5Error: the client speaks something else. Nothing was written to it.
type NotSOCKS5Error struct {
	Protocol Protocol
}

// Error says what the client speaks and what it should.
func (e *NotSOCKS5Error) Error() string {
	return "client speaks " + string(e.Protocol) + ", this is a SOCKS5 port (socks5:// or socks5h://)"
}

// protocolOf guesses by the first byte of a client that is not 5.
func protocolOf(first byte) Protocol {
	switch first {
	case 4:
		return SOCKS4
	case 0x16: // handshake record
		return TLS
	case 'C', 'D', 'G', 'H', 'O', 'P', 'T': // CONNECT, DELETE, GET, HEAD, OPTIONS, POST, TRACE
		return HTTP
	default:
		return Unknown
	}
}

// AuthError: the client has not authenticated itself, and has been told so (RFC
// 1929 section 2).
type AuthError struct {
	// User is the name that was given, if it came to that. It is safe for logs and
	// terminals: what is not printable is escaped as in a Go string, and it has at
	// most 257 characters, with an ellipsis where it was cut.
	User string
	What string // for people; holds nothing of the client's but numbers
}

// Error says who was refused and why, and nothing of the password.
func (e *AuthError) Error() string {
	if e.User == "" {
		return "SOCKS5 authentication refused: " + e.What
	}
	return "SOCKS5 user \"" + e.User + "\" refused: " + e.What
}

// RefusedError: the request cannot be served whatever the policy, and the client
// has been told Reply.
type RefusedError struct {
	Reply Reply
	What  string // for people; holds nothing of the request but numbers
}

// Error says what was refused.
func (e *RefusedError) Error() string { return "SOCKS5 request refused: " + e.What }
