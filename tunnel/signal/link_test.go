package signal

import (
	"net/http"
	"reflect"
	"strings"
	"testing"

	"github.com/culvertgate/culvert/tunnel/rtc"
)

func TestParseICEServers(t *testing.T) {
	t.Parallel()
	server := func(url, user, credential string) rtc.ICEServer {
		return rtc.ICEServer{URLs: []string{url}, Username: user, Credential: credential}
	}
	tests := []struct {
		name  string
		links []string
		want  []rtc.ICEServer
	}{
		{"RFC 9725 section 4.6", []string{
			`<stun:stun.example.net>; rel="ice-server"`,
			`<turn:turn.example.net?transport=udp>; rel="ice-server"; username="user"; credential="myPassword"; credential-type="password"`,
		}, []rtc.ICEServer{server("stun:stun.example.net", "", ""), server("turn:turn.example.net?transport=udp", "user", "myPassword")}},
		{"one header", []string{`<stun:a>; rel="ice-server", <stun:b>;rel=ice-server`}, []rtc.ICEServer{server("stun:a", "", ""), server("stun:b", "", "")}},
		{"commas and quotes inside", []string{`<turn:a>; rel="ice-server"; username="a,b;c\"d"; credential="\\<x>"`}, []rtc.ICEServer{server("turn:a", `a,b;c"d`, `\<x>`)}},
		{"other relation", []string{`<https://a/status>; rel="https://x/status", <stun:a>; rel="next ice-server"`}, []rtc.ICEServer{server("stun:a", "", "")}},
		{"other scheme", []string{`<https://evil.example>; rel="ice-server"`}, nil},
		{"oauth credential", []string{`<turn:a>; rel="ice-server"; username=a; credential=b; credential-type="oauth"`}, nil},
		{"first parameter counts", []string{`<turn:a>; rel="ice-server"; username=a; username=b; credential=c`}, []rtc.ICEServer{server("turn:a", "a", "c")}},
		{"no credentials", []string{`<turn:a>; rel="ice-server", <turns:a>; rel="ice-server"; username=a, <TURN:a>; rel="ice-server"; credential=a`}, nil},
		{"not well formed", []string{`stun:a; rel="ice-server"`, `<stun:a`, `<stun:a>; rel="ice-server`, `<stun:a>; rel="x\`, ``, `;;`}, nil},
		{"empty parameters", []string{`<stun:a>;; ; rel="ice-server";`}, []rtc.ICEServer{server("stun:a", "", "")}},
		{"too long", []string{`<stun:a>; rel="ice-server"; username="` + strings.Repeat("a", maxLink) + `"`}, nil},
	}
	for _, tt := range tests {
		if got := ParseICEServers(http.Header{"Link": tt.links}); !reflect.DeepEqual(got, tt.want) {
			t.Errorf("%s: got %+v, want %+v", tt.name, got, tt.want)
		}
	}
	many := strings.Repeat(`<stun:a>; rel="ice-server", `, 100)
	if got := len(ParseICEServers(http.Header{"Link": {many}})); got != maxICEServers {
		t.Errorf("%d servers of 100 were taken, want %d", got, maxICEServers)
	}
}

func TestICEServersThatFitNoHeaderAreLeftOut(t *testing.T) {
	t.Parallel()
	h := make(http.Header)
	addICEServers(h, []rtc.ICEServer{{URLs: []string{"turn:a>b", "turn:a\r\nX: y", "turn:ok"}, Username: "u", Credential: "c"}, {URLs: []string{"turn:b"}, Username: "\u00fc"}})
	if got := ParseICEServers(h); len(got) != 1 || got[0].URLs[0] != "turn:ok" {
		t.Errorf("got %+v, want turn:ok alone", got)
	}
}

func FuzzLink(f *testing.F) {
	for _, s := range []string{
		`<stun:stun.example.net>; rel="ice-server"`,
		`<turn:a>; rel="ice-server"; username="a,b;c\"d"; credential="\\<x>", <turns:b>; rel=ice-server`,
		`<`, `<>`, `<a>;`, `<a>;=`, `<a>;b="`, `,,,`, `<a>;b="\`,
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		servers := ParseICEServers(http.Header{"Link": {s}})
		if len(servers) > maxICEServers {
			t.Fatalf("%d servers", len(servers))
		}
		for _, server := range servers {
			// What was read and can be written is read the same again.
			text, ok := formatICEServer(server.URLs[0], server.Username, server.Credential)
			if !ok {
				continue
			}
			again := ParseICEServers(http.Header{"Link": {text}})
			if len(text) <= maxLink && (len(again) != 1 || !reflect.DeepEqual(again[0], server)) {
				t.Errorf("%q was read as %+v, written as %q, read as %+v", s, server, text, again)
			}
		}
	})
}
