package integration

import (
	"crypto/tls"
	"fmt"
	"net"
	"runtime"
	"sync/atomic"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/mholt/caddy-l4/layer4"
)

func init() { caddy.RegisterModule(new(watcher)) }

// watcher is a layer4 handler that counts the connections which the handlers
// behind it have, and how many they have had.
//
//	route {
//		culvert_watch
//		webrtc_tunnel here echo
//	}
type watcher struct{}

var inside, entered atomic.Int64

func (*watcher) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "layer4.handlers.culvert_watch", New: func() caddy.Module { return new(watcher) }}
}

func (*watcher) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next()
	return nil
}

func (*watcher) Handle(cx *layer4.Connection, next layer4.Handler) error {
	inside.Add(1)
	defer inside.Add(-1)
	entered.Add(1)
	return next.Handle(cx)
}

// TestHandle: the entry's handler returns at once for a plain TCP connection,
// whose stream goes on, and at the end of the stream for one that is wrapped.
func TestHandle(t *testing.T) {
	echo := echoServer(t)
	cert, key := certificate(t, "localhost")
	plain := func() (net.Conn, error) { return net.Dial("tcp", entry1) }
	secured := func() (net.Conn, error) {
		return tls.Dial("tcp", entry1, &tls.Config{InsecureSkipVerify: true, ServerName: "localhost"})
	}
	socks := func() (net.Conn, error) {
		c, _ := socksRequest(t, "127.0.0.1", portOf(t, echo))
		return c, nil
	}
	for name, test := range map[string]struct {
		route  string
		dial   func() (net.Conn, error)
		blocks bool
	}{
		"plain":      {entry1 + " {\nroute {\nculvert_watch\nwebrtc_tunnel here echo\n}\n}", plain, false},
		"SOCKS5":     {socks1 + " {\nroute {\nculvert_watch\nwebrtc_tunnel here socks5\n}\n}", socks, false},
		"prefetched": {entry1 + " {\n@x regexp ^ping 4\nroute @x {\nculvert_watch\nwebrtc_tunnel here echo\n}\n}", plain, true},
		"TLS":        {entry1 + " {\nroute {\ntls\nculvert_watch\nwebrtc_tunnel here echo\n}\n}", secured, true},
	} {
		t.Run(name, func(t *testing.T) {
			start(t, global(remoteHere+"\n", "\tlayer4 {\n"+test.route+"\n}")+
				site("target echo tcp/"+echo+"\ndynamic {\nallow tcp/"+echo+"\n}")+"\nhttps://localhost:9443 {\n\ttls "+cert+" "+key+"\n}\n")
			before := entered.Load()
			c, err := test.dial()
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			if err := pingPong(c); err != nil {
				t.Fatal(err)
			}
			if n := entered.Load() - before; n != 1 {
				t.Fatalf("the handler was given %d connections", n)
			}
			if test.blocks {
				if n := inside.Load(); n != 1 {
					t.Errorf("the handler has %d connections while the stream is open, want 1", n)
				}
			} else {
				wantInside(t, 0)
			}
			if err := pingPong(c); err != nil {
				t.Errorf("the stream does not go on: %v", err)
			}
			if n := streamsOf(t, "client"); n != 1 {
				t.Errorf("%d streams, want 1", n)
			}
			c.Close()
			wantInside(t, 0)
			eventually(t, func() error {
				if n := streamsOf(t, "client"); n != 0 {
					return fmt.Errorf("%d streams are left", n)
				}
				return nil
			})
		})
	}
}

func wantInside(t *testing.T, want int64) {
	t.Helper()
	eventually(t, func() error {
		if n := inside.Load(); n != want {
			return fmt.Errorf("the handler has %d connections, want %d", n, want)
		}
		return nil
	})
}

func streamsOf(t *testing.T, side string) (n int) {
	t.Helper()
	for _, one := range tunnels(t, side) {
		n += one.Streams
	}
	return n
}

// TestEntryGoroutines: 1,000 connections at an entry cost no goroutine, at the
// client's and at the gateway's side. Both run in this process; the target's
// goroutines are counted and left out.
func TestEntryGoroutines(t *testing.T) {
	const connections, slack = 1000, 20
	var serving atomic.Int64
	echo := serve(t, func(c net.Conn) {
		serving.Add(1)
		defer serving.Add(-1)
		buf := make([]byte, 256)
		for {
			n, err := c.Read(buf)
			if err != nil {
				return
			}
			if _, err := c.Write(buf[:n]); err != nil {
				return
			}
		}
	})
	start(t, global(remoteHere, entries("echo"))+site("target echo tcp/"+echo))
	dial := func() net.Conn {
		c, err := net.Dial("tcp", entry1)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		if err := pingPong(c); err != nil {
			t.Fatal(err)
		}
		return c
	}
	open := []net.Conn{dial()} // the tunnel and the pools are there
	ours := func() int { return runtime.NumGoroutine() - int(serving.Load()) }
	// What the start leaves behind ends by and by.
	before := ours()
	eventually(t, func() error {
		now := ours()
		if now < before {
			before = now
			return fmt.Errorf("%d goroutines, and fewer from look to look", now)
		}
		return nil
	})
	for len(open) <= connections {
		open = append(open, dial())
	}
	eventually(t, func() error {
		if n := ours(); n > before+slack {
			return fmt.Errorf("%d goroutines with %d connections, %d with one", n, len(open), before)
		}
		return nil
	})
	if n := streamsOf(t, "gateway"); n != len(open) {
		t.Errorf("%d streams for %d connections", n, len(open))
	}
	for _, c := range []net.Conn{open[0], open[len(open)/2], open[len(open)-1]} {
		if err := pingPong(c); err != nil {
			t.Error(err)
		}
	}
	t.Logf("%d goroutines with one connection, %d with %d", before, ours(), len(open))
}
