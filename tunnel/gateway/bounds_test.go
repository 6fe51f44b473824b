package gateway

import (
	"context"
	"fmt"
	"net"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/culvertgate/culvert/framecodec"
	"github.com/culvertgate/culvert/internal/testkit"
	"github.com/culvertgate/culvert/tunnel"
	"github.com/culvertgate/culvert/tunnel/policy"
)

func eventually(t testing.TB, what string, check func() bool) {
	t.Helper()
	testkit.Eventually(t, 10*time.Second, func() error {
		if !check() {
			return fmt.Errorf("not yet: %s", what)
		}
		return nil
	})
}

// results counts how opens in the background end.
type results struct {
	wg    sync.WaitGroup
	mu    sync.Mutex
	codes map[tunnel.Code]int
	took  []time.Duration
}

func (r *results) dial(o *office, target tunnel.Target) {
	r.wg.Go(func() {
		start := time.Now()
		c, err := o.dial(target)
		took := time.Since(start)
		if err == nil {
			_ = c.Close()
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.codes == nil {
			r.codes = map[tunnel.Code]int{}
		}
		r.codes[tunnel.CodeOf(err)]++
		r.took = append(r.took, took)
	})
}

func (r *results) count(c tunnel.Code) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.codes[c]
}

// Black holes and silent name servers cost nobody else anything: while 500 opens
// to 50 dead addresses and 100 to names without an answer are pending, 1,000
// good ones go through, in this tunnel and in another one, and every dead one
// ends with timeout in time.
func TestBlackHolesHoldUpNobody(t *testing.T) {
	const timeout = 4 * time.Second
	configure := func(e *ExitConfig, _ *tunnel.Config) { e.Timeouts = fixed(Timeouts{Dial: timeout}) }
	cfg := rules("tcp/10.0.0.0/8:22", "tcp/*.example:443")
	o := open(t, cfg, configure)
	other := open(t, cfg, configure, func(e *ExitConfig, _ *tunnel.Config) { e.Pool = o.pool })
	var dead results
	for i := range 500 {
		dead.dial(o, tcp(fmt.Sprintf("10.66.0.%d", i%50), 22))
	}
	for i := range 100 {
		dead.dial(o, tcp(fmt.Sprintf("n%d.example", i), 443))
	}
	eventually(t, "600 opens are pending", func() bool { return o.pool.Opens() == 600 })
	for _, through := range []*office{o, other} {
		var took []time.Duration
		for i := range 500 {
			start := time.Now()
			c, err := through.dial(tcp(fmt.Sprintf("10.0.1.%d", i%250), 22))
			took = append(took, time.Since(start))
			if err != nil {
				t.Fatalf("a good open: %v", err)
			}
			exchange(t, c, "x")
			_ = c.Close()
		}
		slices.Sort(took)
		t.Logf("good opens: median %v, p95 %v", took[250], took[475])
		if took[475] > 500*time.Millisecond { // a held up one takes seconds
			t.Errorf("p95 of good opens is %v", took[475])
		}
	}
	dead.wg.Wait()
	if dead.codes[framecodec.CodeTimeout] != 600 {
		t.Errorf("the dead ones ended with %v", dead.codes)
	}
	if worst := slices.Max(dead.took); worst > timeout+3*time.Second { // one that waited for another takes twice the time
		t.Errorf("one took %v", worst)
	}
}

// gate is a Connect that counts and holds dials until it is opened.
type gate struct {
	opened    chan struct{}
	now, most atomic.Int32
}

