package signal

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/culvertgate/culvert/framecodec"
	"github.com/culvertgate/culvert/tunnel"
	"github.com/culvertgate/culvert/tunnel/rtc"
)

func newRecorder() *httptest.ResponseRecorder { return httptest.NewRecorder() }

func TestOrigins(t *testing.T) {
	t.Parallel()
	const listed = "https://app.example.com"
	plain := Caller{Identity: "alice", Loopback: true}
	tests := []struct {
		name    string
		caller  Caller
		host    string
		headers []string
		status  int
		cors    string
	}{
		{"no browser", alice, "gw.example.com", nil, 201, ""},
		{"listed", alice, "gw.example.com", []string{"Origin: " + listed}, 201, listed},
		{"listed, cross-site", alice, "gw.example.com", []string{"Origin: " + listed, "Sec-Fetch-Site: cross-site"}, 201, listed},
		{"listed, port written out", alice, "gw.example.com", []string{"Origin: " + listed + ":443"}, 201, listed + ":443"},
		{"own, over TLS", alice, "gw.example.com", []string{"Origin: https://gw.example.com"}, 201, ""},
		{"own, other case", alice, "GW.example.com", []string{"Origin: https://gw.example.com"}, 201, ""},
		{"own, with port", alice, "gw.example.com:8443", []string{"Origin: https://gw.example.com:8443"}, 201, ""},
		{"own, default port", alice, "gw.example.com:443", []string{"Origin: https://gw.example.com"}, 201, ""},
		{"own, loopback name", plain, "localhost:8080", []string{"Origin: http://localhost:8080"}, 201, ""},
		{"own, loopback v4", plain, "127.0.0.1:8080", []string{"Origin: http://127.0.0.1:8080"}, 201, ""},
		{"own, loopback v6", plain, "[::1]:8080", []string{"Origin: http://[::1]:8080"}, 201, ""},
		{"foreign", alice, "gw.example.com", []string{"Origin: https://evil.example"}, 403, ""},
		{"foreign scheme", alice, "gw.example.com", []string{"Origin: http://app.example.com"}, 403, ""},
		{"foreign port", alice, "gw.example.com", []string{"Origin: https://gw.example.com:8443"}, 403, ""},
		{"suffix of a listed one", alice, "gw.example.com", []string{"Origin: https://app.example.com.evil.example"}, 403, ""},
		{"null", alice, "gw.example.com", []string{"Origin: null"}, 403, ""},
		{"two", alice, "gw.example.com", []string{"Origin: " + listed, "Origin: https://evil.example"}, 403, ""},
		{"malformed", alice, "gw.example.com", []string{"Origin: https://app.example.com/path"}, 403, ""},
		{"rebound: plain HTTP, Host is the attacker's name", plain, "evil.example:8080", []string{"Origin: http://evil.example:8080"}, 403, ""},
		{"rebound: TLS of another server name", alice, "evil.example", []string{"Origin: https://evil.example"}, 403, ""},
		{"https said by a proxy only", Caller{Identity: "alice", Secure: true}, "gw.example.com", []string{"Origin: https://gw.example.com"}, 403, ""},
		{"looks like loopback", plain, "127.0.0.1.evil.example", []string{"Origin: http://127.0.0.1.evil.example"}, 403, ""},
		{"cross-site without origin", alice, "gw.example.com", []string{"Sec-Fetch-Site: cross-site"}, 403, ""},
		{"same-site without origin", alice, "gw.example.com", []string{"Sec-Fetch-Site: same-site"}, 201, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			b := newFakeBackend()
			e := newTestEndpoint(t, EndpointConfig{BasePath: "/tunnel", Backend: b, Origins: []string{listed}})
			r := httptest.NewRequestWithContext(t.Context(), "POST", "/tunnel", strings.NewReader("v=0"))
			r.Host = tt.host
			r.Header.Set("Content-Type", "application/sdp")
			for _, h := range tt.headers {
				name, value, _ := strings.Cut(h, ": ")
				r.Header.Add(name, value)
			}
			w := newRecorder()
			res := e.ServeHTTP(w, r, tt.caller)
			if res.Status != tt.status || w.Code != tt.status {
				t.Fatalf("status = %d, want %d", res.Status, tt.status)
			}
			if tt.status == 403 && res.Code != framecodec.CodeForbiddenOrigin {
				t.Errorf("code = %s", res.Code)
			}
			if got := w.Header().Get("Access-Control-Allow-Origin"); got != tt.cors {
				t.Errorf("Access-Control-Allow-Origin = %q, want %q", got, tt.cors)
			}
			if tt.cors != "" {
				checkCORS(t, w.Header())
			}
			if created, _ := b.count(); (created == 1) != (tt.status == 201) {
				t.Errorf("%d sessions were made", created)
			}
		})
	}
}

