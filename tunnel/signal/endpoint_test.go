package signal

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/culvertgate/culvert/framecodec"
	"github.com/culvertgate/culvert/tunnel"
	"github.com/culvertgate/culvert/tunnel/rtc"
)

const (
	typeSDP      = "Content-Type: application/sdp"
	typeFragment = "Content-Type: application/trickle-ice-sdpfrag"
	fragmentText = "a=ice-ufrag:abcd\r\na=ice-pwd:0123456789012345678901\r\nm=application 9 UDP/DTLS/SCTP webrtc-datachannel\r\na=mid:0\r\n" +
		"a=candidate:1 1 udp 2130706431 192.0.2.1 5000 typ host\r\n"
	candidatesOnly = "m=application 9 UDP/DTLS/SCTP webrtc-datachannel\r\na=mid:0\r\na=candidate:1 1 udp 2130706431 192.0.2.1 5000 typ host\r\n"
)

func problemOf(t *testing.T, res *http.Response) Problem {
	t.Helper()
	if got := res.Header.Get("Content-Type"); got != "application/problem+json" {
		t.Fatalf("status %d, Content-Type = %q, want a problem document", res.StatusCode, got)
	}
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	var p Problem
	if err := json.Unmarshal(body, &p); err != nil {
		t.Fatalf("%s: %v", body, err)
	}
	return p
}

// TestBadRequests is the part of the table of bad input that signalling refuses
// by itself: input, answer, and no state left.
func TestBadRequests(t *testing.T) {
	t.Parallel()
	fromAfar := Caller{Identity: "alice"}
	nobody := Caller{Secure: true}
	tests := []struct {
		name    string
		caller  Caller
		method  string
		path    string
		body    string
		headers []string
		status  int
		code    framecodec.Code
	}{
		{"body empty", alice, "POST", "/tunnel", "", []string{typeSDP}, 400, framecodec.CodeBadOffer},
		{"body of 1 MB", alice, "POST", "/tunnel", strings.Repeat("a", 1<<20), []string{typeSDP}, 413, framecodec.CodeTooLarge},
		{"body one byte too large", alice, "POST", "/tunnel", strings.Repeat("a", MaxOffer+1), []string{typeSDP}, 413, framecodec.CodeTooLarge},
		{"no type", alice, "POST", "/tunnel", "v=0", nil, 415, framecodec.CodeUnsupportedMedia},
		{"wrong type", alice, "POST", "/tunnel", "v=0", []string{"Content-Type: application/json"}, 415, framecodec.CodeUnsupportedMedia},
		{"form type", alice, "POST", "/tunnel", "v=0", []string{"Content-Type: text/plain"}, 415, framecodec.CodeUnsupportedMedia},
		{"compressed", alice, "POST", "/tunnel", "v=0", []string{typeSDP, "Content-Encoding: gzip"}, 415, framecodec.CodeUnsupportedMedia},
		{"no identity", nobody, "POST", "/tunnel", "v=0", []string{typeSDP}, 401, framecodec.CodeUnauthenticated},
		{"plain HTTP from afar", fromAfar, "POST", "/tunnel", "v=0", []string{typeSDP}, 403, framecodec.CodeNotAllowed},
		{"target that is no name", alice, "POST", "/tunnel?target=10.0.0.1:22", "v=0", []string{typeSDP}, 404, framecodec.CodeUnknownTarget},
		{"target twice", alice, "POST", "/tunnel?target=a&target=b", "v=0", []string{typeSDP}, 400, framecodec.CodeProtocolError},
		{"malformed query", alice, "POST", "/tunnel?target=%zz", "v=0", []string{typeSDP}, 400, framecodec.CodeProtocolError},
		{"POST to the index", alice, "POST", "/tunnel/", "v=0", []string{typeSDP}, 405, framecodec.CodeMethodNotAllowed},
		{"PUT", alice, "PUT", "/tunnel", "v=0", []string{typeSDP}, 405, framecodec.CodeMethodNotAllowed},
		{"nothing there", alice, "GET", "/tunnel/other", "", nil, 404, framecodec.CodeNotFound},
		{"dot segments", alice, "GET", "/tunnel/../config", "", nil, 404, framecodec.CodeNotFound},
		{"empty secret", alice, "DELETE", "/tunnel/s/", "", nil, 404, framecodec.CodeNotFound},
		{"long secret", alice, "DELETE", "/tunnel/s/" + strings.Repeat("a", 129), "", nil, 404, framecodec.CodeNotFound},
		{"unknown part of a session", alice, "GET", "/tunnel/s/abc/other", "", nil, 404, framecodec.CodeNotFound},
		{"GET changes nothing", alice, "GET", "/tunnel/s/abc/renew", "", nil, 405, framecodec.CodeMethodNotAllowed},
		{"unknown session", alice, "DELETE", "/tunnel/s/abc", "", nil, 404, framecodec.CodeNotFound},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			b := newFakeBackend()
			e := newTestEndpoint(t, EndpointConfig{BasePath: "/tunnel", Backend: b})
			answer, res := ask(t, e, tt.caller, tt.method, tt.path, tt.body, tt.headers...)
			p := problemOf(t, answer)
			if answer.StatusCode != tt.status || p.Status != tt.status || p.Code != tt.code {
				t.Errorf("answer = %d %s (%s), want %d %s", answer.StatusCode, p.Code, p.Detail, tt.status, tt.code)
			}
			if res.Status != tt.status || res.Code != tt.code || !res.Handled || res.Err == nil {
				t.Errorf("result = %+v", res)
			}
			if p.Type != ProblemType+tt.code.String() || p.Title == "" || p.Fault == "" {
				t.Errorf("problem document lacks something: %+v", p)
			}
			if created, left := b.count(); created != 0 || left != 0 {
				t.Errorf("%d sessions were made, %d are left", created, left)
			}
		})
	}
}

