// Package socks5 is the server's side of SOCKS version 5 (RFC 1928), with user
// names and passwords (RFC 1929), as a pure protocol: it reads what a client asks
// for and writes what it is told. It neither listens nor dials, starts no
// goroutine and sets no deadline.
//
// The conversation, with what each side waits for:
//
//	client                                server
//	version, methods            ->
//	                            <-        version, method   (FF: none, and end)
//	1, user, password           ->                          (method 2 only)
//	                            <-        1, status         (not 0: wrong, and end)
//	version, command, target    ->
//	                                      (dial; its outcome is the reply)
//	                            <-        version, reply, bound address
//	bytes of the connection     <->
//
// Options.ReadRequest does all before the dial, AppendReply makes the last
// message.
//
//	conn.SetDeadline(time.Now().Add(socks5.HandshakeTimeout))
//	req, err := socks5.Options{Authenticate: users.Check}.ReadRequest(conn)
//	if err != nil {
//		conn.Close() // the client has been told already
//		return err
//	}
//	reply, bound := dial(req)
//	conn.Write(socks5.AppendReply(nil, reply, bound))
//	conn.SetDeadline(time.Time{})
//
// After UDP ASSOCIATE the bound address is where the client sends its datagrams
// to, and the connection carries nothing more: the association ends with it (RFC
// 1928 sections 6 and 7). Datagrams have the same header in both directions:
//
//	reserved u16 | fragment u8 | address type u8 | address | port u16 | data
//
// ParseDatagram reads them, AppendDatagramHeader makes those of the answers. The
// caller checks that they come from the client whose association it is: nothing in
// them says so.
//
// User names, passwords and datagrams go over the network as they are: SOCKS5 is
// for this machine, a trusted network, or the inside of TLS.
//
// Host names are handed on as names: who dials resolves and checks them.
package socks5

import (
	"strconv"
	"time"
)

// HandshakeTimeout is how long a client may take until its request has been
// read. The caller sets it as the connection's deadline.
const HandshakeTimeout = 10 * time.Second

// version is the first byte of each message but the password's (RFC 1928
// sections 3, 4 and 6).
const version = 5

// method is a way to authenticate (RFC 1928 section 3).
type method byte

const (
	methodNone         method = 0x00 // no authentication required
	methodPassword     method = 0x02 // user name and password (RFC 1929)
	methodUnacceptable method = 0xff // answer to an offer without a method that the server takes
)

// Command is what the client asks for (RFC 1928 section 4).
type Command byte

// The commands. Connect is served, Associate where Options allow it.
const (
	Connect   Command = 1
	Bind      Command = 2
	Associate Command = 3 // UDP ASSOCIATE
)

// String returns the command's name in the RFC, or its number.
func (c Command) String() string {
	switch c {
	case Connect:
		return "CONNECT"
	case Bind:
		return "BIND"
	case Associate:
		return "UDP ASSOCIATE"
	default:
		return "command " + strconv.Itoa(int(c))
	}
}

// Reply is the outcome of a request (RFC 1928 section 6).
type Reply byte

// The replies.
const (
	Succeeded               Reply = 0
	GeneralFailure          Reply = 1
	NotAllowed              Reply = 2
	NetworkUnreachable      Reply = 3
	HostUnreachable         Reply = 4
	ConnectionRefused       Reply = 5
	TTLExpired              Reply = 6 // clients show it as a time-out
	CommandNotSupported     Reply = 7
	AddressTypeNotSupported Reply = 8
)

// replyTexts are the RFC's words.
var replyTexts = [...]string{
	Succeeded:               "succeeded",
	GeneralFailure:          "general SOCKS server failure",
	NotAllowed:              "connection not allowed by ruleset",
	NetworkUnreachable:      "network unreachable",
	HostUnreachable:         "host unreachable",
	ConnectionRefused:       "connection refused",
	TTLExpired:              "TTL expired",
	CommandNotSupported:     "command not supported",
	AddressTypeNotSupported: "address type not supported",
}

// String returns the RFC's words, or the number.
func (r Reply) String() string {
	if int(r) >= len(replyTexts) {
		return "reply " + strconv.Itoa(int(r))
	}
	return replyTexts[r]
}
