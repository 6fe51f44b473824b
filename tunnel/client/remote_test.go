package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/culvertgate/culvert/framecodec"
	"github.com/culvertgate/culvert/internal/testkit"
	"github.com/culvertgate/culvert/internal/testkit/gatewaykit"
	"github.com/culvertgate/culvert/tunnel"
	"github.com/culvertgate/culvert/tunnel/signal"
)

func newTestRemote(t *testing.T, cfg Config) *Remote {
	t.Helper()
	r := NewRemote(cfg)
	t.Cleanup(r.Close)
	return r
}

func TestLazyRemoteConnectsOnceForAll(t *testing.T) {
	t.Parallel()
	g := gatewaykit.New(t)
	r := newTestRemote(t, configFor(g))
	if r.Current() != nil || g.Seen("POST ") != 0 {
		t.Fatal("a lazy remote has connected")
	}
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			conn, err := r.Open(withTimeout(t), "echo")
			if err != nil {
				t.Errorf("Open: %v", err)
				return
			}
			exchange(t, conn, 1000)
		})
	}
	wg.Wait()
	if n := g.Seen("POST "); n != 1 {
		t.Errorf("%d tunnels were made, want 1", n)
	}
	if conn, err := r.DialContext(withTimeout(t), "tcp", "echo.example:7"); err != nil {
		t.Errorf("DialContext: %v", err)
	} else {
		exchange(t, conn, 10)
	}
	if list, err := r.Targets(withTimeout(t)); err != nil || len(list) == 0 {
		t.Errorf("Targets = %q, %v", list, err)
	}
}

func up(r *Remote) func() error {
	return func() error {
		if r.Current() == nil {
			return fmt.Errorf("no tunnel: %w", r.Err())
		}
		return nil
	}
}

func TestEagerRemoteComesBack(t *testing.T) {
	t.Parallel()
	g := gatewaykit.New(t)
	cfg := configFor(g)
	cfg.Connect = Eager
	r := newTestRemote(t, cfg)
	testkit.Eventually(t, patience, up(r))
	first := r.Current()
	g.Sessions()[0].Tunnel().Close(framecodec.CodeClosedByAdmin, "")
	<-first.Done()
	testkit.Eventually(t, patience, func() error {
		if now := r.Current(); now == nil || now == first {
			return errors.New("no new tunnel")
		}
		return nil
	})
}

// TestOpensWaitForTheReconnect holds that opens during an outage wait for the
// next tunnel, and that all get the same one.
func TestOpensWaitForTheReconnect(t *testing.T) {
	t.Parallel()
	g := gatewaykit.New(t)
	r := newTestRemote(t, configFor(g))
	if _, err := r.Tunnel(withTimeout(t)); err != nil {
		t.Fatal(err)
	}
	g.Intercept(func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method == http.MethodDelete {
			return false
		}
		w.WriteHeader(http.StatusServiceUnavailable)
		return true
	})
	lost := r.Current()
	g.Sessions()[0].Tunnel().Close(framecodec.CodeClosedByAdmin, "")
	<-lost.Done()
	var wg sync.WaitGroup
	for range 5 {
		wg.Go(func() {
			conn, err := r.Open(withTimeout(t), "echo")
			if err != nil {
				t.Errorf("Open: %v", err)
				return
			}
			exchange(t, conn, 1000)
		})
	}
	testkit.Eventually(t, patience, func() error {
		if n := g.Seen("OPTIONS "); n < 2 {
			return fmt.Errorf("%d attempts", n)
		}
		return nil
	})
	g.Intercept(nil)
	wg.Wait()
	if n := g.Seen("POST "); n != 2 {
		t.Errorf("%d tunnels were made, want 2", n)
	}
}

// TestFirstFailureIsTold: whoever waits for a gateway that was never reached, or
// that refuses the credentials, is told at once.
func TestFirstFailureIsTold(t *testing.T) {
	t.Parallel()
	g := gatewaykit.New(t)
	cfg := configFor(g)
	cfg.Header = bearer("") // no identity
	began := time.Now()
	_, err := newTestRemote(t, cfg).Open(withTimeout(t), "echo")
	if tunnel.CodeOf(err) != framecodec.CodeUnauthenticated || time.Since(began) > patience/2 {
		t.Errorf("after %s: %v, want unauthenticated", time.Since(began), err)
	}
	g.Server.Close()
	if _, err := newTestRemote(t, configFor(g)).Open(withTimeout(t), "echo"); tunnel.CodeOf(err) != framecodec.CodeRefused {
		t.Errorf("nobody there: %v, want refused", err)
	}
}