func TestChunkedBodyTooLarge(t *testing.T) {
	t.Parallel()
	b := newFakeBackend()
	e := newTestEndpoint(t, EndpointConfig{BasePath: "/tunnel", Backend: b})
	r, err := http.NewRequestWithContext(t.Context(), "POST", "https://gw.example.com/tunnel", io.LimitReader(endless{}, 1<<30))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/sdp")
	w := newRecorder()
	if res := e.ServeHTTP(w, r, alice); res.Status != http.StatusRequestEntityTooLarge {
		t.Errorf("result = %+v, want 413", res)
	}
}

type endless struct{}

func (endless) Read(p []byte) (int, error) { return len(p), nil }

func TestOffer(t *testing.T) {
	t.Parallel()
	b := newFakeBackend()
	b.expires = time.Now().Add(time.Hour + time.Second/2)
	e := newTestEndpoint(t, EndpointConfig{BasePath: "/tunnel/", Backend: b})
	const trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	answer, res := ask(t, e, alice, "POST", "/tunnel?target=ssh", "v=0 offer", "Content-Type: application/sdp; charset=utf-8", "Traceparent: "+trace)
	if answer.StatusCode != http.StatusCreated || res.Kind != KindOffer || res.Status != http.StatusCreated {
		t.Fatalf("answer = %d, result = %+v", answer.StatusCode, res)
	}
	if b.last.Target != "ssh" || b.last.SDP != "v=0 offer" || b.last.Trace != trace {
		t.Errorf("the backend was given %+v", b.last)
	}
	body, _ := io.ReadAll(answer.Body)
	want := map[string]string{
		"Content-Type":           "application/sdp",
		"Cache-Control":          "no-store",
		"X-Content-Type-Options": "nosniff",
		"Server-Timing":          "ice;dur=1.5, policy;dur=0.0",
		"Culvert-Expires-In":     "3600",
		"Location":               "/tunnel/s/" + res.Secret,
	}
	for name, value := range want {
		if got := answer.Header.Get(name); got != value {
			t.Errorf("%s = %q, want %q", name, got, value)
		}
	}
	if string(body) != "v=0 answer to v=0 offer" {
		t.Errorf("body = %q", body)
	}
	if tag := answer.Header.Get("ETag"); len(tag) < 10 || tag[0] != '"' {
		t.Errorf("ETag = %q, want a strong one", tag)
	}
	if len(res.Secret) < 22 { // 128 bits in base64
		t.Errorf("the secret %q is too short", res.Secret)
	}
	links := answer.Header.Values("Link")
	if len(links) != 3 || links[1] != `<turn:turn.example.net:3478?transport=udp>; rel="ice-server"; username="1700000000:al\"ice"; credential="c2VjcmV0=="; credential-type="password"` {
		t.Errorf("Link = %q", links)
	}
}

