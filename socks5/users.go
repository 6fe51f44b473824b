package socks5

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/binary"
	"fmt"
)

// Users is a table of user names and passwords for Options.Authenticate. It does
// not change, so that any number of goroutines may use it. The zero value has no
// users.
type Users struct {
	key         [sha256.Size]byte // random, of this table: nobody can choose digests
	credentials [][sha256.Size]byte
}

// NewUsers makes a table of passwords by user name. It keeps digests only. An
// entry that no client could send, because RFC 1929 wants 1 to 255 bytes of
// each, is an error, which names the user but no password.
func NewUsers(passwords map[string]string) (*Users, error) {
	u := &Users{credentials: make([][sha256.Size]byte, 0, len(passwords))}
	_, _ = rand.Read(u.key[:]) // never fails, says its documentation
	for user, password := range passwords {
		if len(user) == 0 || len(user) > 255 {
			return nil, fmt.Errorf("SOCKS5 user \"%s\": a name has 1 to 255 bytes, this one %d", safeUser(user), len(user))
		}
		if len(password) == 0 || len(password) > 255 {
			return nil, fmt.Errorf("SOCKS5 user \"%s\": a password has 1 to 255 bytes", safeUser(user))
		}
		u.credentials = append(u.credentials, u.digest(user, password))
	}
	return u, nil
}

// Check reports whether the table has the user with the password. How long it
// takes tells how many users there are and how long the arguments are, but
// neither whether there is such a user nor how far the password is right.
func (u *Users) Check(user, password string) bool {
	given := u.digest(user, password)
	found := 0
	for i := range u.credentials { // to the end: where it stopped would tell who is there
		found |= subtle.ConstantTimeCompare(u.credentials[i][:], given[:])
	}
	return found == 1
}

// digest is of name and password in one, so that there is no step at which a
// name alone is known or not. The length keeps "ab", "c" and "a", "bc" apart.
func (u *Users) digest(user, password string) (sum [sha256.Size]byte) {
	mac := hmac.New(sha256.New, u.key[:])
	var length [8]byte
	binary.BigEndian.PutUint64(length[:], uint64(len(user)))
	mac.Write(length[:])
	mac.Write([]byte(user))
	mac.Write([]byte(password))
	mac.Sum(sum[:0])
	return sum
}
