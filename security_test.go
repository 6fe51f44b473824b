package culvert

import (
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"github.com/culvertgate/culvert/tunnel/signal"
)

// TestRemoteCandidatesLeadNowhere: with remote_candidates, ICE checks go to
// public addresses only, or to this machine where the socket is on loopback.
func TestRemoteCandidatesLeadNowhere(t *testing.T) {
	for listen, want := range map[string]map[string]bool{
		"udp/:3478":          {"8.8.8.8": true, "10.0.0.1": false, "127.0.0.1": false, "169.254.169.254": false, "64:ff9b::a00:1": false},
		"udp/127.0.0.1:3478": {"8.8.8.8": false, "10.0.0.1": false, "127.0.0.1": true},
	} {
		a := &App{Listen: listen, RemoteCandidates: true}
		a.applyDefaults()
		address, err := a.listenAddress()
		if err != nil {
			t.Fatal(err)
		}
		options, err := a.gatewayOptions(address)
		if err != nil {
			t.Fatal(err)
		}
		for candidate, used := range want {
			if got := options.RemoteAllowed(netip.MustParseAddr(candidate)); got != used {
				t.Errorf("listen %s: candidate %s is used: %v, want %v", listen, candidate, got, used)
			}
		}
	}
}

// TestICEServersForClients: credentials are made for each client; ours leave
// this machine only where share is written.
func TestICEServersForClients(t *testing.T) {
	env := &environment{iceServers: []ICEServer{
		{URLs: []string{"stun:s.example"}},
		{URLs: []string{"turn:ours.example"}, Username: "user", Credential: "password"},
		{URLs: []string{"turn:shared.example"}, Username: "user", Credential: "password", Share: true},
		{URLs: []string{"turn:made.example"}, Secret: "secret"},
	}}
	alice := env.iceServersFor(signal.Caller{Identity: "alice"})
	bob := env.iceServersFor(signal.Caller{Identity: "bob"})
	if len(alice) != 3 || alice[0].Username != "" || alice[1].URLs[0] != "turn:shared.example" || alice[1].Credential != "password" {
		t.Fatalf("%+v, want the STUN server, the shared one and one with credentials made", alice)
	}
	if made := alice[2]; made.Username == "" || made.Credential == "" || made.Credential == "secret" || made.Credential == bob[2].Credential {
		t.Errorf("%+v for alice, %+v for bob, want credentials of each one's own", made, bob[2])
	}
}

// TestRemoteHeadersAreReadAgain: a token file may change under a running
// remote; one that is gone or empty is an error and not a request without it.
func TestRemoteHeadersAreReadAgain(t *testing.T) {
	file := filepath.Join(t.TempDir(), "token")
	header := map[string]string{"Authorization": "Bearer {file." + file + "}"}
	for _, token := range []string{"first", "second"} {
		if err := os.WriteFile(file, []byte(token), 0o600); err != nil {
			t.Fatal(err)
		}
		if h, err := expandHeader(header); err != nil || h.Get("Authorization") != "Bearer "+token {
			t.Errorf("%v, %v, want Bearer %s", h, err, token)
		}
	}
	for name, change := range map[string]func() error{
		"empty": func() error { return os.WriteFile(file, nil, 0o600) },
		"gone":  func() error { return os.Remove(file) },
	} {
		if err := change(); err != nil {
			t.Fatal(err)
		}
		if h, err := expandHeader(header); err == nil {
			t.Errorf("%s: %v, want an error", name, h)
		}
	}
}