func TestMalformedTraceIsNone(t *testing.T) {
	t.Parallel()
	for _, trace := range []string{
		"00-zz",
		"00-00000000000000000000000000000000-b7ad6b7169203331-01",
		"00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
	} {
		b := newFakeBackend()
		e := newTestEndpoint(t, EndpointConfig{BasePath: "/tunnel", Backend: b})
		ask(t, e, alice, "POST", "/tunnel", "v=0", typeSDP, "Traceparent: "+trace)
		if created, _ := b.count(); created != 1 || b.last.Trace != "" {
			t.Errorf("created %d with trace %q, want 1 without", created, b.last.Trace)
		}
	}
}

func TestPatch(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name       string
		caller     Caller
		match      string // ETAG stands for the session's
		body       string
		media      string
		restarting bool
		status     int
		code       framecodec.Code
		trickled   int
		restarts   int
	}{
		{"candidates", alice, "ETAG", candidatesOnly, typeFragment, false, 204, 0, 1, 0},
		{"one of several tags", alice, `"x", ETAG`, fragmentText, typeFragment, false, 204, 0, 1, 0},
		{"restart", alice, "*", fragmentText, typeFragment, false, 200, 0, 0, 1},
		{"without If-Match", alice, "", fragmentText, typeFragment, false, 428, framecodec.CodePreconditionFailed, 0, 0},
		{"old tag", alice, `"old"`, fragmentText, typeFragment, false, 412, framecodec.CodePreconditionFailed, 0, 0},
		{"weak tag", alice, "W/ETAG", fragmentText, typeFragment, false, 412, framecodec.CodePreconditionFailed, 0, 0},
		{"restart in flight", alice, "*", fragmentText, typeFragment, true, 409, framecodec.CodeConflict, 0, 0},
		{"restart without credentials", alice, "*", candidatesOnly, typeFragment, false, 400, framecodec.CodeBadOffer, 0, 0},
		{"wrong type", alice, "ETAG", fragmentText, typeSDP, false, 415, framecodec.CodeUnsupportedMedia, 0, 0},
		{"empty", alice, "ETAG", "", typeFragment, false, 400, framecodec.CodeBadOffer, 0, 0},
		{"not a fragment", alice, "ETAG", "hello", typeFragment, false, 400, framecodec.CodeBadOffer, 0, 0},
		{"10,000 candidates", alice, "ETAG", strings.Repeat("a=candidate:1 1 udp 1 192.0.2.1 5000 typ host\r\n", 10000), typeFragment, false, 413, framecodec.CodeTooLarge, 0, 0},
		{"another identity", Caller{Identity: "bob", Secure: true}, "ETAG", fragmentText, typeFragment, false, 404, framecodec.CodeNotFound, 0, 0},
		{"another identity, restart", Caller{Identity: "bob", Secure: true}, "*", fragmentText, typeFragment, false, 404, framecodec.CodeNotFound, 0, 0},
		{"another identity, nothing else right", Caller{Identity: "bob", Secure: true}, "", "", typeSDP, false, 404, framecodec.CodeNotFound, 0, 0},
		{"plain HTTP from afar", Caller{Identity: "alice"}, "ETAG", fragmentText, typeFragment, false, 403, framecodec.CodeNotAllowed, 0, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			b := newFakeBackend()
			b.restarting = tt.restarting
			e := newTestEndpoint(t, EndpointConfig{BasePath: "/tunnel", Backend: b})
			secret, s := b.session(t)
			before := s.etag
			headers := []string{tt.media}
			if tt.match != "" {
				headers = append(headers, "If-Match: "+strings.ReplaceAll(tt.match, "ETAG", s.etag))
			}
			answer, _ := ask(t, e, tt.caller, "PATCH", "/tunnel/s/"+secret, tt.body, headers...)
			if answer.StatusCode != tt.status {
				t.Fatalf("status = %d, want %d", answer.StatusCode, tt.status)
			}
			if tt.code != 0 && problemOf(t, answer).Code != tt.code {
				t.Errorf("want code %s", tt.code)
			}
			if s.trickled != tt.trickled || s.restarts != tt.restarts {
				t.Errorf("%d candidates and %d restarts arrived, want %d and %d", s.trickled, s.restarts, tt.trickled, tt.restarts)
			}
			tag := answer.Header.Get("ETag")
			if restarted := tt.restarts == 1; restarted != (s.etag != before) || restarted != (tag != "") || (restarted && tag != s.etag) {
				t.Errorf("ETag sent %q, was %q, is %q", tag, before, s.etag)
			}
			if tt.restarts == 1 {
				if answer.Header.Get("Content-Type") != "application/trickle-ice-sdpfrag" {
					t.Errorf("Content-Type = %q", answer.Header.Get("Content-Type"))
				}
				body, _ := io.ReadAll(answer.Body)
				if f, err := rtc.ParseFragment(string(body)); err != nil || f.Ufrag != "gateway1" {
					t.Errorf("answer %q: %v", body, err)
				}
			}
		})
	}
}

