package socks5

import (
	"fmt"
	"io"
	"strconv"
)

// passwordVersion is the first byte of each message of the password's exchange
// (RFC 1929 section 2), which counts for itself.
const passwordVersion = 1

// The answers to a password (RFC 1929 section 2). Any status but 0 is a failure.
const (
	statusAccepted = "\x01\x00"
	statusRefused  = "\x01\x01"
)

// authenticate reads a user name and a password (RFC 1929 section 2), answers
// them, and returns the name. Like a request they are read to the last byte
// before they are judged.
func authenticate(rw io.ReadWriter, accept func(user, password string) bool) (string, error) {
	var head [2]byte // version, length of the name
	if _, err := io.ReadFull(rw, head[:]); err != nil {
		return "", cut("password", err)
	}
	if head[0] != passwordVersion {
		return "", tell(rw, []byte(statusRefused), &AuthError{What: "version " + strconv.Itoa(int(head[0]))})
	}
	var buf [255 + 1]byte
	name := buf[:int(head[1])+1] // and behind it the length of the password
	if _, err := io.ReadFull(rw, name); err != nil {
		return "", cut("password", err)
	}
	user, length := string(name[:head[1]]), name[head[1]]
	secret := buf[:length]
	if _, err := io.ReadFull(rw, secret); err != nil {
		return "", cut("password", err)
	}
	password := string(secret)
	switch {
	case user == "" || password == "":
		// The RFC knows neither, but clients send them (curl --proxy-user alice:).
		return "", tell(rw, []byte(statusRefused), &AuthError{User: safeUser(user), What: "user name or password is empty"})
	case !accept(user, password):
		return "", tell(rw, []byte(statusRefused), &AuthError{User: safeUser(user), What: "user name or password is wrong"})
	}
	if _, err := io.WriteString(rw, statusAccepted); err != nil {
		return "", fmt.Errorf("answering the SOCKS5 password: %w", err)
	}
	return user, nil
}

// safeUserLength is how many bytes of a refused user's name are shown. Each
// becomes at most four characters.
const safeUserLength = 64

// safeUser makes text for logs and terminals of what claims to be a user name:
// everything that could move the cursor, hide text or end a quotation is escaped.
func safeUser(user string) string {
	rest := ""
	if len(user) > safeUserLength {
		user, rest = user[:safeUserLength], "…"
	}
	quoted := strconv.Quote(user)
	return quoted[1:len(quoted)-1] + rest
}
