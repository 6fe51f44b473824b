package culvert

import (
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
)

// TestRemoteStays: a reload replaces a remote, and so ends its tunnel, only for
// what the remote makes use of.
func TestRemoteStays(t *testing.T) {
	spec := func() *remoteSpec {
		s := &remoteSpec{name: "office", remote: Remote{URLs: []string{"https://gw.example/tunnel"}}, tunnelMemory: 64 << 20}
		s.timeouts.applyDefaults()
		s.iceServers = []ICEServer{{URLs: []string{"stun:s.example"}}, {URLs: []string{"turn:t.example"}, Secret: "for clients"}}
		return s
	}
	for name, test := range map[string]struct {
		change func(*remoteSpec)
		stays  bool
	}{
		"nothing":                    {func(*remoteSpec) {}, true},
		"timeouts drain":             {func(s *remoteSpec) { s.timeouts.Drain = caddy.Duration(time.Minute) }, true},
		"timeouts keepalive":         {func(s *remoteSpec) { s.timeouts.Keepalive = caddy.Duration(time.Minute) }, true},
		"a TURN server of clients":   {func(s *remoteSpec) { s.iceServers[1].Secret = "another" }, true},
		"timeouts dial":              {func(s *remoteSpec) { s.timeouts.Dial = caddy.Duration(time.Minute) }, false},
		"a STUN server of our own":   {func(s *remoteSpec) { s.iceServers[0].URLs = []string{"stun:other.example"} }, false},
		"the URL":                    {func(s *remoteSpec) { s.remote.URLs = []string{"https://other.example/tunnel"} }, false},
		"the certificate's new text": {func(s *remoteSpec) { s.pem = []byte("new") }, false},
	} {
		changed := spec()
		test.change(changed)
		if got := spec().equal(changed); got != test.stays {
			t.Errorf("%s: the remote stays %v, want %v", name, got, test.stays)
		}
	}
}