func checkCORS(t *testing.T, h http.Header) {
	t.Helper()
	if h.Get("Access-Control-Allow-Credentials") != "true" || h.Get("Vary") != "Origin" {
		t.Errorf("headers = %v, want credentials allowed and Vary", h)
	}
	for _, name := range []string{"Location", "Link", "ETag", "Retry-After"} {
		if !strings.Contains(h.Get("Access-Control-Expose-Headers"), name) {
			t.Errorf("%s is not exposed", name)
		}
	}
}

// TestPreflight holds that a browser's question is answered without identity,
// and that ICE servers, which hold credentials, do not go with it.
func TestPreflight(t *testing.T) {
	t.Parallel()
	const listed = "https://app.example.com"
	e := newTestEndpoint(t, EndpointConfig{BasePath: "/tunnel", Backend: newFakeBackend(), Origins: []string{listed}})
	for _, caller := range []Caller{alice, {}} {
		answer, res := ask(t, e, caller, "OPTIONS", "/tunnel", "", "Origin: "+listed,
			"Access-Control-Request-Method: POST", "Access-Control-Request-Headers: x-api-key")
		h := answer.Header
		if answer.StatusCode != 204 || res.Kind != KindPreflight {
			t.Errorf("status = %d, kind %s", answer.StatusCode, res.Kind)
		}
		if len(h.Values("Link")) != 0 {
			t.Errorf("a preflight was given ICE servers: %q", h.Values("Link"))
		}
		if h.Get("Access-Control-Allow-Origin") != listed || h.Get("Access-Control-Allow-Credentials") != "true" ||
			!strings.Contains(h.Get("Access-Control-Allow-Methods"), "PATCH") ||
			!strings.Contains(h.Get("Access-Control-Allow-Headers"), "If-Match") ||
			!strings.Contains(h.Get("Access-Control-Allow-Headers"), "x-api-key") {
			t.Errorf("headers = %v", h)
		}
	}
	foreign, _ := ask(t, e, alice, "OPTIONS", "/tunnel", "", "Origin: https://evil.example", "Access-Control-Request-Method: POST")
	if foreign.StatusCode != 403 || foreign.Header.Get("Access-Control-Allow-Origin") != "" {
		t.Errorf("a foreign preflight was answered %d %v", foreign.StatusCode, foreign.Header)
	}
}

// TestOptionsForWhoIsRefused: a credential that does not hold is worth less than none.
func TestOptionsForWhoIsRefused(t *testing.T) {
	t.Parallel()
	b := newFakeBackend()
	b.servers = []rtc.ICEServer{{URLs: []string{"turn:turn.example.net"}, Username: "u", Credential: "c"}}
	e := newTestEndpoint(t, EndpointConfig{BasePath: "/tunnel", Backend: b})
	caller := Caller{Anonymous: true, Loopback: true}
	if answer, _ := ask(t, e, caller, "OPTIONS", "/tunnel", ""); len(answer.Header.Values("Link")) != 1 {
		t.Errorf("an anonymous one is given %q", answer.Header.Values("Link"))
	}
	caller.Refused = &tunnel.Error{Code: framecodec.CodeTicketInvalid}
	if answer, _ := ask(t, e, caller, "OPTIONS", "/tunnel", ""); answer.StatusCode != 204 || len(answer.Header.Values("Link")) != 0 {
		t.Errorf("one whose ticket does not hold: status %d, %q", answer.StatusCode, answer.Header.Values("Link"))
	}
}

func TestPreflightEchoesNamesOnly(t *testing.T) {
	t.Parallel()
	for asked, want := range map[string]bool{"x-api-key, traceparent": true, "x\u00e4": false, "a\"b": false, "a;b": false} {
		if got := isTokenList(asked); got != want {
			t.Errorf("isTokenList(%q) = %v, want %v", asked, got, want)
		}
	}
}

func FuzzParseOrigin(f *testing.F) {
	for _, s := range []string{"https://a.example", "null", "http://[::1]:80", "https://a@b", "https://a:443", "*", "https://"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		once, err := parseOrigin(s)
		if err != nil {
			return
		}
		if again, err := parseOrigin(once.String()); err != nil || again != once {
			t.Errorf("parseOrigin(%q) = %q, which parses to %q, %v", s, once, again, err)
		}
	})
}

func FuzzParseRoute(f *testing.F) {
	for _, s := range []string{"/tunnel", "/tunnel/", "/tunnel/s/abc/status", "/tunnelfoo", "", "//", "/tunnel//s/x", "/tunnel/s/x/renew/"} {
		f.Add("/tunnel", s)
		f.Add("", s)
	}
	f.Fuzz(func(t *testing.T, base, path string) {
		r, ok := parseRoute(base, "DELETE", path)
		if !ok {
			return
		}
		if !strings.HasPrefix(path, cleanBase(base)) {
			t.Errorf("%q was taken to be below %q", path, base)
		}
		if r.resource == resourceSession && (r.secret == "" || strings.Contains(r.secret, "/") || len(r.secret) > maxSecret) {
			t.Errorf("%q: secret %q", path, r.secret)
		}
	})
}