// TestFirstOpenWaitsForTheNextGateway: a process or configuration that is about
// to end is no failure of the gateway, also for whoever meets it first; what comes
// after it counts.
func TestFirstOpenWaitsForTheNextGateway(t *testing.T) {
	t.Parallel()
	for name, follower := range map[string]framecodec.Code{
		"taken over": framecodec.CodeNormal,
		"a refusal":  framecodec.CodeNotAllowed,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := gatewaykit.New(t)
			var posts atomic.Int32
			g.Intercept(func(w http.ResponseWriter, r *http.Request) bool {
				if r.Method != http.MethodPost {
					return false
				}
				code := follower
				if posts.Add(1) == 1 {
					code = framecodec.CodeDraining
				}
				if code == framecodec.CodeNormal {
					return false
				}
				signal.WriteProblem(w, signal.WithRetryAfter(time.Second, &tunnel.Error{Code: code}))
				return true
			})
			conn, err := newTestRemote(t, configFor(g)).Open(withTimeout(t), "echo")
			if tunnel.CodeOf(err) != follower || posts.Load() != 2 {
				t.Errorf("after %d attempts: %v, want %v after 2", posts.Load(), err, follower)
			}
			if err == nil {
				exchange(t, conn, 1000)
			}
		})
	}
}

// TestWaitEndsWithItsContext holds that an open never hangs beyond its context
// and says which step it was waiting for.
func TestWaitEndsWithItsContext(t *testing.T) {
	t.Parallel()
	g := gatewaykit.New(t)
	g.Intercept(func(_ http.ResponseWriter, r *http.Request) bool {
		_, _ = io.Copy(io.Discard, r.Body)
		<-r.Context().Done()
		return true
	})
	r := newTestRemote(t, configFor(g))
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	conn, ep := tunnel.NewConn(tunnel.Addr{}, tunnel.Addr{})
	_, err := r.OpenEndpoint(ctx, tunnel.Target{Kind: tunnel.KindNamed, Host: "echo"}, ep)
	var e *StepError
	if !errors.As(err, &e) || e.Step != StepSignal || tunnel.CodeOf(err) != framecodec.CodeTimeout {
		t.Errorf("OpenEndpoint: %v, want a time-out of the step signal", err)
	}
	if _, err := conn.Read(make([]byte, 1)); tunnel.CodeOf(err) != framecodec.CodeTimeout {
		t.Errorf("the endpoint was closed with %v, want timeout", err)
	}
}

// TestRetryAfterIsKept holds that a gateway that asks for time gets it, even
// while somebody waits.
func TestRetryAfterIsKept(t *testing.T) {
	t.Parallel()
	g := gatewaykit.New(t)
	r := newTestRemote(t, configFor(g))
	if _, err := r.Tunnel(withTimeout(t)); err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var at []time.Time
	g.Intercept(func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method != http.MethodOptions {
			return false
		}
		mu.Lock()
		defer mu.Unlock()
		if at = append(at, time.Now()); len(at) > 1 {
			return false
		}
		w.Header().Set("Retry-After", "2")
		w.WriteHeader(http.StatusServiceUnavailable)
		return true
	})
	lost := r.Current()
	g.Sessions()[0].Tunnel().Close(framecodec.CodeClosedByAdmin, "")
	<-lost.Done()
	conn, err := r.Open(withTimeout(t), "echo")
	if err != nil {
		t.Fatal(err)
	}
	_ = conn.Close()
	mu.Lock()
	defer mu.Unlock()
	if len(at) != 2 || at[1].Sub(at[0]) < 2*time.Second {
		t.Errorf("attempts at %v, want two, 2 s apart", at)
	}
}

// TestGoAwayOfARemote holds that new streams get a new tunnel while the old one
// lets its stream finish.
func TestGoAwayOfARemote(t *testing.T) {
	t.Parallel()
	g := gatewaykit.New(t)
	r := newTestRemote(t, configFor(g))
	old, err := r.Open(withTimeout(t), "echo")
	if err != nil {
		t.Fatal(err)
	}
	first := r.Current()
	g.Sessions()[0].Tunnel().GoAway(framecodec.CodeDraining, time.Minute)
	<-first.Session().Away()
	conn, err := r.Open(withTimeout(t), "echo")
	if err != nil {
		t.Fatal(err)
	}
	if n := len(r.Tunnels()); n != 2 || r.Current() == first {
		t.Errorf("%d tunnels, want the old and a new one", n)
	}
	exchange(t, conn, 1000)
	exchange(t, old, 1000)
	testkit.Eventually(t, patience, func() error {
		if n := len(r.Tunnels()); n != 1 {
			return fmt.Errorf("%d tunnels are left", n)
		}
		return nil
	})
}

