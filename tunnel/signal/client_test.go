package signal

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/culvertgate/culvert/framecodec"
	"github.com/culvertgate/culvert/tunnel"
	"github.com/culvertgate/culvert/tunnel/rtc"
)

// serveEndpoint starts a server with a real endpoint; the caller's identity is
// its bearer token.
func serveEndpoint(t *testing.T, b *fakeBackend) *httptest.Server {
	t.Helper()
	e := newTestEndpoint(t, EndpointConfig{BasePath: "/tunnel", Backend: b})
	return serve(t, func(w http.ResponseWriter, r *http.Request) {
		identity, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
		e.ServeHTTP(w, r, Caller{Identity: identity, Loopback: true})
	})
}

func serve(t *testing.T, h http.HandlerFunc) *httptest.Server {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s
}

func newTestClient(t *testing.T, s *httptest.Server, path, token string) *Client {
	t.Helper()
	c, err := NewClient(ClientConfig{URL: s.URL + path, HTTP: s.Client(), Header: func(context.Context) (http.Header, error) {
		h := make(http.Header)
		if token != "" {
			h.Set("Authorization", "Bearer "+token)
		}
		return h, nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// TestClientAndEndpoint drives the whole conversation, one side of ours against
// the other.
func TestClientAndEndpoint(t *testing.T) {
	t.Parallel()
	b := newFakeBackend()
	b.expires = time.Now().Add(time.Hour)
	c := newTestClient(t, serveEndpoint(t, b), "/tunnel/", "alice")
	ctx := t.Context()

	servers, err := c.ICEServers(ctx)
	if err != nil || len(servers) != 2 || servers[1].Username != `1700000000:al"ice` || servers[1].Credential != "c2VjcmV0==" {
		t.Fatalf("ICEServers = %+v, %v", servers, err)
	}
	s, err := c.Offer(ctx, "v=0 offer", "ssh")
	if err != nil {
		t.Fatal(err)
	}
	if s.Answer != "v=0 answer to v=0 offer" || len(s.ICEServers) != 2 || !s.CanTrickle() || b.last.Target != "ssh" {
		t.Errorf("session = %+v, target %q", s, b.last.Target)
	}
	if s.ExpiresIn < 59*time.Minute || s.ExpiresIn > time.Hour {
		t.Errorf("ExpiresIn = %s", s.ExpiresIn)
	}
	fragment := rtc.Fragment{Ufrag: "abcd", Pwd: "0123456789012345678901", Mid: "0", Candidates: []string{"candidate:1 1 udp 2130706431 192.0.2.1 5000 typ host"}}
	if err := s.Trickle(ctx, fragment); err != nil {
		t.Errorf("Trickle: %v", err)
	}
	if answer, err := s.Restart(ctx, fragment); err != nil || answer.Ufrag != "gateway1" {
		t.Errorf("Restart = %+v, %v", answer, err)
	}
	if err := s.Trickle(ctx, fragment); err != nil { // with the new ETag
		t.Errorf("Trickle after the restart: %v", err)
	}
	if left, err := s.Renew(ctx); err != nil || left < 59*time.Minute {
		t.Errorf("Renew = %s, %v", left, err)
	}
	if status, err := s.Status(ctx); err != nil || string(status) != "{\"streams\":3}\n" {
		t.Errorf("Status = %q, %v", status, err)
	}
	if targets, err := c.Targets(ctx); err != nil || !strings.Contains(string(targets), `"ssh"`) {
		t.Errorf("Targets = %q, %v", targets, err)
	}
	if err := s.Delete(ctx); err != nil {
		t.Errorf("Delete: %v", err)
	}
	if err := s.Delete(ctx); !errors.Is(err, &tunnel.Error{Code: framecodec.CodeNotFound}) {
		t.Errorf("Delete again: %v, want not_found", err)
	}
}

func TestURLs(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"https://gw.example.com/tunnel":        "https://gw.example.com/tunnel",
		"https://gw.example.com/tunnel//":      "https://gw.example.com/tunnel",
		"https://gw.example.com":               "https://gw.example.com/",
		"https://gw.example.com/t?target=ssh":  "https://gw.example.com/t?target=ssh",
		"http://localhost:8080/tunnel":         "http://localhost:8080/tunnel",
		"http://127.0.0.1:8080/tunnel":         "http://127.0.0.1:8080/tunnel",
		"http://[::1]:8080/tunnel":             "http://[::1]:8080/tunnel",
		"http://gw.example.com/tunnel":         "",
		"http://127.0.0.1.evil.example/tunnel": "",
		"http://10.0.0.1/tunnel":               "",
		"ftp://gw.example.com/tunnel":          "",
		"https://user:pw@gw.example.com/":      "",
		"https:///tunnel":                      "",
		"https://gw.example.com/#x":            "",
		"gw.example.com/tunnel":                "",
		"":                                     "",
		"https://a b/":                         "",
	} {
		u, err := ParseURL(text)
		if (err == nil) != (want != "") || (err == nil && u.String() != want) {
			t.Errorf("ParseURL(%q) = %v, %v, want %q", text, u, err, want)
		}
		if err != nil && strings.Contains(err.Error(), "pw@") {
			t.Errorf("the error repeats the password: %v", err)
		}
	}
}

// TestCredentialsStayAtTheOrigin sends a client to another origin in every way
// a gateway could, and holds that nothing arrives there.
func TestCredentialsStayAtTheOrigin(t *testing.T) {
	t.Parallel()
	thief := serve(t, func(w http.ResponseWriter, r *http.Request) {
		t.Errorf("%s %s reached the other origin, Authorization %q", r.Method, r.URL, r.Header.Get("Authorization"))
		w.WriteHeader(http.StatusCreated)
	})
	tests := map[string]http.HandlerFunc{
		"307":                func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, thief.URL, 307) },
		"308":                func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, thief.URL, 308) },
		"302 within":         func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/login", 302) },
		"301 to the other":   func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, thief.URL, 301) },
		"307 without target": func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(307) },
		"307 in a circle":    func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, r.URL.Path, 307) },
		"session elsewhere":  answerWith(thief.URL+"/s/abc", "application/sdp", "v=0"),
		"session by //host":  answerWith("//"+strings.TrimPrefix(thief.URL, "http://")+"/s/abc", "application/sdp", "v=0"),
		"session over https": answerWith("https://127.0.0.1/s/abc", "application/sdp", "v=0"),
		"session with user":  answerWith("http://a:b@127.0.0.1/s/abc", "application/sdp", "v=0"),
		"no session":         answerWith("", "application/sdp", "v=0"),
		"no SDP":             answerWith("/s/abc", "text/html", "<html>"),
		"endless answer":     answerWith("/s/abc", "application/sdp", strings.Repeat("a", MaxOffer+1)),
		"200":                func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(200) },
	}
	for name, handler := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newTestClient(t, serve(t, handler), "/tunnel", "canary-token")
			s, err := c.Offer(t.Context(), "v=0", "")
			if err == nil {
				t.Fatalf("the offer was taken as answered: %+v", s)
			}
			if tunnel.CodeOf(err) != framecodec.CodeProtocolError {
				t.Errorf("error = %v, want protocol_error", err)
			}
		})
	}
}

