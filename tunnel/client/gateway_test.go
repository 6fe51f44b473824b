package client

import (
	"context"
	"io"
	"net"
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
	"github.com/culvertgate/culvert/tunnel/signal"
	"github.com/culvertgate/culvert/tunnel/udp"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// testGateway is a gateway in this process: real signalling, a real peer
// connection over loopback, a real session; its targets are in memory.
type testGateway struct {
	t      *testing.T
	server *httptest.Server
	rtc    *rtc.Gateway
	conns  chan net.Conn // the far ends of streams to "pipe"
	wg     sync.WaitGroup

	mu       sync.Mutex
	sessions map[string]*testSession // by secret
	requests []string                // method and what follows the base path
	wrap     func(http.ResponseWriter, *http.Request) bool
	expires  time.Duration
	renewed  int
	restarts int
	trickled []string
	servers  []rtc.ICEServer
	targets  []string // of offers
}

type testSession struct {
	etag    string
	peer    *rtc.Peer
	session *tunnel.Session
}

func newTestGateway(t *testing.T) *testGateway {
	t.Helper()
	g := &testGateway{t: t, sessions: make(map[string]*testSession), conns: make(chan net.Conn, 16)}
	socket, err := udp.Listen(t.Context(), "udp", "127.0.0.1:0", udp.Config{})
	if err != nil {
		t.Fatal(err)
	}
	g.rtc, err = rtc.NewGateway(rtc.GatewayConfig{Socket: socket, Options: rtc.Options{Loopback: true}})
	if err != nil {
		t.Fatal(err)
	}
	endpoint, err := signal.NewEndpoint(signal.EndpointConfig{BasePath: "/tunnel", Backend: (*testBackend)(g)})
	if err != nil {
		t.Fatal(err)
	}
	g.server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !g.before(w, r) {
			identity, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
			if !endpoint.ServeHTTP(w, r, signal.Caller{Identity: identity, Loopback: true}).Handled {
				http.NotFound(w, r)
			}
		}
	}))
	t.Cleanup(g.stop)
	return g
}

func (g *testGateway) stop() {
	g.server.Close()
	g.rtc.Close()
	for _, s := range g.all() {
		if s.session != nil {
			s.session.Wait()
		}
	}
	g.wg.Wait()
}

// before records a request and lets the test answer it instead.
func (g *testGateway) before(w http.ResponseWriter, r *http.Request) bool {
	g.mu.Lock()
	path := strings.TrimPrefix(r.URL.Path, "/tunnel")
	if rest, ok := strings.CutPrefix(path, "/s/"); ok {
		_, sub, _ := strings.Cut(rest, "/")
		path = "/s/" + sub
	}
	g.requests = append(g.requests, r.Method+" "+path)
	wrap := g.wrap
	g.mu.Unlock()
	return wrap != nil && wrap(w, r)
}

// answer sets what answers requests instead of the gateway, where it returns
// true; nil: nothing.
func (g *testGateway) answer(f func(http.ResponseWriter, *http.Request) bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.wrap = f
}

// seen counts requests such as "DELETE /s/".
func (g *testGateway) seen(request string) int {
	g.mu.Lock()
	defer g.mu.Unlock()
	n := 0
	for _, r := range g.requests {
		if r == request {
			n++
		}
	}
	return n
}

func (g *testGateway) all() []*testSession {
	g.mu.Lock()
	defer g.mu.Unlock()
	list := make([]*testSession, 0, len(g.sessions))
	for _, s := range g.sessions {
		list = append(list, s)
	}
	return list
}

// url is where the gateway is.
func (g *testGateway) url() string { return g.server.URL + "/tunnel" }

// config is a client's, of alice.
func (g *testGateway) config() Config {
	return Config{URLs: []string{g.url()}, Header: bearer("alice")}
}

func bearer(token string) func(context.Context) (http.Header, error) {
	return func(context.Context) (http.Header, error) {
		if token == "" {
			return nil, nil
		}
		return http.Header{"Authorization": {"Bearer " + token}}, nil
	}
}

