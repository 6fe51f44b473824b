package acceptance

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"net/http/httputil"
	"net/url"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/culvertgate/culvert/internal/testkit"
)

// tap stands between a client and its gateway and remembers every secret that
// passes: ICE user names and passwords, session URLs, credentials of TURN
// servers, authorization. Problem documents are searched on their way.
type tap struct {
	t testing.TB

	mu      sync.Mutex
	secrets map[string]string // what it is, by its text; guarded by mu
	texts   []string          // problem documents; guarded by mu
}

// startTap serves tapPort of a namespace until the test ends.
func startTap(t testing.TB, n *testkit.Namespace) *tap {
	t.Helper()
	x := &tap{t: t, secrets: map[string]string{}}
	l, err := n.Listen("tcp", loopback(tapPort).String())
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{DialContext: n.DialContext, MaxIdleConnsPerHost: 64}
	gateway := &url.URL{Scheme: "http", Host: loopback(gatewaySite).String()}
	proxy := &httputil.ReverseProxy{
		Transport:      transport,
		Rewrite:        func(r *httputil.ProxyRequest) { r.Out.URL.Scheme, r.Out.URL.Host = gateway.Scheme, gateway.Host },
		ModifyResponse: x.response,
		ErrorHandler:   func(w http.ResponseWriter, _ *http.Request, _ error) { w.WriteHeader(http.StatusBadGateway) },
	}
	server := &http.Server{Handler: x.request(proxy), ReadHeaderTimeout: time.Minute}
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	t.Cleanup(func() {
		err := server.Close()
		if e := <-served; !errors.Is(e, http.ErrServerClosed) {
			err = errors.Join(err, e)
		}
		transport.CloseIdleConnections()
		if err != nil {
			t.Error(err)
		}
		x.searchProblems()
	})
	return x
}

// request reads what a client sends before it is passed on.
func (x *tap) request(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		x.readDescription(body)
		r.Body = io.NopCloser(bytes.NewReader(body))
		next.ServeHTTP(w, r)
	})
}

// response reads what the gateway answers.
func (x *tap) response(r *http.Response) error {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return err
	}
	x.readAnswer(r.Header, body)
	r.Body = io.NopCloser(bytes.NewReader(body))
	return nil
}

// credential is the parameter of a Link header with a TURN password.
var credential = regexp.MustCompile(`credential="([^"]+)"`)

// readAnswer remembers the secrets of one answer of the gateway.
func (x *tap) readAnswer(h http.Header, body []byte) {
	if location := h.Get("Location"); location != "" {
		x.plant("session secret", location[strings.LastIndexByte(location, '/')+1:])
	}
	for _, link := range h.Values("Link") {
		for _, m := range credential.FindAllStringSubmatch(link, -1) {
			x.plant("TURN credential", m[1])
		}
	}
	if strings.HasPrefix(h.Get("Content-Type"), "application/problem+json") {
		x.mu.Lock()
		x.texts = append(x.texts, string(body))
		x.mu.Unlock()
		return
	}
	x.readDescription(body)
}

var (
	ufragLine = regexp.MustCompile(`(?m)^a=ice-ufrag:(\S+)`)
	pwdLine   = regexp.MustCompile(`(?m)^a=ice-pwd:(\S+)`)
)

// readDescription remembers the ICE credentials of SDP or a fragment of it.
func (x *tap) readDescription(text []byte) {
	for _, m := range ufragLine.FindAllSubmatch(text, -1) {
		x.plant("ICE ufrag", string(m[1]))
	}
	for _, m := range pwdLine.FindAllSubmatch(text, -1) {
		x.plant("ICE pwd", string(m[1]))
	}
}

// plant adds a secret. Short ones could be found by chance.
func (x *tap) plant(what, secret string) {
	if len(secret) < 8 {
		x.t.Errorf("a %s of %d bytes is too short to look for", what, len(secret))
		return
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	x.secrets[secret] = what
}

// count returns how many secrets of each kind are known.
func (x *tap) count() map[string]int {
	x.mu.Lock()
	defer x.mu.Unlock()
	kinds := map[string]int{}
	for _, what := range x.secrets {
		kinds[what]++
	}
	return kinds
}

// problems returns how many problem documents have passed.
func (x *tap) problems() int {
	x.mu.Lock()
	defer x.mu.Unlock()
	return len(x.texts)
}

// search fails the test for each secret in text.
func (x *tap) search(t testing.TB, where, text string) {
	t.Helper()
	x.mu.Lock()
	defer x.mu.Unlock()
	for secret, what := range x.secrets {
		for _, form := range []string{secret, url.PathEscape(secret), strings.ReplaceAll(secret, "/", `\/`)} {
			if i := strings.Index(text, form); i >= 0 {
				t.Errorf("%s in %s: %q", what, where, around(text, i, len(form)))
				break
			}
		}
	}
}

// searchProblems looks for secrets in the problem documents that passed.
func (x *tap) searchProblems() {
	x.mu.Lock()
	texts := strings.Join(x.texts, "\n")
	x.mu.Unlock()
	x.search(x.t, "a problem document", texts)
}

// around returns the place of a find with what is before and behind it.
func around(text string, at, n int) string {
	return text[max(0, at-80):min(len(text), at+n+20)]
}