func answerWith(location, media, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		if location != "" {
			w.Header().Set("Location", location)
		}
		w.Header().Set("Content-Type", media)
		w.WriteHeader(http.StatusCreated)
		_, _ = io.WriteString(w, body)
	}
}

func TestRedirectWithinTheOriginKeepsMethodAndBody(t *testing.T) {
	t.Parallel()
	b := newFakeBackend()
	e := newTestEndpoint(t, EndpointConfig{BasePath: "/node1", Backend: b})
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if rest, ok := strings.CutPrefix(r.URL.Path, "/tunnel"); ok {
			http.Redirect(w, r, "/node1"+rest+"?"+r.URL.RawQuery, http.StatusTemporaryRedirect)
			return
		}
		identity, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
		e.ServeHTTP(w, r, Caller{Identity: identity, Loopback: true})
	})
	session, err := newTestClient(t, s, "/tunnel", "alice").Offer(t.Context(), "v=0 body", "ssh")
	if err != nil {
		t.Fatal(err)
	}
	if b.last.SDP != "v=0 body" || b.last.Target != "ssh" {
		t.Errorf("the offer arrived as %+v", b.last)
	}
	if err := session.Delete(t.Context()); err != nil {
		t.Errorf("Delete: %v", err)
	}
}

func TestRefusalsReachTheClient(t *testing.T) {
	t.Parallel()
	b := newFakeBackend()
	b.createErr = WithRetryAfter(7*time.Second, &tunnel.Error{Code: framecodec.CodeTooManyTunnels, Text: "eight \x1b[31mare open"})
	_, err := newTestClient(t, serveEndpoint(t, b), "/tunnel", "alice").Offer(t.Context(), "v=0", "")
	var e *ResponseError
	if !errors.As(err, &e) || e.Status != 429 || e.RetryAfter != 7*time.Second || !e.Problem || !e.Retryable() {
		t.Fatalf("error = %#v", err)
	}
	if tunnel.CodeOf(err) != framecodec.CodeTooManyTunnels || strings.ContainsRune(err.Error(), 0x1b) {
		t.Errorf("error = %q", err)
	}
}

