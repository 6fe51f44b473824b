package policy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/culvertgate/culvert/framecodec"
	"github.com/culvertgate/culvert/tunnel"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// recorder is a Connect that notes what it is asked for. Addresses in dead are
// black holes, in closed refuse. With networks it notes tcp/10.0.0.5:22.
type recorder struct {
	mu           sync.Mutex
	networks     bool
	dialled      []string
	dead, closed []string
}

func (r *recorder) connect(ctx context.Context, a Address, control Control) (net.Conn, error) {
	if err := control(a.Network(), a.String(), nil); err != nil {
		return nil, err
	}
	r.mu.Lock()
	dialled := a.String()
	if r.networks && a.Path == "" {
		dialled = strings.TrimRight(a.Network(), "46") + "/" + dialled
	}
	r.dialled = append(r.dialled, dialled)
	r.mu.Unlock()
	switch {
	case slices.Contains(r.dead, a.String()):
		<-ctx.Done()
		return nil, ctx.Err()
	case slices.Contains(r.closed, a.String()):
		return nil, &net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}
	}
	one, other := net.Pipe()
	_ = other.Close()
	return one, nil
}

func within(t testing.TB, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

func TestDialFailover(t *testing.T) {
	p := mustNew(t, Config{Targets: []NamedTarget{
		{Name: "pc", Addresses: []string{"tcp/10.0.0.1:1", "tcp/pc.example:2", "unix//run/pc.sock"}},
	}})
	r := &recorder{dead: []string{"10.0.0.1:1", "10.0.0.2:2"}, closed: []string{"10.0.0.3:2"}}
	d := Dialer{Resolver: zone{"pc.example": {"10.0.0.2", "10.0.0.3"}}, Connect: r.connect}
	start := time.Now()
	c, at, err := d.Dial(within(t, time.Second), p, Subject{}, named("pc"))
	if err != nil {
		t.Fatal(err)
	}
	_ = c.Close()
	if want := (Address{Path: "/run/pc.sock"}); at != want {
		t.Errorf("connected to %v", at)
	}
	if took := time.Since(start); took > 900*time.Millisecond {
		t.Errorf("two dead addresses took %v of a second", took)
	}
	if want := []string{"10.0.0.1:1", "10.0.0.2:2", "10.0.0.3:2", "/run/pc.sock"}; !slices.Equal(r.dialled, want) {
		t.Errorf("dialled %v", r.dialled)
	}
}

// A name that leads somewhere denied, or nowhere, does not keep the next address
// of a named target from being tried.
func TestDialFailoverBeyondRefusal(t *testing.T) {
	p := mustNew(t, Config{Targets: []NamedTarget{
		{Name: "pc", Addresses: []string{"tcp/lo.example:2", "tcp/none.example:2", "tcp/10.0.0.9:1"}},
	}})
	r := &recorder{}
	d := Dialer{Resolver: zone{"lo.example": {"127.0.0.1"}}, Connect: r.connect}
	c, _, err := d.Dial(within(t, time.Second), p, Subject{}, named("pc"))
	if err != nil {
		t.Fatal(err)
	}
	_ = c.Close()
	if want := []string{"10.0.0.9:1"}; !slices.Equal(r.dialled, want) {
		t.Errorf("dialled %v", r.dialled)
	}
}

func TestDialCodes(t *testing.T) {
	p := office(t)
	r := &recorder{dead: []string{"10.0.0.100:22"}, closed: []string{"10.0.0.101:22"}}
	d := Dialer{Resolver: officeZone, Connect: r.connect}
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	tests := []struct {
		ctx    context.Context
		target tunnel.Target
		want   tunnel.Code
	}{
		{nil, tcp("10.0.0.7", 22), framecodec.CodeNormal},
		{nil, tcp("10.0.0.100", 22), framecodec.CodeTimeout},
		{nil, tcp("10.0.0.101", 22), framecodec.CodeRefused},
		{nil, tcp("10.0.0.13", 22), framecodec.CodeNotAllowed},
		{nil, tcp("half.example", 443), framecodec.CodeNotAllowed},
		{nil, tcp("missing.example", 443), framecodec.CodeResolveFailed},
		{nil, tcp("missing.example", 22), framecodec.CodeNotAllowed},
		{nil, named("nothing"), framecodec.CodeUnknownTarget},
		{nil, flow("ssh"), framecodec.CodeUnknownTarget},
		{nil, named("dns"), framecodec.CodeUnknownTarget},
		{nil, flow("dns"), framecodec.CodeNormal},
		{nil, udp("10.0.0.7", 53), framecodec.CodeNormal},
		{nil, udp("10.0.0.14", 53), framecodec.CodeNotAllowed},
		{nil, udp("lo.internal.example", 443), framecodec.CodeNotAllowed},
		{canceled, tcp("10.0.0.100", 22), framecodec.CodeCancelled},
	}
	for _, tt := range tests {
		ctx := tt.ctx
		if ctx == nil {
			ctx = within(t, 100*time.Millisecond)
		}
		c, _, err := d.Dial(ctx, p, Subject{}, tt.target)
		if c != nil {
			_ = c.Close()
		}
		if tunnel.CodeOf(err) != tt.want {
			t.Errorf("%v: %v, want %v", tt.target, err, tt.want)
		}
		var known *tunnel.Error
		if err != nil && (!errors.As(err, &known) || known.Text != ClientText(tt.want)) {
			t.Errorf("%v: the client reads %v", tt.target, err)
		}
		var denial *DenialError
		if errors.As(err, &denial) != (tt.want == framecodec.CodeNotAllowed || tt.want == framecodec.CodeUnknownTarget) {
			t.Errorf("%v: denial %v", tt.target, denial)
		}
	}
}

// What a client reads of any refusal holds no address and no rule.
func TestClientTextHoldsNothing(t *testing.T) {
	for c := framecodec.CodeNormal; c <= framecodec.CodeConflict; c++ {
		if strings.ContainsAny(ClientText(c), "0123456789:/%") {
			t.Errorf("%v: %q", c, ClientText(c))
		}
	}
}

// The name is looked up once: an answer that changes behind the check is never
// asked for.
func TestDialResolvesOnce(t *testing.T) {
	p := office(t)
	r := &recorder{dead: []string{"8.8.8.8:443"}}
	z := &counted{zone: officeZone, then: []string{"127.0.0.1"}}
	d := Dialer{Resolver: z, Connect: r.connect}
	c, at, err := d.Dial(within(t, time.Second), p, Subject{}, tcp("public.example", 443))
	if err != nil {
		t.Fatal(err)
	}
	_ = c.Close()
	if at.String() != "[2606:4700::2]:443" || z.count.Load() != 1 {
		t.Errorf("at %v after %d look-ups", at, z.count.Load())
	}
}

// A socket that is about to connect elsewhere is stopped by the hook, whoever
// changed the address, and so is one whose address is refused by now.
func TestControlChecksAgain(t *testing.T) {
	forbidden := []Listener{}
	p := mustNew(t, Config{
		Targets:   []NamedTarget{{Name: "a", Addresses: []string{"tcp/10.0.0.7:22"}}},
		Forbidden: func() []Listener { return forbidden },
	})
	steps, _ := p.plan(Subject{}, named("a"))
	check := func(network, address string) error {
		return p.recheck(Subject{}, tunnel.KindNamed, steps[0].grant, steps[0].address, network, address)
	}
	if err := check("tcp4", "10.0.0.7:22"); err != nil {
		t.Errorf("the checked address: %v", err)
	}
	for _, other := range []string{"10.0.0.8:22", "10.0.0.7:23", "127.0.0.1:22", "[::1]:22", "name:22", ""} {
		if err := check("tcp4", other); tunnel.CodeOf(err) != framecodec.CodeNotAllowed {
			t.Errorf("%q: %v", other, err)
		}
	}
	if err := check("udp4", "10.0.0.7:22"); tunnel.CodeOf(err) != framecodec.CodeNotAllowed {
		t.Errorf("another network: %v", err)
	}
	if err := check("unix", "/run/x"); tunnel.CodeOf(err) != framecodec.CodeNotAllowed {
		t.Errorf("a socket: %v", err)
	}
	forbidden = Listeners("tcp", "10.0.0.7", 22, "an entry")
	if err := check("tcp4", "10.0.0.7:22"); tunnel.CodeOf(err) != framecodec.CodeNotAllowed {
		t.Errorf("after the list has changed: %v", err)
	}
}

// The net.Dialer that is used runs the hook: a listener that becomes forbidden
// between the decision and the connection is not reached.
func TestRealDialerRunsControl(t *testing.T) {
	l := listen(t)
	port := l.Addr().(*net.TCPAddr).AddrPort().Port()
	calls := 0
	p := mustNew(t, Config{
		Targets: []NamedTarget{{Name: "a", Addresses: []string{fmt.Sprintf("tcp/127.0.0.1:%d", port)}}},
		Forbidden: func() []Listener {
			if calls++; calls == 1 { // the check before the dial
				return nil
			}
			return Listeners("tcp", "127.0.0.1", port, "an entry")
		},
	})
	var d Dialer
	c, _, err := d.Dial(within(t, 5*time.Second), p, Subject{}, named("a"))
	if tunnel.CodeOf(err) != framecodec.CodeNotAllowed || calls != 2 {
		t.Fatalf("%v %v after %d checks", c, err, calls)
	}
}

func TestRealDials(t *testing.T) {
	l := listen(t)
	dir := t.TempDir()
	ul, err := net.Listen("unix", filepath.Join(dir, "a.sock"))
	if err != nil {
		t.Fatal(err)
	}
	defer ul.Close()
	closed := listen(t)
	_ = closed.Close()
	p := mustNew(t, Config{Targets: []NamedTarget{
		{Name: "tcp", Addresses: []string{"tcp/" + l.Addr().String()}},
		{Name: "unix", Addresses: []string{"unix/" + ul.Addr().String()}},
		{Name: "refused", Addresses: []string{"tcp/" + closed.Addr().String()}},
		{Name: "missing", Addresses: []string{"unix/" + filepath.Join(dir, "b.sock")}},
		{Name: "second", Addresses: []string{"tcp/" + closed.Addr().String(), "tcp/" + l.Addr().String()}},
	}})
	d := Dialer{Keepalive: 15 * time.Second}
	tests := map[string]tunnel.Code{
		"tcp": framecodec.CodeNormal, "unix": framecodec.CodeNormal, "second": framecodec.CodeNormal,
		"refused": framecodec.CodeRefused, "missing": framecodec.CodeUnreachable,
	}
	for name, want := range tests {
		c, _, err := d.Dial(within(t, 5*time.Second), p, Subject{}, named(name))
		if c != nil {
			_ = c.Close()
		}
		if tunnel.CodeOf(err) != want {
			t.Errorf("%s: %v, want %v", name, err, want)
		}
	}
}

// Waiting in line is part of the time, and of one address only.
func TestDialWaitsInLine(t *testing.T) {
	p := mustNew(t, Config{Targets: []NamedTarget{{Name: "a", Addresses: []string{"tcp/10.0.0.1:1", "tcp/10.0.0.2:1"}}}})
	released := 0
	r := &recorder{}
	d := Dialer{Connect: r.connect, Line: func(ctx context.Context, a Address) (func(), error) {
		if a.Addr == netip.MustParseAddr("10.0.0.1") {
			<-ctx.Done()
			return nil, ctx.Err()
		}
		return func() { released++ }, nil
	}}
	c, at, err := d.Dial(within(t, 200*time.Millisecond), p, Subject{}, named("a"))
	if err != nil || at.String() != "10.0.0.2:1" || released != 1 {
		t.Fatalf("%v %v, released %d", at, err, released)
	}
	_ = c.Close()
	d.Line = func(context.Context, Address) (func(), error) {
		return nil, &tunnel.Error{Code: framecodec.CodeOverloaded}
	}
	if _, _, err := d.Dial(within(t, time.Second), p, Subject{}, named("a")); tunnel.CodeOf(err) != framecodec.CodeOverloaded {
		t.Errorf("a full line: %v", err)
	}
}

// Leave is asked for names that clients choose, not for targets or addresses.
func TestDialAsksLeaveToLookUp(t *testing.T) {
	p := office(t)
	asked := 0
	r := &recorder{}
	d := Dialer{Resolver: officeZone, Connect: r.connect, Lookup: func(ctx context.Context) error {
		if asked++; asked > 1 {
			return context.DeadlineExceeded
		}
		return nil
	}}
	for _, tt := range []struct {
		target tunnel.Target
		want   tunnel.Code
		asked  int
	}{
		{named("web"), framecodec.CodeNormal, 0},
		{tcp("10.0.0.7", 22), framecodec.CodeNormal, 0},
		{tcp("public.example", 443), framecodec.CodeNormal, 1},
		{tcp("public.example", 443), framecodec.CodeTimeout, 2},
		{tcp("ssh.example", 22), framecodec.CodeNotAllowed, 3}, // no name rule: not even that
	} {
		c, _, err := d.Dial(within(t, time.Second), p, Subject{}, tt.target)
		if c != nil {
			_ = c.Close()
		}
		if tunnel.CodeOf(err) != tt.want || asked != tt.asked {
			t.Errorf("%v: %v, asked %d times", tt.target, err, asked)
		}
	}
}

func listen(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}