// TestSessionResources walks through what can be asked of a session, by its
// owner and by somebody else who knows its URL.
func TestSessionResources(t *testing.T) {
	t.Parallel()
	b := newFakeBackend()
	b.expires = time.Now().Add(time.Minute + time.Second/2)
	e := newTestEndpoint(t, EndpointConfig{BasePath: "/tunnel", Backend: b})
	secret, s := b.session(t)
	bob := Caller{Identity: "bob", Secure: true}
	steps := []struct {
		caller       Caller
		method, path string
		status       int
	}{
		{bob, "GET", "", 404}, {bob, "GET", "/status", 404}, {bob, "POST", "/renew", 404}, {bob, "DELETE", "", 404},
		{alice, "GET", "", 204}, {alice, "HEAD", "", 204}, {alice, "GET", "/status", 200}, {alice, "POST", "/renew", 204},
		{alice, "DELETE", "", 200}, {alice, "DELETE", "", 404}, {alice, "GET", "", 404},
	}
	for _, step := range steps {
		answer, _ := ask(t, e, step.caller, step.method, "/tunnel/s/"+secret+step.path, "")
		if answer.StatusCode != step.status {
			t.Errorf("%s %s by %s = %d, want %d", step.method, step.path, step.caller.Identity, answer.StatusCode, step.status)
		}
		if step.path == "/renew" && step.status == 204 && answer.Header.Get("Culvert-Expires-In") != "60" {
			t.Errorf("renew says it lasts %q s, want 60", answer.Header.Get("Culvert-Expires-In"))
		}
	}
	if s.renewed != 1 {
		t.Errorf("renewed %d times, want 1", s.renewed)
	}
}

