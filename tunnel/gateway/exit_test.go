package gateway

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/culvertgate/culvert/framecodec"
	"github.com/culvertgate/culvert/tunnel"
	"github.com/culvertgate/culvert/tunnel/policy"
	"github.com/culvertgate/culvert/tunnel/reactor"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// office is one tunnel in memory: a client's session, a gateway's session and
// its Exit, and an echo server that every address of 10/8 leads to.
type office struct {
	t       testing.TB
	client  *tunnel.Session
	gateway *tunnel.Session
	exit    *Exit
	pool    *Pool
	policy  atomic.Pointer[policy.Policy]
	echo    net.Listener
	panics  atomic.Int32

	mu      sync.Mutex
	denials []string // rules
	dials   map[string]int
}

// Addresses of the seam: black holes, refusals, everything else is the echo
// server.
var (
	blackHoles = netip.MustParsePrefix("10.66.0.0/16")
	refusals   = netip.MustParsePrefix("10.67.0.0/16")
)

func rules(texts ...string) policy.Config {
	d := &policy.Dynamic{}
	for _, text := range texts {
		d.Rules = append(d.Rules, policy.Rule{Text: text})
	}
	return policy.Config{Endpoint: "gw", Dynamic: d, DefaultTarget: "echo", Targets: []policy.NamedTarget{
		{Name: "echo", Addresses: []string{"tcp/10.0.0.5:22"}},
		{Name: "other", Addresses: []string{"tcp/10.0.0.6:22"}},
	}}
}

func mustPolicy(t testing.TB, cfg policy.Config) *policy.Policy {
	t.Helper()
	p, err := policy.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

type option func(*ExitConfig, *tunnel.Config)

func open(t testing.TB, cfg policy.Config, options ...option) *office {
	t.Helper()
	o := &office{t: t, pool: NewPool(PoolConfig{}), dials: map[string]int{}}
	o.policy.Store(mustPolicy(t, cfg))
	o.echo = echoServer(t)
	r, err := reactor.New(reactor.Config{})
	if err != nil {
		t.Fatal(err)
	}
	ec := ExitConfig{
		Subject: policy.Subject{Endpoint: "gw"}, Policy: o.policy.Load, Pool: o.pool, Reactor: r,
		Timeouts: fixed(Timeouts{Dial: 5 * time.Second}), OnDenied: o.denied, Connect: o.connect, Resolver: silent{},
		OnPanic: func(any, []byte) { o.panics.Add(1) },
	}
	sc := tunnel.Config{Dialect: tunnel.Dialect2, Role: tunnel.RoleGateway}
	for _, f := range options {
		f(&ec, &sc)
	}
	o.exit = NewExit(ec)
	sc.Accept = o.exit.Accept
	a, b := newWires()
	o.gateway = tunnel.NewSession(b, sc)
	o.client = tunnel.NewSession(a, tunnel.Config{Dialect: sc.Dialect, Role: tunnel.RoleClient})
	if sc.Dialect == tunnel.Dialect2 {
		c, d := newWires()
		o.client.AttachDatagrams(c)
		o.gateway.AttachDatagrams(d)
	}
	t.Cleanup(func() {
		o.client.Close(framecodec.CodeNormal, "")
		o.client.Wait()
		o.gateway.Wait()
		o.exit.Close()
		o.exit.Wait()
		if err := r.Close(); err != nil {
			t.Error(err)
		}
		if n := o.pool.Opens(); n != 0 {
			t.Errorf("%d opens are left in the pool", n)
		}
		if n := len(o.pool.lines); n != 0 {
			t.Errorf("%d lines are left in the pool", n)
		}
	})
	return o
}

func (o *office) denied(d policy.Decision, _ tunnel.Target) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.denials = append(o.denials, d.Rule.String())
}

func (o *office) deniedBy() []string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return slices.Clone(o.denials)
}

func (o *office) connect(ctx context.Context, a policy.Address, control policy.Control) (net.Conn, error) {
	if err := control(a.Network(), a.String(), nil); err != nil {
		return nil, err
	}
	o.mu.Lock()
	o.dials[a.String()]++
	o.mu.Unlock()
	switch {
	case blackHoles.Contains(a.Addr):
		<-ctx.Done()
		return nil, ctx.Err()
	case refusals.Contains(a.Addr):
		return nil, refusedError()
	}
	var d net.Dialer
	return d.DialContext(ctx, "tcp", o.echo.Addr().String())
}

// refusedError is what the system says of a closed port.
func refusedError() error {
	return &net.OpError{Op: "dial", Net: "tcp", Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}
}

// silent is a resolver that never answers, but for the names of good.example.
type silent struct{}

func (silent) LookupNetIP(ctx context.Context, _, name string) ([]netip.Addr, error) {
	switch name {
	case "good.example":
		return []netip.Addr{netip.MustParseAddr("10.0.0.7")}, nil
	case "missing.example":
		return nil, &net.DNSError{Err: "no such host", IsNotFound: true}
	}
	<-ctx.Done()
	return nil, ctx.Err()
}

// echoServer returns what it gets; half close included.
func echoServer(t testing.TB) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				_, _ = io.Copy(c, c)
				_ = c.Close()
			})
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		wg.Wait()
	})
	return l
}

func tcp(host string, port uint16) tunnel.Target {
	return tunnel.Target{Kind: tunnel.KindTCP, Host: host, Port: port}
}

func named(name string) tunnel.Target { return tunnel.Target{Kind: tunnel.KindNamed, Host: name} }

// dial opens a stream as a client does.
func (o *office) dial(t tunnel.Target) (*tunnel.Conn, error) {
	conn, ep := tunnel.NewConn(tunnel.Addr{}, tunnel.Addr{})
	ctx, cancel := context.WithTimeout(o.t.Context(), 30*time.Second)
	defer cancel()
	_, err := o.client.Open(ctx, t, ep)
	return conn, err
}

