// Package gatewaykit is a gateway for the tests of clients, in the process of
// the test: real signalling, real peer connections over loopback, real sessions;
// its targets are in memory and no policy is asked.
package gatewaykit

import (
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/culvertgate/culvert/framecodec"
	"github.com/culvertgate/culvert/tunnel"
	"github.com/culvertgate/culvert/tunnel/rtc"
	"github.com/culvertgate/culvert/tunnel/signal"
	"github.com/culvertgate/culvert/tunnel/udp"
)

// BasePath is that of the gateway's endpoint.
const BasePath = "/tunnel"

// Gateway serves the targets "echo" and tcp/echo.example:7 (which sends back
// what comes), "pipe" (which hands its far end to Conns) and "silent" (which is
// never answered). The identity of a request is its bearer token or the user of
// its Basic credentials.
type Gateway struct {
	Server *httptest.Server
	RTC    *rtc.Gateway
	Conns  chan net.Conn // the far ends of streams to "pipe"

	wg sync.WaitGroup

	mu         sync.Mutex
	sessions   map[string]*Session // by secret
	requests   []string
	intercept  func(http.ResponseWriter, *http.Request) bool
	expires    time.Duration
	restarts   int
	trickled   []string
	targets    []string
	identities []string
}

// Session is a tunnel at the gateway.
type Session struct {
	etag    string
	peer    *rtc.Peer
	session atomic.Pointer[tunnel.Session]
}

// Tunnel returns the engine's session, nil before its channel is open.
func (s *Session) Tunnel() *tunnel.Session { return s.session.Load() }

// New starts a gateway, which ends with the test. It speaks plain HTTP.
func New(t testing.TB) *Gateway {
	t.Helper()
	return start(t, (*httptest.Server).Start)
}

// NewTLS starts a gateway with a certificate that Server.Certificate returns.
func NewTLS(t testing.TB) *Gateway {
	t.Helper()
	return start(t, (*httptest.Server).StartTLS)
}

func start(t testing.TB, serve func(*httptest.Server)) *Gateway {
	t.Helper()
	g := &Gateway{sessions: make(map[string]*Session), Conns: make(chan net.Conn, 16)}
	socket, err := udp.Listen(t.Context(), "udp", "127.0.0.1:0", udp.Config{})
	if err != nil {
		t.Fatal(err)
	}
	if g.RTC, err = rtc.NewGateway(rtc.GatewayConfig{Socket: socket, Options: rtc.Options{Loopback: true}}); err != nil {
		t.Fatal(err)
	}
	endpoint, err := signal.NewEndpoint(signal.EndpointConfig{BasePath: BasePath, Backend: (*backend)(g)})
	if err != nil {
		t.Fatal(err)
	}
	g.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if g.before(w, r) {
			return
		}
		if !endpoint.ServeHTTP(w, r, signal.Caller{Identity: identity(r), Loopback: true}).Handled {
			http.NotFound(w, r)
		}
	}))
	g.Server.Config.ErrorLog = log.New(io.Discard, "", 0) // handshakes that are meant to fail
	serve(g.Server)
	t.Cleanup(g.stop)
	return g
}

func identity(r *http.Request) string {
	if user, _, ok := r.BasicAuth(); ok {
		return user
	}
	token, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	return token
}

func (g *Gateway) stop() {
	g.Server.Close()
	g.RTC.Close()
	g.wg.Wait()
}

// URL is where the gateway is.
func (g *Gateway) URL() string { return g.Server.URL + BasePath }

// before records a request and lets the test answer it instead.
func (g *Gateway) before(w http.ResponseWriter, r *http.Request) bool {
	path := strings.TrimPrefix(r.URL.Path, BasePath)
	if rest, ok := strings.CutPrefix(path, "/s/"); ok {
		_, sub, _ := strings.Cut(rest, "/")
		path = "/s/" + sub
	}
	g.mu.Lock()
	g.requests = append(g.requests, r.Method+" "+path)
	g.identities = append(g.identities, identity(r))
	intercept := g.intercept
	g.mu.Unlock()
	return intercept != nil && intercept(w, r)
}

// Intercept sets what answers requests instead of the gateway, where it returns
// true; nil: nothing.
func (g *Gateway) Intercept(f func(http.ResponseWriter, *http.Request) bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.intercept = f
}

// Seen counts requests such as "DELETE /s/": method and path below BasePath, the
// secret left out.
func (g *Gateway) Seen(request string) int {
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

// Sessions returns the tunnels that have neither been deleted nor ended.
func (g *Gateway) Sessions() []*Session {
	g.mu.Lock()
	defer g.mu.Unlock()
	list := make([]*Session, 0, len(g.sessions))
	for _, s := range g.sessions {
		list = append(list, s)
	}
	return list
}

// SetExpires has each identity's time end after d, unless renewed.
func (g *Gateway) SetExpires(d time.Duration) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.expires = d
}

// Restarts counts the ICE restarts.
func (g *Gateway) Restarts() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.restarts
}

// Trickled returns the candidates that came by PATCH.
func (g *Gateway) Trickled() []string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return append([]string(nil), g.trickled...)
}

// OfferTargets returns ?target= of each offer.
func (g *Gateway) OfferTargets() []string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return append([]string(nil), g.targets...)
}

// LastIdentity returns who sent the last request.
func (g *Gateway) LastIdentity() string {
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.identities) == 0 {
		return ""
	}
	return g.identities[len(g.identities)-1]
}

// Close ends a tunnel from the gateway's side.
func (s *Session) Close(code tunnel.Code, text string) { s.Tunnel().Close(code, text) }

// accept serves the targets.
func (g *Gateway) accept(in *tunnel.Incoming) {
	switch in.Target().String() {
	case "echo", "tcp/echo.example:7", "":
		g.attach(in, func(conn *tunnel.Conn) {
			_, _ = io.Copy(conn, conn)
			_ = conn.CloseWrite()
		})
	case "pipe":
		g.attach(in, func(conn *tunnel.Conn) { g.Conns <- conn })
	case "datagrams", "udp/echo.example:7":
		conn, ep := tunnel.NewDatagramConn(tunnel.Addr{Net: "test", Text: "gateway"}, tunnel.Addr{Net: "test", Text: "peer"})
		g.wg.Go(func() {
			if in.Attach(ep, "") == nil {
				echoDatagrams(conn)
			}
		})
	case "silent":
	default:
		in.Refuse(framecodec.CodeUnknownTarget, "no such target")
	}
}

// echoDatagrams returns each datagram until the flow ends.
func echoDatagrams(conn net.Conn) {
	for buf := make([]byte, tunnel.MaxDatagram); ; {
		n, err := conn.Read(buf)
		if err != nil {
			return
		}
		_, _ = conn.Write(buf[:n])
	}
}

func (g *Gateway) attach(in *tunnel.Incoming, use func(*tunnel.Conn)) {
	conn, ep := tunnel.NewConn(tunnel.Addr{Net: "test", Text: "gateway"}, tunnel.Addr{Net: "test", Text: "peer"})
	g.wg.Go(func() {
		if err := in.Attach(ep, ""); err == nil {
			use(conn)
		}
	})
}