func TestForeignAnswers(t *testing.T) {
	t.Parallel()
	tests := []struct {
		status     int
		media      string
		body       string
		code       framecodec.Code
		retryAfter string
		after      time.Duration
	}{
		{401, "text/html", "<html>", framecodec.CodeUnauthenticated, "", 0},
		{403, "", "", framecodec.CodeNotAllowed, "", 0},
		{404, "text/plain", "404", framecodec.CodeNotFound, "", 0},
		{405, "", "", framecodec.CodeMethodNotAllowed, "", 0},
		{429, "", "", framecodec.CodeOverloaded, "3", 3 * time.Second},
		{502, "", "", framecodec.CodeUnreachable, "", 0},
		{503, "", "", framecodec.CodeOverloaded, "99999999", time.Hour},
		{503, "", "", framecodec.CodeOverloaded, "99999999999999999999999", time.Hour},
		{503, "", "", framecodec.CodeOverloaded, "-1", 0},
		{503, "", "", framecodec.CodeOverloaded, "Mon, 02 Jan 2006 15:04:05 GMT", 0},
		{504, "", "", framecodec.CodeTimeout, "", 0},
		{500, "application/problem+json", `{"title":"x"}`, framecodec.CodeInternal, "", 0},
		{500, "application/problem+json", `{`, framecodec.CodeInternal, "", 0},
		{403, "application/problem+json", `{"code":"no_such_code"}`, framecodec.CodeNotAllowed, "", 0},
		{403, "application/problem+json; charset=utf-8", `{"code":"quota_exceeded","detail":"x"}`, framecodec.CodeQuotaExceeded, "", 0},
		{403, "application/problem+json", `{"code":"quota_exceeded","detail":"` + strings.Repeat("a", maxProblem) + `"}`, framecodec.CodeNotAllowed, "", 0},
	}
	for _, tt := range tests {
		s := serve(t, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", tt.media)
			if tt.retryAfter != "" {
				w.Header().Set("Retry-After", tt.retryAfter)
			}
			w.WriteHeader(tt.status)
			_, _ = io.WriteString(w, tt.body)
		})
		_, err := newTestClient(t, s, "/tunnel", "").Offer(t.Context(), "v=0", "")
		var e *ResponseError
		if !errors.As(err, &e) || e.Err.Code != tt.code || e.Status != tt.status || e.RetryAfter != tt.after {
			t.Errorf("%d %q: error = %v (%+v), want %s", tt.status, tt.body, err, e, tt.code)
		}
	}
}

