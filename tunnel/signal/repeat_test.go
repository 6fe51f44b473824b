package signal

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/culvertgate/culvert/framecodec"
	"github.com/culvertgate/culvert/tunnel"
	"github.com/culvertgate/culvert/tunnel/rtc"
)

// closingListener breaks its first connections off as a server does that is going
// away, and hands on those behind them.
type closingListener struct {
	net.Listener
	broken   int32 // how many
	how      func(net.Conn)
	accepted atomic.Int32
}

func (l *closingListener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil || l.accepted.Add(1) > l.broken {
			return c, err
		}
		l.how(c)
		_ = c.Close()
	}
}

// The ways to break a connection off, each before its closing.
var closings = map[string]func(net.Conn){
	"closed": func(net.Conn) {},
	"reset":  func(c net.Conn) { _ = c.(*net.TCPConn).SetLinger(0) },
	"closed behind the request": func(c net.Conn) {
		_, _ = c.Read(make([]byte, 4096))
	},
	"reset behind the request": func(c net.Conn) {
		_, _ = c.Read(make([]byte, 4096))
		_ = c.(*net.TCPConn).SetLinger(0)
	},
}

// serveClosing starts a server with a real endpoint behind a closing listener.
func serveClosing(t *testing.T, b *fakeBackend, broken int32, how func(net.Conn)) (*Client, *closingListener) {
	t.Helper()
	e := newTestEndpoint(t, EndpointConfig{BasePath: "/tunnel", Backend: b})
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		e.ServeHTTP(w, r, Caller{Identity: "alice", Loopback: true})
	}))
	l := &closingListener{Listener: s.Listener, broken: broken, how: how}
	s.Listener = l
	s.Start()
	t.Cleanup(s.Close)
	return newTestClient(t, s, "/tunnel", ""), l
}

// TestClosingListener holds that an offer which meets a server that is just going
// away is sent again, once, and so is the question before it.
func TestClosingListener(t *testing.T) {
	t.Parallel()
	for name, how := range closings {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newFakeBackend()
			c, _ := serveClosing(t, b, 1, how)
			if _, err := c.Offer(t.Context(), "v=0", ""); err != nil {
				t.Errorf("Offer: %v", err)
			}
			if created, _ := b.count(); created != 1 {
				t.Errorf("%d sessions were made", created)
			}
			c, _ = serveClosing(t, b, 1, how)
			if servers, err := c.ICEServers(t.Context()); err != nil || len(servers) == 0 {
				t.Errorf("ICEServers = %v, %v", servers, err)
			}
			c, l := serveClosing(t, b, 9, how)
			if _, err := c.Offer(t.Context(), "v=0", ""); tunnel.CodeOf(err) != framecodec.CodeUnreachable || l.accepted.Load() != 2 {
				t.Errorf("a server that stays away: %v after %d connections, want unreachable after 2", err, l.accepted.Load())
			}
		})
	}
}

// TestRefusedForAnInstant holds the same of the moment without a listener.
func TestRefusedForAnInstant(t *testing.T) {
	t.Parallel()
	b := newFakeBackend()
	s := serveEndpoint(t, b)
	gone, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = gone.Close()
	var dials atomic.Int32
	transport := &http.Transport{DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
		if dials.Add(1) == 1 {
			address = gone.Addr().String()
		}
		return new(net.Dialer).DialContext(ctx, network, address)
	}}
	t.Cleanup(transport.CloseIdleConnections)
	c := newTestClient(t, s, "/tunnel", "alice")
	c.http.Transport = transport
	if _, err := c.Offer(t.Context(), "v=0", ""); err != nil || dials.Load() != 2 {
		t.Errorf("Offer: %v after %d dials", err, dials.Load())
	}
}

