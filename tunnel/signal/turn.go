package signal

import (
	"crypto/hmac"
	"crypto/sha1" //nolint:gosec // the TURN REST convention is HMAC-SHA1; HMAC does not need collision resistance
	"encoding/base64"
	"net/url"
	"strconv"
	"time"
)

// TURNCredentials makes credentials of the TURN REST convention
// (draft-uberti-behave-turn-rest): the username is "<unix-expiry>:<subject>",
// the credential base64(HMAC-SHA1(secret, username)). They hold for ttl from
// now. The subject is escaped, so that any identity fits into a header and into
// a TURN server's log.
func TURNCredentials(secret, subject string, now time.Time, ttl time.Duration) (username, credential string) {
	username = strconv.FormatInt(now.Add(ttl).Unix(), 10) + ":" + url.PathEscape(subject)
	mac := hmac.New(sha1.New, []byte(secret))
	_, _ = mac.Write([]byte(username)) // a hash never fails
	return username, base64.StdEncoding.EncodeToString(mac.Sum(nil))
}