// TestTransportErrors holds that what kept a request from arriving is named by
// a code, and that the session's URL is not repeated.
func TestTransportErrors(t *testing.T) {
	t.Parallel()
	gone := httptest.NewServer(http.NotFoundHandler())
	gone.Close()
	c := newTestClient(t, gone, "/tunnel", "")
	_, err := c.Offer(t.Context(), "v=0", "")
	if tunnel.CodeOf(err) != framecodec.CodeRefused || strings.Contains(err.Error(), "/tunnel") {
		t.Errorf("closed port: %v", err)
	}

	// The server must have read the body to notice that the client has gone.
	slow := serve(t, func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		<-r.Context().Done()
	})
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := newTestClient(t, slow, "/tunnel", "").Offer(ctx, "v=0", ""); tunnel.CodeOf(err) != framecodec.CodeTimeout {
		t.Errorf("silent server: %v", err)
	}

	broken := errors.New("no such file")
	c, err = NewClient(ClientConfig{URL: "http://localhost/", Header: func(context.Context) (http.Header, error) { return nil, broken }})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Offer(t.Context(), "v=0", ""); !errors.Is(err, broken) {
		t.Errorf("credentials that cannot be read: %v", err)
	}
}

func TestGatewayWithoutOPTIONSHasNoICEServers(t *testing.T) {
	t.Parallel()
	for status, fails := range map[int]bool{404: false, 405: false, 501: false, 401: true, 503: true} {
		s := serve(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status) })
		servers, err := newTestClient(t, s, "/tunnel", "").ICEServers(t.Context())
		if (err != nil) != fails || len(servers) != 0 {
			t.Errorf("status %d: %v, %v", status, servers, err)
		}
	}
}

// TestSlowBody holds that a body that does not come ends the request in time,
// over a real connection, and that the connection serves on after a good one.
func TestSlowBody(t *testing.T) {
	t.Parallel()
	b := newFakeBackend()
	e := newTestEndpoint(t, EndpointConfig{BasePath: "/tunnel", Backend: b})
	e.bodyTimeout = 50 * time.Millisecond
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		e.ServeHTTP(w, r, Caller{Identity: "alice", Loopback: true})
	})
	conn, err := net.Dial("tcp", s.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	answers := bufio.NewReader(conn)
	for _, want := range []int{201, 201, 408} {
		body := "v=0"
		if want == 408 {
			body = "v"
		}
		_, _ = io.WriteString(conn, "POST /tunnel HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/sdp\r\nContent-Length: 3\r\n\r\n"+body)
		answer, err := http.ReadResponse(answers, nil)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, answer.Body)
		_ = answer.Body.Close()
		if answer.StatusCode != want {
			t.Fatalf("answered %s, want %d", answer.Status, want)
		}
	}
	if created, _ := b.count(); created != 2 {
		t.Errorf("%d sessions were made, want 2", created)
	}
}

// TestBodyThatBreaksOff holds that half an offer makes nothing.
func TestBodyThatBreaksOff(t *testing.T) {
	t.Parallel()
	b := newFakeBackend()
	s := serveEndpoint(t, b)
	body, feed := io.Pipe()
	req, err := http.NewRequestWithContext(t.Context(), "POST", s.URL+"/tunnel", body)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/sdp")
	req.Header.Set("Authorization", "Bearer alice")
	go func() {
		_, _ = feed.Write([]byte("v=0"))
		_ = feed.CloseWithError(errors.New("gone"))
	}()
	if res, err := s.Client().Do(req); err == nil {
		_ = res.Body.Close()
		t.Errorf("answered %s", res.Status)
	}
	if created, _ := b.count(); created != 0 {
		t.Errorf("%d sessions were made of half an offer", created)
	}
}