func TestEndpointResources(t *testing.T) {
	t.Parallel()
	tests := []struct {
		base, method, path string
		original           string // Caller.Path
		handled            bool
		status             int
		location           string
	}{
		{"/tunnel", "GET", "/tunnel?x=1", "", true, 308, "/tunnel/?x=1"},
		{"/tunnel", "GET", "/tunnel/", "", true, 204, ""},
		{"/tunnel", "GET", "/tunnel/targets", "", true, 200, ""},
		{"/tunnel", "OPTIONS", "/tunnel", "", true, 204, ""},
		{"/tunnel", "GET", "/tunnelfoo", "", false, 0, ""},
		{"/tunnel", "GET", "/", "", false, 0, ""},
		{"/tunnel", "GET", "/TUNNEL/targets", "", false, 0, ""},
		{"/tunnel", "GET", "/targets", "/tunnel/targets", true, 200, ""}, // below handle_path
		{"/tunnel", "GET", "/tunnel/targets", "/other", false, 0, ""},    // rewritten to look like ours
		{"/", "GET", "/", "", true, 204, ""},
		{"", "GET", "/targets", "", true, 200, ""},
		{"", "GET", "/other", "", true, 404, ""},
		{"/a b", "GET", "/a%20b", "", true, 308, "/a%20b/"},
	}
	for _, tt := range tests {
		b := newFakeBackend()
		e := newTestEndpoint(t, EndpointConfig{BasePath: tt.base, Backend: b})
		caller := alice
		caller.Path = tt.original
		answer, res := ask(t, e, caller, tt.method, tt.path, "")
		if res.Handled != tt.handled || (tt.handled && answer.StatusCode != tt.status) {
			t.Errorf("base %q: %s %s: handled %v, status %d, want %v, %d", tt.base, tt.method, tt.path, res.Handled, answer.StatusCode, tt.handled, tt.status)
		}
		if got := answer.Header.Get("Location"); got != tt.location {
			t.Errorf("base %q: %s: Location = %q, want %q", tt.base, tt.path, got, tt.location)
		}
	}
}

func TestRootBasePathTakesOffers(t *testing.T) {
	t.Parallel()
	e := newTestEndpoint(t, EndpointConfig{BasePath: "/", Backend: newFakeBackend()})
	answer, res := ask(t, e, alice, "POST", "/", "v=0", typeSDP)
	if answer.StatusCode != 201 || answer.Header.Get("Location") != "/s/"+res.Secret {
		t.Errorf("answer = %d, Location %q", answer.StatusCode, answer.Header.Get("Location"))
	}
}

func TestMethodNotAllowedSaysWhatIs(t *testing.T) {
	t.Parallel()
	e := newTestEndpoint(t, EndpointConfig{BasePath: "/tunnel", Backend: newFakeBackend()})
	for path, allow := range map[string]string{
		"/tunnel":            "POST, GET, HEAD, OPTIONS",
		"/tunnel/":           "GET, HEAD, OPTIONS",
		"/tunnel/targets":    "GET, HEAD, OPTIONS",
		"/tunnel/s/x":        "PATCH, DELETE, GET, HEAD, OPTIONS",
		"/tunnel/s/x/renew":  "POST, OPTIONS",
		"/tunnel/s/x/status": "GET, HEAD, OPTIONS",
	} {
		answer, _ := ask(t, e, alice, "PUT", path, "")
		if got := answer.Header.Get("Allow"); answer.StatusCode != 405 || got != allow {
			t.Errorf("PUT %s = %d, Allow %q, want 405, %q", path, answer.StatusCode, got, allow)
		}
	}
}

func TestTransport(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name   string
		caller Caller
		allow  bool
		status int
		links  int
	}{
		{"TLS", Caller{Identity: "a", Secure: true}, false, 201, 2},
		{"loopback peer", Caller{Identity: "a", Loopback: true}, false, 201, 2},
		{"plain from afar", Caller{Identity: "a"}, false, 403, 0},
		{"plain from afar, allow_http", Caller{Identity: "a"}, true, 201, 2},
		{"anonymous", Caller{Anonymous: true, Secure: true}, false, 201, 2},
		{"nobody", Caller{Secure: true}, false, 401, 0},
	}
	for _, tt := range tests {
		e := newTestEndpoint(t, EndpointConfig{BasePath: "/tunnel", Backend: newFakeBackend(), AllowHTTP: tt.allow})
		answer, _ := ask(t, e, tt.caller, "POST", "/tunnel", "v=0", typeSDP)
		if answer.StatusCode != tt.status {
			t.Errorf("%s: status = %d, want %d", tt.name, answer.StatusCode, tt.status)
		}
		options, _ := ask(t, e, tt.caller, "OPTIONS", "/tunnel", "")
		if got := len(options.Header.Values("Link")); got != tt.links || options.StatusCode != 204 || options.Header.Get("Accept-Post") != "application/sdp" {
			t.Errorf("%s: OPTIONS = %d with %d links, want 204 with %d", tt.name, options.StatusCode, got, tt.links)
		}
	}
}