func (g *gate) connect(o func() *office) func(context.Context, policy.Address, policy.Control) (net.Conn, error) {
	return func(ctx context.Context, a policy.Address, control policy.Control) (net.Conn, error) {
		n := g.now.Add(1)
		defer g.now.Add(-1)
		for most := g.most.Load(); n > most && !g.most.CompareAndSwap(most, n); most = g.most.Load() {
		}
		if a.Addr.As4()[1] == 1 { // 10.1.0.0/16 waits
			select {
			case <-g.opened:
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		}
		return o().connect(ctx, a, control)
	}
}

// At most 64 dials to one address at a time; the rest wait in a line of their
// own and all get their turn.
func TestLinePerAddress(t *testing.T) {
	g := &gate{opened: make(chan struct{})}
	var o *office
	o = open(t, rules("tcp/10.0.0.0/8:22"), func(e *ExitConfig, _ *tunnel.Config) {
		e.Timeouts = fixed(Timeouts{Dial: 30 * time.Second})
		e.Connect = g.connect(func() *office { return o })
	})
	var waiting results
	for range 200 {
		waiting.dial(o, tcp("10.1.0.1", 22))
	}
	eventually(t, "200 opens are pending, 64 of them dial", func() bool { return o.pool.Opens() == 200 && g.now.Load() == 64 })
	for range 100 {
		c, err := o.dial(tcp("10.2.0.1", 22))
		if err != nil {
			t.Fatalf("another address: %v", err)
		}
		_ = c.Close()
	}
	if most := g.most.Load(); most > 65 {
		t.Errorf("%d dials at once", most)
	}
	close(g.opened)
	waiting.wg.Wait()
	if waiting.codes[framecodec.CodeNormal] != 200 {
		t.Errorf("ended with %v", waiting.codes)
	}
}

// The same address at another port is another line.
func TestLineIsOfAddressAndPort(t *testing.T) {
	g := &gate{opened: make(chan struct{})}
	defer close(g.opened)
	var o *office
	o = open(t, rules("tcp/10.0.0.0/8:22,23"), func(e *ExitConfig, _ *tunnel.Config) {
		e.Connect = g.connect(func() *office { return o })
		e.Pool = NewPool(PoolConfig{PerAddress: 1})
		e.Timeouts = fixed(Timeouts{Dial: 300 * time.Millisecond})
	})
	var waiting results
	waiting.dial(o, tcp("10.1.0.1", 22))
	waiting.dial(o, tcp("10.1.0.1", 23))
	waiting.dial(o, tcp("10.1.0.1", 23))
	eventually(t, "two dial", func() bool { return g.most.Load() == 2 })
	waiting.wg.Wait() // the third one's time runs while it waits
	if waiting.codes[framecodec.CodeTimeout] != 3 || g.most.Load() != 2 {
		t.Errorf("ended with %v, %d at once", waiting.codes, g.most.Load())
	}
}

// Beyond the bounds of a tunnel and of the process: overloaded, at once.
func TestOverloaded(t *testing.T) {
	for name, configure := range map[string]option{
		"tunnel":  func(e *ExitConfig, _ *tunnel.Config) { e.MaxOpens = 10 },
		"process": func(e *ExitConfig, _ *tunnel.Config) { e.Pool.cfg.Total = 10 },
	} {
		t.Run(name, func(t *testing.T) {
			o := open(t, rules("tcp/10.0.0.0/8:22"), configure, func(e *ExitConfig, _ *tunnel.Config) { e.Timeouts = fixed(Timeouts{Dial: time.Second}) })
			var pending results
			for i := range 10 {
				pending.dial(o, tcp(fmt.Sprintf("10.66.0.%d", i), 22))
			}
			eventually(t, "ten are pending", func() bool { return o.pool.Opens() == 10 })
			start := time.Now()
			if _, err := o.dial(tcp("10.0.0.9", 22)); tunnel.CodeOf(err) != framecodec.CodeOverloaded || time.Since(start) > 500*time.Millisecond {
				t.Errorf("the eleventh: %v after %v", err, time.Since(start))
			}
			pending.wg.Wait()
			c, err := o.dial(tcp("10.0.0.9", 22))
			if err != nil {
				t.Fatalf("when they are over: %v", err)
			}
			_ = c.Close()
		})
	}
}

// A peer that gives up frees its place at once.
func TestPeerGivesUp(t *testing.T) {
	o := open(t, rules("tcp/10.0.0.0/8:22", "tcp/*.example:443"), func(e *ExitConfig, _ *tunnel.Config) { e.Timeouts = fixed(Timeouts{Dial: time.Minute}) })
	for _, target := range []tunnel.Target{tcp("10.66.0.1", 22), tcp("silent.example", 443)} {
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() {
			_, ep := tunnel.NewConn(tunnel.Addr{}, tunnel.Addr{})
			_, err := o.client.Open(ctx, target, ep)
			done <- err
		}()
		eventually(t, "it is pending", func() bool { return o.pool.Opens() == 1 })
		cancel()
		if err := <-done; tunnel.CodeOf(err) != framecodec.CodeCancelled {
			t.Errorf("%v", err)
		}
		eventually(t, "its place is free", func() bool { return o.pool.Opens() == 0 })
	}
}

// The end of the tunnel ends what is being opened, and Accept takes no more.
func TestCloseWhileOpening(t *testing.T) {
	o := open(t, rules("tcp/10.0.0.0/8:22"), func(e *ExitConfig, _ *tunnel.Config) { e.Timeouts = fixed(Timeouts{Dial: time.Minute}) })
	var pending results
	for i := range 100 {
		pending.dial(o, tcp(fmt.Sprintf("10.66.0.%d", i%3), 22))
	}
	eventually(t, "100 are pending", func() bool { return o.pool.Opens() == 100 })
	o.exit.Close()
	o.exit.Wait()
	pending.wg.Wait()
	if n := o.pool.Opens(); n != 0 || pending.codes[framecodec.CodeTunnelClosed] != 100 {
		t.Errorf("%d opens left, ended with %v", n, pending.codes)
	}
	if _, err := o.dial(named("echo")); tunnel.CodeOf(err) != framecodec.CodeTunnelClosed {
		t.Errorf("after Close: %v", err)
	}
}

// A burst of 100 look-ups, then 20 a second; who waits for leave costs addresses
// nothing, and who gives up leaves no debt.
func TestLookupRate(t *testing.T) {
	l := newLookups()
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	var passed atomic.Int32
	var wg sync.WaitGroup
	for range 400 {
		wg.Go(func() {
			if l.wait(ctx) == nil {
				passed.Add(1)
			}
		})
	}
	wg.Wait()
	if n := passed.Load(); n <= lookupBurst || n > 111 {
		t.Errorf("%d look-ups in half a second, want about 110", n)
	}
	start := time.Now()
	later, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	if err := l.wait(later); err != nil || time.Since(start) > time.Second {
		t.Errorf("the next one waits %v: %v", time.Since(start), err)
	}
}

func TestLookupsWaitBesideAddresses(t *testing.T) {
	o := open(t, rules("tcp/10.0.0.0/8:22,443", "tcp/*.example:443 private"), func(e *ExitConfig, _ *tunnel.Config) { e.Timeouts = fixed(Timeouts{Dial: 3 * time.Second}) })
	var byName results
	for range 140 {
		byName.dial(o, tcp("good.example", 443))
	}
	eventually(t, "the burst has passed", func() bool { return byName.count(framecodec.CodeNormal) >= 100 })
	if o.pool.Opens() < 20 {
		t.Errorf("only %d of the others wait", o.pool.Opens())
	}
	start := time.Now()
	c, err := o.dial(tcp("10.0.0.9", 22))
	if err != nil || time.Since(start) > 500*time.Millisecond {
		t.Fatalf("an address: %v after %v", err, time.Since(start))
	}
	_ = c.Close()
	byName.wg.Wait()
	if byName.codes[framecodec.CodeNormal] != 140 || slices.Max(byName.took) < time.Second {
		t.Errorf("ended with %v, the last after %v", byName.codes, slices.Max(byName.took))
	}
}

// A stream that is open costs no goroutine.
func TestNoGoroutinePerStream(t *testing.T) {
	o := open(t, rules("tcp/10.0.0.0/8:22"), func(e *ExitConfig, _ *tunnel.Config) {
		e.Connect = func(context.Context, policy.Address, policy.Control) (net.Conn, error) { return &idleConn{}, nil }
		e.Reactor = idleReactor{}
	})
	before := runtime.NumGoroutine()
	for range 500 {
		if _, err := o.dial(named("echo")); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "the openers are gone", func() bool { return runtime.NumGoroutine() <= before+5 })
}

// idleConn and idleReactor stand for connections on which nothing happens.
type idleConn struct{ net.Conn }

func (*idleConn) LocalAddr() net.Addr { return tunnel.Addr{} }
func (*idleConn) Close() error        { return nil }

type idleReactor struct{}

func (idleReactor) Adopt(net.Conn, []byte) (tunnel.Endpoint, error) { return idleEndpoint{}, nil }

type idleEndpoint struct{}

func (idleEndpoint) TryRead([]byte) (int, error)    { return 0, tunnel.ErrWouldBlock }
func (idleEndpoint) TryWrite(p []byte) (int, error) { return len(p), nil }
func (idleEndpoint) CloseWrite() error              { return nil }
func (idleEndpoint) Close(tunnel.Code)              {}
func (idleEndpoint) Bind(tunnel.Readiness)          {}