// accept serves the targets.
func (g *testGateway) accept(in *tunnel.Incoming) {
	switch in.Target().String() {
	case "echo", "tcp/echo.example:7", "":
		g.attach(in, func(conn *tunnel.Conn) {
			_, _ = io.Copy(conn, conn)
			_ = conn.CloseWrite()
		})
	case "pipe":
		g.attach(in, func(conn *tunnel.Conn) { g.conns <- conn })
	case "silent":
	default:
		in.Refuse(framecodec.CodeUnknownTarget, "no such target")
	}
}

func (g *testGateway) attach(in *tunnel.Incoming, use func(*tunnel.Conn)) {
	conn, ep := tunnel.NewConn(tunnel.Addr{Net: "test", Text: "gateway"}, tunnel.Addr{Net: "test", Text: "peer"})
	g.wg.Go(func() {
		if err := in.Attach(ep, ""); err == nil {
			use(conn)
		}
	})
}

// testBackend is the gateway as its endpoint sees it.
type testBackend testGateway

func (b *testBackend) find(secret string) (*testSession, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := b.sessions[secret]
	if s == nil {
		return nil, &tunnel.Error{Code: framecodec.CodeNotFound, Text: "no such session"}
	}
	return s, nil
}

func (b *testBackend) Create(ctx context.Context, _ signal.Caller, o signal.Offer) (signal.Session, error) {
	g := (*testGateway)(b)
	s, secret := &testSession{etag: signal.NewETag()}, signal.NewSecret()
	peer, answer, err := b.rtc.Answer(ctx, o.SDP, rtc.Handler{OnChannel: func(_ *rtc.Peer, c *rtc.Channel) {
		dialect := tunnel.Dialect2
		if c.Protocol() == "" {
			dialect = tunnel.Dialect1
		}
		session := tunnel.NewSession(c, tunnel.Config{Dialect: dialect, Role: tunnel.RoleGateway, Accept: g.accept})
		b.mu.Lock()
		s.session = session
		b.mu.Unlock()
	}})
	if err != nil {
		return signal.Session{}, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	s.peer = peer
	b.sessions[secret] = s
	b.targets = append(b.targets, o.Target)
	out := signal.Session{Secret: secret, ETag: s.etag, Answer: answer}
	if b.expires > 0 {
		out.Expires = time.Now().Add(b.expires)
	}
	return out, nil
}

func (b *testBackend) Trickle(_ context.Context, _ signal.Caller, secret string, match signal.Match, f rtc.Fragment) error {
	s, err := b.find(secret)
	if err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if !match.Holds(s.etag) {
		return &tunnel.Error{Code: framecodec.CodePreconditionFailed}
	}
	b.trickled = append(b.trickled, f.Candidates...)
	return nil
}

func (b *testBackend) Restart(ctx context.Context, _ signal.Caller, secret string, f rtc.Fragment) (rtc.Fragment, string, error) {
	s, err := b.find(secret)
	if err != nil {
		return rtc.Fragment{}, "", err
	}
	answer, err := s.peer.Restart(ctx, f)
	if err != nil {
		return rtc.Fragment{}, "", err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.restarts++
	s.etag = signal.NewETag()
	return answer, s.etag, nil
}

func (b *testBackend) Delete(_ context.Context, _ signal.Caller, secret string) error {
	s, err := b.find(secret)
	if err != nil {
		return err
	}
	b.mu.Lock()
	delete(b.sessions, secret)
	b.mu.Unlock()
	b.wg.Go(func() {
		s.peer.Close(framecodec.CodeTunnelClosed)
		if s.session != nil {
			s.session.Wait()
		}
	})
	return nil
}

func (b *testBackend) Renew(_ context.Context, _ signal.Caller, secret string) (time.Time, error) {
	if _, err := b.find(secret); err != nil {
		return time.Time{}, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.renewed++
	return time.Now().Add(b.expires), nil
}

func (b *testBackend) Exists(_ context.Context, _ signal.Caller, secret string) error {
	_, err := b.find(secret)
	return err
}

func (b *testBackend) Status(context.Context, signal.Caller, string) (any, error) { return nil, nil }

func (b *testBackend) Targets(context.Context, signal.Caller) (any, error) {
	return []string{"echo", "pipe"}, nil
}

func (b *testBackend) ICEServers(context.Context, signal.Caller) []rtc.ICEServer { return b.servers }