// TestRefusalsOfTheBackend holds what errors of the backend look like to the
// client, and that nothing internal leaks.
func TestRefusalsOfTheBackend(t *testing.T) {
	t.Parallel()
	cause := errors.New("dial tcp 10.1.2.3:22: secret-ufrag")
	tests := []struct {
		err        error
		status     int
		code       framecodec.Code
		retryAfter string
	}{
		{&tunnel.Error{Code: framecodec.CodeTooManyTunnels, Text: "8 are open"}, 429, framecodec.CodeTooManyTunnels, "5"},
		{WithRetryAfter(1500*time.Millisecond, &tunnel.Error{Code: framecodec.CodeOverloaded}), 503, framecodec.CodeOverloaded, "2"},
		{&tunnel.Error{Code: framecodec.CodeDraining}, 503, framecodec.CodeDraining, "5"},
		{rtc.CheckOffer("hello"), 400, framecodec.CodeBadOffer, ""},
		{rtc.CheckOffer("v=0\r\no=- 1 1 IN IP4 0.0.0.0\r\ns=-\r\nt=0 0\r\nm=audio 9 UDP/TLS/RTP/SAVPF 0\r\n"), 422, framecodec.CodeBadOffer, ""},
		{fmt.Errorf("making a peer: %w", &tunnel.Error{Code: framecodec.CodeOutOfMemoryBudget}), 503, framecodec.CodeOutOfMemoryBudget, "5"},
		{&tunnel.Error{Code: framecodec.CodeUnknownTarget, Err: cause}, 404, framecodec.CodeUnknownTarget, ""},
		{&tunnel.Error{Code: framecodec.CodeTunnelClosed}, 503, framecodec.CodeTunnelClosed, "5"},
		{cause, 500, framecodec.CodeInternal, ""},
		{&tunnel.Error{Code: framecodec.CodeInternal, Text: cause.Error(), Err: cause}, 500, framecodec.CodeInternal, ""},
	}
	for _, tt := range tests {
		b := newFakeBackend()
		b.createErr = tt.err
		e := newTestEndpoint(t, EndpointConfig{BasePath: "/tunnel", Backend: b})
		answer, res := ask(t, e, alice, "POST", "/tunnel", "v=0", typeSDP)
		body, _ := io.ReadAll(answer.Body)
		var p Problem
		if err := json.Unmarshal(body, &p); err != nil {
			t.Fatal(err)
		}
		if answer.StatusCode != tt.status || p.Code != tt.code || answer.Header.Get("Retry-After") != tt.retryAfter {
			t.Errorf("%v: answer = %d %s, Retry-After %q, want %d %s, %q", tt.err, answer.StatusCode, p.Code, answer.Header.Get("Retry-After"), tt.status, tt.code, tt.retryAfter)
		}
		if strings.Contains(string(body), "secret-ufrag") {
			t.Errorf("the answer tells the cause: %s", body)
		}
		if !errors.Is(res.Err, tt.err) {
			t.Errorf("the result's error is %v, want %v", res.Err, tt.err)
		}
	}
}

func TestNewEndpointRefuses(t *testing.T) {
	t.Parallel()
	for name, cfg := range map[string]EndpointConfig{
		"no backend":      {BasePath: "/tunnel"},
		"relative path":   {BasePath: "tunnel", Backend: newFakeBackend()},
		"wildcard origin": {Backend: newFakeBackend(), Origins: []string{"*"}},
		"null origin":     {Backend: newFakeBackend(), Origins: []string{"null"}},
		"origin and path": {Backend: newFakeBackend(), Origins: []string{"https://a.example/"}},
	} {
		if _, err := NewEndpoint(cfg); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}