// TestClosingConnection holds the same over HTTP/1 and HTTP/2 with TLS, where the
// connection ends while the gateway works on the offer.
func TestClosingConnection(t *testing.T) {
	t.Parallel()
	type key struct{}
	for name, http2 := range map[string]bool{"HTTP 1": false, "HTTP 2": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e := newTestEndpoint(t, EndpointConfig{BasePath: "/tunnel", Backend: newFakeBackend()})
			var requests atomic.Int32
			var major atomic.Int32
			s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				major.Store(int32(r.ProtoMajor))
				if requests.Add(1) == 1 {
					_, _ = io.Copy(io.Discard, r.Body)
					_ = r.Context().Value(key{}).(net.Conn).Close()
					return
				}
				e.ServeHTTP(w, r, Caller{Identity: "alice", Secure: true})
			}))
			s.EnableHTTP2 = http2
			s.Config.ConnContext = func(ctx context.Context, c net.Conn) context.Context { return context.WithValue(ctx, key{}, c) }
			s.StartTLS()
			t.Cleanup(s.Close)
			if _, err := newTestClient(t, s, "/tunnel", "").Offer(t.Context(), "v=0", ""); err != nil || requests.Load() != 2 {
				t.Errorf("Offer: %v after %d requests", err, requests.Load())
			}
			if (major.Load() == 2) != http2 {
				t.Errorf("it was HTTP/%d", major.Load())
			}
		})
	}
}

// TestNotRepeated holds what is sent once only: what was answered, if only in
// part, what took its time, and the restart, whose credentials are new only once.
func TestNotRepeated(t *testing.T) {
	t.Parallel()
	answer := func(text string) func(net.Conn) {
		return func(c net.Conn) {
			_, _ = c.Read(make([]byte, 4096))
			_, _ = io.WriteString(c, text)
		}
	}
	offer := func(c *Client) error {
		_, err := c.Offer(context.Background(), "v=0", "")
		return err
	}
	tests := map[string]struct {
		how  func(net.Conn)
		call func(*Client) error
		code framecodec.Code
	}{
		"half a status line":  {answer("HTTP/1.1 2"), offer, framecodec.CodeUnreachable},
		"half an answer":      {answer("HTTP/1.1 201 Created\r\nContent-Length: 9\r\n\r\nv=0"), offer, framecodec.CodeUnreachable},
		"another protocol":    {answer("SSH-2.0-x\r\n\r\n"), offer, framecodec.CodeUnreachable},
		"a refusal":           {answer("HTTP/1.1 503 Gone\r\nContent-Length: 0\r\n\r\n"), offer, framecodec.CodeOverloaded},
		"the caller gives up": {func(c net.Conn) { _, _ = io.Copy(io.Discard, c) }, giveUp, framecodec.CodeTimeout},
		"a restart": {closings["closed behind the request"], func(c *Client) error {
			_, err := (&ClientSession{client: c, url: c.url}).Restart(context.Background(), rtc.Fragment{})
			return err
		}, framecodec.CodeUnreachable},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c, l := serveClosing(t, newFakeBackend(), 9, tt.how)
			if err := tt.call(c); tunnel.CodeOf(err) != tt.code || l.accepted.Load() != 1 {
				t.Errorf("error %v after %d connections, want %s after 1", err, l.accepted.Load(), tt.code)
			}
		})
	}
}

func giveUp(c *Client) error {
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	_, err := c.Offer(ctx, "v=0", "")
	return err
}

// TestForeignWords holds that what a server or proxy says of its own is not
// written to a terminal as it stands.
func TestForeignWords(t *testing.T) {
	t.Parallel()
	for name, answer := range map[string]string{
		"reason":   "HTTP/1.1 200 \x1b[31mOK\r\nContent-Length: 0\r\n\r\n",
		"redirect": "HTTP/1.1 302 \x1b[31mFound\r\nContent-Length: 0\r\n\r\n",
		"no HTTP":  "\x1b[31mHTTP\r\n\r\n",
	} {
		c, _ := serveClosing(t, newFakeBackend(), 9, func(conn net.Conn) {
			_, _ = conn.Read(make([]byte, 4096))
			_, _ = io.WriteString(conn, answer)
		})
		if _, err := c.Offer(t.Context(), "v=0", ""); err == nil || strings.ContainsRune(err.Error(), 0x1b) {
			t.Errorf("%s: error %q", name, err)
		}
	}
}