func TestDrain(t *testing.T) {
	t.Parallel()
	g := gatewaykit.New(t)
	r := newTestRemote(t, configFor(g))
	conn, err := r.Open(withTimeout(t), "echo")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := r.Drain(ctx); tunnel.CodeOf(err) != framecodec.CodeTimeout {
		t.Errorf("Drain with a running stream: %v", err)
	}
	if _, err := r.Open(withTimeout(t), "echo"); tunnel.CodeOf(err) != framecodec.CodeDraining {
		t.Errorf("Open while draining: %v", err)
	}
	exchange(t, conn, 1000)
	if err := r.Drain(withTimeout(t)); err != nil {
		t.Errorf("Drain: %v", err)
	}
	r.Close()
	r.Close()
	if _, err := r.Open(withTimeout(t), "echo"); tunnel.CodeOf(err) != framecodec.CodeTunnelClosed {
		t.Errorf("Open after Close: %v", err)
	}
	gone(t, g)
}

// TestCloseDuringConnect holds that Close ends an attempt and everybody's wait.
func TestCloseDuringConnect(t *testing.T) {
	t.Parallel()
	g := gatewaykit.New(t)
	asked := make(chan struct{})
	var once sync.Once
	g.Intercept(func(_ http.ResponseWriter, r *http.Request) bool {
		_, _ = io.Copy(io.Discard, r.Body)
		once.Do(func() { close(asked) })
		<-r.Context().Done()
		return true
	})
	r := NewRemote(configFor(g))
	result := make(chan error, 1)
	go func() {
		_, err := r.Open(context.Background(), "echo")
		result <- err
	}()
	<-asked
	r.Close()
	if err := <-result; err == nil {
		t.Error("the open succeeded")
	}
}

// TestCredentialsAreReadForEachAttempt: a token file may change.
func TestCredentialsAreReadForEachAttempt(t *testing.T) {
	t.Parallel()
	g := gatewaykit.New(t)
	var mu sync.Mutex
	token := ""
	cfg := configFor(g)
	cfg.Header = func(ctx context.Context) (http.Header, error) {
		mu.Lock()
		defer mu.Unlock()
		return bearer(token)(ctx)
	}
	r := newTestRemote(t, cfg)
	if _, err := r.Open(withTimeout(t), "echo"); tunnel.CodeOf(err) != framecodec.CodeUnauthenticated {
		t.Fatalf("Open: %v", err)
	}
	mu.Lock()
	token = "alice"
	mu.Unlock()
	conn, err := r.Open(withTimeout(t), "echo")
	if err != nil {
		t.Fatal(err)
	}
	_ = conn.Close()
}

// TestChurn opens streams without pause while the gateway ends every tunnel soon
// after it is up: whatever the moment, an open works or says why, and nothing is
// left.
func TestChurn(t *testing.T) {
	t.Parallel()
	g := gatewaykit.New(t)
	r := newTestRemote(t, configFor(g))
	stop := time.Now().Add(8 * time.Second)
	var good, ended atomic.Int64
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for time.Now().Before(stop) {
				conn, err := r.Open(withTimeout(t), "echo")
				if err == nil {
					_ = conn.SetDeadline(time.Now().Add(patience))
					_, _ = conn.Write([]byte("x"))
					_, err = io.ReadFull(conn, make([]byte, 1))
					_ = conn.Close()
				}
				switch tunnel.CodeOf(err) {
				case framecodec.CodeNormal:
					good.Add(1)
				case framecodec.CodeClosedByAdmin, framecodec.CodeTunnelLost, framecodec.CodeTunnelClosed:
					ended.Add(1)
				default:
					t.Errorf("open: %v", err)
					return
				}
			}
		})
	}
	wg.Go(func() {
		for time.Now().Before(stop) {
			for _, s := range g.Sessions() {
				if session := s.Tunnel(); session != nil {
					select {
					case <-session.Ready():
					case <-session.Done():
					}
					session.Close(framecodec.CodeClosedByAdmin, "churn")
				}
			}
			time.Sleep(50 * time.Millisecond) // the pace of the faults, not a wait for anything
		}
	})
	wg.Wait()
	if n := g.Seen("POST "); good.Load() == 0 || n < 3 {
		t.Errorf("%d opens worked, %d ended with their tunnel, %d tunnels", good.Load(), ended.Load(), n)
	}
	r.Close()
	gone(t, g)
}