// exchange sends text and wants it back.
func exchange(t testing.TB, c io.ReadWriter, text string) {
	t.Helper()
	if _, err := io.WriteString(c, text); err != nil {
		t.Fatalf("sending %q: %v", text, err)
	}
	got := make([]byte, len(text))
	if _, err := io.ReadFull(c, got); err != nil || string(got) != text {
		t.Fatalf("sent %q, got %q, %v", text, got, err)
	}
}

func TestOpen(t *testing.T) {
	o := open(t, rules("tcp/10.0.0.0/8:22", "tcp/*.example:443 private"))
	for _, target := range []tunnel.Target{named("echo"), named(""), tcp("10.0.0.9", 22), tcp("::ffff:10.0.0.9", 22), tcp("good.example", 443)} {
		c, err := o.dial(target)
		if err != nil {
			t.Errorf("%v: %v", target, err)
			continue
		}
		exchange(t, c, "hello "+target.String())
		if err := c.CloseWrite(); err != nil {
			t.Error(err)
		}
		if rest, err := io.ReadAll(c); len(rest) != 0 || err != nil {
			t.Errorf("%v: after the end: %q, %v", target, rest, err)
		}
		_ = c.Close()
	}
}

func TestRefusals(t *testing.T) {
	o := open(t, rules("tcp/10.0.0.0/8:22", "tcp/*.example:443"), func(e *ExitConfig, _ *tunnel.Config) { e.Timeouts = fixed(Timeouts{Dial: 300 * time.Millisecond}) })
	tests := []struct {
		target tunnel.Target
		want   tunnel.Code
		rule   string // of the denial that was told
	}{
		{named("none"), framecodec.CodeUnknownTarget, "targets"},
		{tcp("127.0.0.1", 22), framecodec.CodeNotAllowed, "addresses.loopback"},
		{tcp("127.1", 22), framecodec.CodeNotAllowed, "host"},
		{tcp("10.0.0.5", 23), framecodec.CodeNotAllowed, "addresses.private"},
		{tcp("good.example", 443), framecodec.CodeNotAllowed, "addresses.private"},
		{tcp("missing.example", 443), framecodec.CodeResolveFailed, ""},
		{tcp("missing.test", 22), framecodec.CodeNotAllowed, "dynamic"}, // the look-up's end is not told
		{tcp("silent.example", 443), framecodec.CodeTimeout, ""},
		{tcp("10.66.0.1", 22), framecodec.CodeTimeout, ""},
		{tcp("10.67.0.1", 22), framecodec.CodeRefused, ""},
	}
	for _, tt := range tests {
		before := len(o.deniedBy())
		_, err := o.dial(tt.target)
		var known *tunnel.Error
		if !errors.As(err, &known) || known.Code != tt.want || known.Text != policy.ClientText(tt.want) {
			t.Errorf("%v: the client is told %v, want %v", tt.target, err, tt.want)
		}
		told := o.deniedBy()[before:]
		if tt.rule == "" && len(told) != 0 || tt.rule != "" && !slices.Equal(told, []string{tt.rule}) {
			t.Errorf("%v: denied by %v, want %q", tt.target, told, tt.rule)
		}
	}
}

// A peer of the reference system names no target, or host and port.
func TestDialect1Targets(t *testing.T) {
	dialect1 := func(_ *ExitConfig, s *tunnel.Config) { s.Dialect = tunnel.Dialect1 }
	for _, tt := range []struct {
		name    string
		target  tunnel.Target
		options []option
		dialled string
	}{
		{"default of the policy", named(""), nil, "10.0.0.5:22"},
		{"default of the offer", named(""), []option{func(e *ExitConfig, _ *tunnel.Config) { e.DefaultTarget = "other" }}, "10.0.0.6:22"},
		{"host and port", tcp("10.0.0.9", 22), nil, "10.0.0.9:22"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			o := open(t, rules("tcp/10.0.0.0/8:22"), append(tt.options, dialect1)...)
			c, err := o.dial(tt.target)
			if err != nil {
				t.Fatal(err)
			}
			exchange(t, c, "hello")
			_ = c.Close()
			if o.dials[tt.dialled] != 1 {
				t.Errorf("dialled %v", o.dials)
			}
		})
	}
}

// An Exit whose reactor takes nothing refuses, and leaks no connection.
func TestAdoptFails(t *testing.T) {
	o := open(t, rules("tcp/10.0.0.0/8:22"), func(e *ExitConfig, _ *tunnel.Config) { e.Reactor = noReactor{} })
	if _, err := o.dial(named("echo")); tunnel.CodeOf(err) != framecodec.CodeOverloaded {
		t.Errorf("%v", err)
	}
}

type noReactor struct{}

func (noReactor) Adopt(c net.Conn, _ []byte) (tunnel.Endpoint, error) {
	_ = c.Close()
	return nil, errors.New("no descriptors")
}

// A panic ends the tunnel it happened in, and is told.
func TestPanic(t *testing.T) {
	o := open(t, rules("tcp/10.0.0.0/8:22"), func(e *ExitConfig, _ *tunnel.Config) {
		e.Connect = func(context.Context, policy.Address, policy.Control) (net.Conn, error) { panic("a test") }
	})
	if _, err := o.dial(named("echo")); tunnel.CodeOf(err) != framecodec.CodeInternal {
		t.Errorf("%v", err)
	}
	<-o.client.Done()
	o.exit.Wait()
	if o.panics.Load() != 1 {
		t.Errorf("told of %d panics", o.panics.Load())
	}
}

// fixed are time-outs that no reload changes.
func fixed(t Timeouts) func() Timeouts { return func() Timeouts { return t } }
