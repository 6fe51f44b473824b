package signal

import (
	"encoding/base64"
	"net/http/httptest"
	"testing"
	"time"
)

func TestSecretsAreRandomAndLong(t *testing.T) {
	t.Parallel()
	seen := make(map[string]bool)
	for range 1000 {
		s := NewSecret()
		raw, err := base64.RawURLEncoding.DecodeString(s)
		if err != nil || len(raw)*8 < 128 || seen[s] {
			t.Fatalf("secret %q: %d bits, err %v, seen before %v", s, len(raw)*8, err, seen[s])
		}
		seen[s] = true
	}
	if !SecretEqual("abc", "abc") || SecretEqual("abc", "abd") || SecretEqual("abc", "ab") {
		t.Error("SecretEqual is wrong")
	}
}

func TestMatch(t *testing.T) {
	t.Parallel()
	const tag = `"t"`
	for m, want := range map[Match]bool{
		`"t"`: true, `"a", "t"`: true, `*`: true, ` * `: true, `W/"t"`: false, `t`: false, ``: false, `"T"`: false,
	} {
		if got := m.Holds(tag); got != want {
			t.Errorf("Match(%q).Holds = %v, want %v", m, got, want)
		}
	}
	if Match("*").Holds("") {
		t.Error("a session without an ETag was matched")
	}
}

// TestTURNCredentials holds the convention against a value computed with
// openssl: printf 1700000600:alice | openssl dgst -sha1 -hmac north -binary | base64
func TestTURNCredentials(t *testing.T) {
	t.Parallel()
	username, credential := TURNCredentials("north", "alice", time.Unix(1700000000, 0), 10*time.Minute)
	if username != "1700000600:alice" || credential != turnVector {
		t.Errorf("got %q, %q, want 1700000600:alice, %q", username, credential, turnVector)
	}
	if username, _ := TURNCredentials("north", "al:ice \u00fc\r\n", time.Unix(0, 0), time.Second); username != "1:al:ice%20%C3%BC%0D%0A" {
		t.Errorf("username = %q, want it escaped", username)
	}
}

func TestExpiresIsTold(t *testing.T) {
	t.Parallel()
	w := httptest.NewRecorder()
	setExpires(w.Header(), time.Time{})
	if w.Header().Get(ExpiresHeader) != "" {
		t.Error("a session without an end tells one")
	}
	setExpires(w.Header(), time.Now().Add(-time.Hour))
	if w.Header().Get(ExpiresHeader) != "0" {
		t.Errorf("over: %q, want 0", w.Header().Get(ExpiresHeader))
	}
}

const turnVector = "gthUwOpcRoLI0MMCziCEBOWYnpo="
