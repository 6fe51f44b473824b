package signal

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/culvertgate/culvert/framecodec"
	"github.com/culvertgate/culvert/tunnel"
	"github.com/culvertgate/culvert/tunnel/rtc"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fakeBackend keeps sessions without peers. Its state is what the tables of bad
// input look at: a refused request leaves none.
type fakeBackend struct {
	mu         sync.Mutex
	sessions   map[string]*fakeSession // by secret
	created    int
	last       Offer
	createErr  error
	restarting bool
	expires    time.Time
	servers    []rtc.ICEServer
}

type fakeSession struct {
	identity string
	etag     string
	trickled int
	restarts int
	renewed  int
}

func newFakeBackend() *fakeBackend {
	return &fakeBackend{
		sessions: make(map[string]*fakeSession),
		servers: []rtc.ICEServer{
			{URLs: []string{"stun:stun.example.net"}},
			{URLs: []string{"turn:turn.example.net:3478?transport=udp"}, Username: `1700000000:al"ice`, Credential: "c2VjcmV0=="},
		},
	}
}

func (b *fakeBackend) find(c Caller, secret string) (*fakeSession, error) {
	for s, session := range b.sessions {
		if SecretEqual(s, secret) && session.identity == c.Identity {
			return session, nil
		}
	}
	return nil, &tunnel.Error{Code: framecodec.CodeNotFound, Text: "no such session"}
}

func (b *fakeBackend) Create(_ context.Context, c Caller, o Offer) (Session, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.last = o
	if b.createErr != nil {
		return Session{}, b.createErr
	}
	b.created++
	s := Session{
		Secret: NewSecret(), ETag: NewETag(), Answer: "v=0 answer to " + o.SDP, ICEServers: b.servers, Expires: b.expires,
		Timing: []Timing{{"ice", 1500 * time.Microsecond}, {"policy", 0}},
	}
	b.sessions[s.Secret] = &fakeSession{identity: c.Identity, etag: s.ETag}
	return s, nil
}

func (b *fakeBackend) Trickle(_ context.Context, c Caller, secret string, match Match, f rtc.Fragment) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	s, err := b.find(c, secret)
	if err != nil {
		return err
	}
	if !match.Holds(s.etag) {
		return &tunnel.Error{Code: framecodec.CodePreconditionFailed, Text: "not the current ICE session"}
	}
	s.trickled += len(f.Candidates)
	return nil
}

func (b *fakeBackend) Restart(_ context.Context, c Caller, secret string, f rtc.Fragment) (rtc.Fragment, string, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	s, err := b.find(c, secret)
	if err != nil {
		return rtc.Fragment{}, "", err
	}
	if b.restarting {
		return rtc.Fragment{}, "", &tunnel.Error{Code: framecodec.CodeConflict, Text: "a restart is in flight"}
	}
	s.restarts++
	s.etag = NewETag()
	f.Ufrag, f.Pwd = "gateway1", "gatewaypasswordgatewaypass"
	return f, s.etag, nil
}

func (b *fakeBackend) Delete(_ context.Context, c Caller, secret string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if _, err := b.find(c, secret); err != nil {
		return err
	}
	delete(b.sessions, secret)
	return nil
}

func (b *fakeBackend) Renew(_ context.Context, c Caller, secret string) (time.Time, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	s, err := b.find(c, secret)
	if err != nil {
		return time.Time{}, err
	}
	s.renewed++
	return b.expires, nil
}

func (b *fakeBackend) Exists(_ context.Context, c Caller, secret string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	_, err := b.find(c, secret)
	return err
}

func (b *fakeBackend) Status(ctx context.Context, c Caller, secret string) (any, error) {
	if err := b.Exists(ctx, c, secret); err != nil {
		return nil, err
	}
	return map[string]int{"streams": 3}, nil
}

func (b *fakeBackend) Targets(context.Context, Caller) (any, error) {
	return map[string]any{"targets": []map[string]string{{"name": "ssh", "kind": "tcp"}}}, nil
}

func (b *fakeBackend) ICEServers(context.Context, Caller) []rtc.ICEServer { return b.servers }

// count returns how many sessions were made and are left.
func (b *fakeBackend) count() (created, left int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.created, len(b.sessions)
}

// session makes one of alice's and returns its secret.
func (b *fakeBackend) session(t *testing.T) (string, *fakeSession) {
	t.Helper()
	s, err := b.Create(t.Context(), alice, Offer{SDP: "v=0"})
	if err != nil {
		t.Fatal(err)
	}
	return s.Secret, b.sessions[s.Secret]
}

// alice is an authenticated caller over TLS to gw.example.com.
var alice = Caller{Identity: "alice", Secure: true, TLSServerName: "gw.example.com"}

func newTestEndpoint(t *testing.T, cfg EndpointConfig) *Endpoint {
	t.Helper()
	e, err := NewEndpoint(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// ask sends one request to an endpoint of base /tunnel without a server. Header
// lines are "Name: value".
func ask(t *testing.T, e *Endpoint, c Caller, method, path, body string, headers ...string) (*http.Response, Result) {
	t.Helper()
	r := httptest.NewRequestWithContext(t.Context(), method, "https://gw.example.com"+path, strings.NewReader(body))
	if body == "" {
		r.Body = http.NoBody
		r.ContentLength = 0
	}
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		r.Header.Add(name, value)
	}
	w := httptest.NewRecorder()
	res := e.ServeHTTP(w, r, c)
	answer := w.Result()
	t.Cleanup(func() { _ = answer.Body.Close() })
	return answer, res
}
