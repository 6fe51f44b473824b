package socks5

import "io"

// Options say what a server takes. The zero value takes every client without a
// user name, and CONNECT only. They are not changed by their use, so that one
// value serves any number of connections at a time.
type Options struct {
	// Authenticate reports whether a user may come in with a password; both have
	// 1 to 255 bytes, which may be any. It is called once a connection, from
	// ReadRequest, and is to take as long for a user that does not exist as for a
	// wrong password; Users.Check does. A client that offers no password is
	// refused, whatever else it offers. Nil: nobody is asked for a password.
	Authenticate func(user, password string) bool

	// AllowAssociate lets UDP ASSOCIATE through. Without it the client is told
	// CommandNotSupported, as for every other command but CONNECT.
	AllowAssociate bool
}

// ReadRequest reads a client's greeting, its user name and password if they are
// asked for, and its request from a new connection, and answers all but the
// request. It reads no byte beyond the request, so rw can be handed on
// afterwards, and never more than 1032 bytes (519 without Authenticate). The
// caller has set a deadline, and answers the request with AppendReply.
//
// With an error the connection is to be closed; where the protocol has an answer
// to the fault it has been written. The error is a *NotSOCKS5Error, ErrNoMethod,
// an *AuthError, a *RefusedError, io.EOF if the client went without a word, or
// wraps the error of rw (io.ErrUnexpectedEOF if the client went in the middle).
func (o Options) ReadRequest(rw io.ReadWriter) (Request, error) {
	chosen := methodNone
	if o.Authenticate != nil {
		chosen = methodPassword
	}
	if err := negotiate(rw, chosen); err != nil {
		return Request{}, err
	}
	var user string
	if chosen == methodPassword {
		var err error
		if user, err = authenticate(rw, o.Authenticate); err != nil {
			return Request{}, err
		}
	}
	req, err := readRequest(rw, o.AllowAssociate)
	if err != nil {
		return Request{}, err
	}
	req.User = user
	return req, nil
}

// ReadRequest is that of the zero Options: no users, and CONNECT only.
func ReadRequest(rw io.ReadWriter) (Request, error) { return Options{}.ReadRequest(rw) }
