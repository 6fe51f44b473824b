package gateway

import (
	"context"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/culvertgate/culvert/framecodec"
	"github.com/culvertgate/culvert/tunnel"
	"github.com/culvertgate/culvert/tunnel/policy"
)

// changes notes what breakers tell.
type changes struct {
	mu   sync.Mutex
	list []BreakerChange
}

func (c *changes) note(one BreakerChange) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.list = append(c.list, one)
}

// take returns what was told since the last call, as short words.
func (c *changes) take() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var words []string
	for _, one := range c.list {
		word := one.Target + " " + one.State.String()
		if one.Again {
			word += " again"
		}
		if one.Gone {
			word += " gone"
		}
		words = append(words, word)
	}
	c.list = nil
	return words
}

func newBreakers() (*Breakers, *changes) {
	c := &changes{}
	return NewBreakers(c.note), c
}

func coded(code tunnel.Code) error { return &tunnel.Error{Code: code} }

var errRefused = coded(framecodec.CodeRefused)

// try is one open of a named target that ends with err.
func (s *Breakers) try(t *testing.T, p *policy.Policy, name string, err error) (open bool) {
	t.Helper()
	tell, refused := s.admitNamed(p, name)
	if refused != nil {
		if tunnel.CodeOf(refused) != framecodec.CodeBreakerOpen {
			t.Fatalf("refused with %v", refused)
		}
		return true
	}
	tell(err)
	return false
}

func (s *Breakers) want(t *testing.T, want BreakerState) {
	t.Helper()
	if got := s.Named("gw", "echo"); got != want {
		t.Fatalf("the breaker is %v, want %v", got, want)
	}
}

func wantWords(t *testing.T, got []string, want ...string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Fatalf("told %q, want %q", got, want)
	}
}

// The life of a breaker: closed while a success comes in between, open after
// five failures in a row, one trial after each rest, which is twice as long each
// time up to a minute, closed by a trial that succeeds.
func TestBreakerLife(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, told := newBreakers()
		p := mustPolicy(t, rules())
		for _, err := range []error{errRefused, errRefused, errRefused, errRefused, nil, errRefused, errRefused, errRefused, errRefused} {
			if s.try(t, p, "echo", err) {
				t.Fatal("it opened too early")
			}
		}
		s.want(t, BreakerClosed)
		wantWords(t, told.take())
		s.try(t, p, "echo", errRefused)
		s.want(t, BreakerOpen)
		wantWords(t, told.take(), "echo open")
		for _, seconds := range []int{5, 10, 20, 40, 60, 60} {
			rest := time.Duration(seconds) * time.Second
			time.Sleep(rest - time.Millisecond)
			s.want(t, BreakerOpen)
			if !s.try(t, p, "echo", nil) {
				t.Fatalf("an open was admitted before %v were over", rest)
			}
			time.Sleep(2 * time.Millisecond)
			s.want(t, BreakerHalfOpen)
			tell, err := s.admitNamed(p, "echo")
			if err != nil {
				t.Fatalf("no trial after %v", rest)
			}
			if !s.try(t, p, "echo", nil) {
				t.Fatal("a second trial at the same time")
			}
			tell(coded(framecodec.CodeTimeout))
			s.want(t, BreakerOpen)
			wantWords(t, told.take(), "echo open again")
		}
		if info := s.Infos(); len(info) != 1 || info[0].Code != framecodec.CodeTimeout || info[0].Rule.String() != "targets[0]" {
			t.Errorf("%+v", info)
		}
		time.Sleep(time.Minute + time.Millisecond)
		s.try(t, p, "echo", nil)
		s.want(t, BreakerClosed)
		told.mu.Lock()
		if since := told.list[0].Since; since < 4*time.Minute || since > 5*time.Minute {
			t.Errorf("it was open for %v", since)
		}
		told.mu.Unlock()
		wantWords(t, told.take(), "echo closed")
		for range 4 {
			s.try(t, p, "echo", errRefused)
		}
		s.want(t, BreakerClosed)
		s.try(t, p, "echo", errRefused)
		time.Sleep(breakerRest + time.Millisecond) // the first rest again, not the last one's double
		s.want(t, BreakerHalfOpen)
	})
}

// Half of twenty within the window open it; spread over a longer time they do not.
func TestBreakerRate(t *testing.T) {
	for _, tt := range []struct {
		pause time.Duration
		want  BreakerState
	}{{time.Second, BreakerOpen}, {10 * time.Second, BreakerClosed}} {
		synctest.Test(t, func(t *testing.T) {
			s, _ := newBreakers()
			p := mustPolicy(t, rules())
			for i := range 40 {
				err := errRefused
				if i%2 == 1 {
					err = nil
				}
				s.try(t, p, "echo", err)
				time.Sleep(tt.pause)
				if i < 18 {
					s.want(t, BreakerClosed)
				}
				if s.Named("gw", "echo") == BreakerOpen {
					break
				}
			}
			s.want(t, tt.want)
		})
	}
}

// Old failures are forgotten.
func TestBreakerForgets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := newBreakers()
		p := mustPolicy(t, rules())
		for range 4 {
			s.try(t, p, "echo", errRefused)
		}
		time.Sleep(breakerWindow + breakerBucket)
		s.try(t, p, "echo", errRefused)
		s.want(t, BreakerClosed)
	})
}

// What is not the target's fault neither opens a breaker nor keeps a trial's
// place.
func TestBreakerCountsTheTargetsFaultsOnly(t *testing.T) {
	innocent := []error{context.Canceled, errPanicked}
	for code := framecodec.CodeNormal; code.Known(); code++ {
		switch code {
		case framecodec.CodeRefused, framecodec.CodeUnreachable, framecodec.CodeTimeout, framecodec.CodeResolveFailed:
		default:
			innocent = append(innocent, coded(code))
		}
	}
	synctest.Test(t, func(t *testing.T) {
		s, told := newBreakers()
		p := mustPolicy(t, rules())
		for range 5 {
			for _, err := range innocent {
				s.try(t, p, "echo", err)
			}
		}
		s.want(t, BreakerClosed)
		for range 5 {
			for _, err := range innocent[:2] {
				s.try(t, p, "echo", err)
			}
			s.try(t, p, "echo", errRefused) // in a row, whatever lies between
		}
		s.want(t, BreakerOpen)
		time.Sleep(breakerRest + time.Millisecond)
		for _, err := range innocent {
			if s.try(t, p, "echo", err) {
				t.Fatalf("the trial before %v kept its place", err)
			}
			s.want(t, BreakerHalfOpen)
		}
		s.try(t, p, "echo", nil)
		s.want(t, BreakerClosed)
		wantWords(t, told.take(), "echo open", "echo closed")
	})
}

// Failures of dials that began before the breaker opened do not lengthen its rest.
func TestBreakerIgnoresStragglers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, told := newBreakers()
		p := mustPolicy(t, rules())
		var late []func(error)
		for range 100 {
			tell, err := s.admitNamed(p, "echo")
			if err != nil {
				t.Fatal(err)
			}
			late = append(late, tell)
		}
		for _, tell := range late[1:] {
			tell(errRefused)
		}
		wantWords(t, told.take(), "echo open")
		time.Sleep(breakerRest + time.Millisecond)
		s.want(t, BreakerHalfOpen)
		late[0](errRefused) // later still: it is no trial
		s.want(t, BreakerHalfOpen)
		wantWords(t, told.take())
	})
}

func dynamicRule(index int, text string) policy.RuleRef {
	return policy.RuleRef{Endpoint: "gw", List: "dynamic.rules", Index: index, Text: text}
}

func address(i int, udp bool) policy.Address {
	return policy.Address{Addr: netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), Port: 22, UDP: udp}
}

// fail has an address fail until its breaker opens.
func (s *Breakers) fail(t *testing.T, a policy.Address, by policy.RuleRef) {
	t.Helper()
	for range breakerFailures {
		tell, err := s.admitDynamic(a, by)
		if err != nil {
			t.Fatal(err)
		}
		tell(errRefused)
	}
	if got := s.Address("gw", a); got != BreakerOpen {
		t.Fatalf("the breaker is %v", got)
	}
}

// TCP and UDP of an address are two; 4,096 are remembered, those last asked for.
func TestBreakersOfAddresses(t *testing.T) {
	s, told := newBreakers()
	by := dynamicRule(0, "allow tcp/10.0.0.0/8:22")
	s.fail(t, address(0, false), by)
	if got := s.Address("gw", address(0, true)); got != BreakerClosed {
		t.Errorf("UDP is %v", got)
	}
	s.fail(t, address(0, true), by)
	wantWords(t, told.take(), "tcp/10.0.0.0:22 open", "udp/10.0.0.0:22 open")
	if _, err := s.admitDynamic(address(0, true), by); err == nil {
		t.Error("admitted")
	}
	for i := range maxDynamicBreakers - 1 {
		tell, _ := s.admitDynamic(address(1+i, false), by)
		tell(errRefused)
	}
	if got := s.dynamic.Len(); got != maxDynamicBreakers {
		t.Errorf("%d are remembered", got)
	}
	wantWords(t, told.take(), "tcp/10.0.0.0:22 closed gone")
	for i := range 3 * maxDynamicBreakers { // those that work need no place
		tell, _ := s.admitDynamic(address(1<<20+i, false), by)
		tell(nil)
	}
	if got := s.Address("gw", address(0, true)); got != BreakerOpen {
		t.Errorf("it was forgotten for addresses that work: %v", got)
	}
}

// A reload keeps the breakers of targets that are the same, wherever they stand,
// and forgets the others.
func TestBreakersKeep(t *testing.T) {
	s, told := newBreakers()
	first := rules("tcp/10.0.0.0/8:22", "tcp/*.example:443 private")
	first.Targets = append(first.Targets, policy.NamedTarget{Name: "gone", Addresses: []string{"tcp/10.0.0.7:22"}})
	p := mustPolicy(t, first)
	for _, name := range []string{"echo", "other", "gone"} {
		for range breakerFailures {
			s.try(t, p, name, errRefused)
		}
	}
	s.fail(t, address(1, false), dynamicRule(0, "allow tcp/10.0.0.0/8:22"))
	s.fail(t, address(2, false), dynamicRule(1, "allow tcp/*.example:443 private"))
	told.take()

	second := rules("udp/10.0.0.0/8:53", "tcp/10.0.0.0/8:22") // another place, another neighbour
	second.Targets[1].Addresses = []string{"tcp/10.0.0.99:22"}
	second.Targets[0], second.Targets[1] = second.Targets[1], second.Targets[0]
	s.Keep(map[string]*policy.Policy{"gw": mustPolicy(t, second)})
	words := told.take()
	slices.Sort(words)
	wantWords(t, words, "gone closed gone", "other closed gone", "tcp/10.0.0.2:22 closed gone")
	var left []string
	for _, info := range s.Infos() {
		left = append(left, fmt.Sprint(info.Target, " ", info.Rule))
	}
	slices.Sort(left)
	wantWords(t, left, "echo targets[1]", "tcp/10.0.0.1:22 dynamic.rules[1]")

	s.Keep(map[string]*policy.Policy{})
	if left := s.Infos(); len(left) != 0 || len(s.named) != 0 || s.dynamic.Len() != 0 {
		t.Errorf("of an endpoint that is gone: %v", left)
	}
}

// With `breaker off` nothing is counted.
func TestBreakerOff(t *testing.T) {
	cfg := rules()
	cfg.Targets[0].Breaker = "off"
	s, told := newBreakers()
	p := mustPolicy(t, cfg)
	for range 100 {
		if s.try(t, p, "echo", errRefused) || s.try(t, p, "", errRefused) { // the default target is the same
			t.Fatal("refused")
		}
	}
	wantWords(t, told.take())
}

// refusing is an office whose targets refuse while it is told so.
func refusing(t *testing.T, options ...option) (o *office, s *Breakers, told *changes) {
	t.Helper()
	s, told = newBreakers()
	cfg := rules("tcp/10.0.0.0/8:22", "tcp/*.example:443 private")
	cfg.Targets = append(cfg.Targets,
		policy.NamedTarget{Name: "dead", Addresses: []string{"tcp/10.67.0.1:22", "tcp/10.67.0.2:22"}},
		policy.NamedTarget{Name: "nowhere", Addresses: []string{"tcp/missing.example:22"}},
		policy.NamedTarget{Name: "half", Addresses: []string{"tcp/10.67.0.1:22", "tcp/10.0.0.5:22"}})
	o = open(t, cfg, append([]option{func(e *ExitConfig, _ *tunnel.Config) { e.Breakers = s }}, options...)...)
	return o, s, told
}

// codes opens a target so many times.
func (o *office) codes(n int, open1 func() error) (list []string) {
	for range n {
		code := tunnel.CodeOf(open1()).String()
		if len(list) == 0 || list[len(list)-1] != code {
			list = append(list, code)
		}
	}
	return list
}

// Every way to a target meets the same breaker, and nothing is dialled while it
// is open.
func TestExitBreaker(t *testing.T) {
	defaultDead := func(e *ExitConfig, _ *tunnel.Config) { e.DefaultTarget = "dead" }
	dialect1 := func(_ *ExitConfig, s *tunnel.Config) { s.Dialect = tunnel.Dialect1 }
	for _, tt := range []struct {
		name         string
		target       tunnel.Target
		breaker      string
		before, open string // codes
		options      []option
	}{
		{"named", named("dead"), "dead", "refused", "breaker_open", nil},
		{"default", named(""), "dead", "refused", "breaker_open", []option{defaultDead}},
		{"dialect 1", named(""), "dead", "refused", "unreachable", []option{defaultDead, dialect1}}, // its word is ConnectionFailed
		{"dialect 1, dynamic", tcp("10.67.0.9", 22), "tcp/10.67.0.9:22", "refused", "unreachable", []option{dialect1}},
		{"a name that leads nowhere", named("nowhere"), "nowhere", "resolve_failed", "breaker_open", nil},
		{"dynamic", tcp("10.67.0.9", 22), "tcp/10.67.0.9:22", "refused", "breaker_open", nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			o, _, told := refusing(t, tt.options...)
			dial := func() error { _, err := o.dial(tt.target); return err }
			wantWords(t, o.codes(breakerFailures, dial), tt.before)
			before := o.dialled()
			wantWords(t, o.codes(20, dial), tt.open)
			if after := o.dialled(); !maps.Equal(after, before) {
				t.Errorf("dialled %v, before %v", after, before)
			}
			wantWords(t, told.take(), tt.breaker+" open")
			if c, err := o.dial(tcp("10.0.0.9", 22)); err != nil {
				t.Errorf("another target: %v", err)
			} else {
				_ = c.Close()
			}
		})
	}
}

func (o *office) dialled() map[string]int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return maps.Clone(o.dials)
}

// A raw channel is one more way.
func TestRawBreaker(t *testing.T) {
	ends := make(chan RawInfo, 64)
	o, _, told := refusing(t, func(e *ExitConfig, _ *tunnel.Config) {
		e.OnRaw = func(r *Raw, ended bool) {
			if ended {
				ends <- r.Info()
			}
		}
	})
	raw := func() error {
		_, far := newWires()
		o.exit.Raw(far, "dead")
		code, _ := framecodec.ParseCode((<-ends).Code)
		return coded(code)
	}
	wantWords(t, o.codes(20, raw), "refused", "breaker_open")
	if _, err := o.dial(named("dead")); tunnel.CodeOf(err) != framecodec.CodeBreakerOpen {
		t.Errorf("a stream to the same target: %v", err)
	}
	wantWords(t, told.take(), "dead open")
}

// What clients do, and what works, opens nothing.
func TestExitBreakerStaysClosed(t *testing.T) {
	o, s, told := refusing(t, func(e *ExitConfig, _ *tunnel.Config) { e.Timeouts = fixed(Timeouts{Dial: 20 * time.Second}) })
	cancelled := func(target tunnel.Target) {
		ctx, cancel := context.WithCancel(t.Context())
		_, ep := tunnel.NewConn(tunnel.Addr{}, tunnel.Addr{})
		time.AfterFunc(2*time.Millisecond, cancel)
		if _, err := o.client.Open(ctx, target, ep); err == nil {
			t.Error("opened")
		}
	}
	for range 100 {
		cancelled(tcp("10.66.0.1", 22)) // a black hole
	}
	for range 20 {
		for _, target := range []tunnel.Target{named("half"), tcp("10.67.0.1", 23), named("none"), tcp("missing.example", 443)} {
			_, _ = o.dial(target)
		}
	}
	eventually(t, "no open is left", func() bool { return o.pool.Opens() == 0 })
	if infos := s.Infos(); len(infos) != 0 || len(s.named) != 0 || s.dynamic.Len() != 0 {
		t.Errorf("%+v, %d addresses", infos, s.dynamic.Len())
	}
	wantWords(t, told.take())
}

// Who may not open a target is not told of its breaker.
func TestBreakerBehindPolicy(t *testing.T) {
	s, _ := newBreakers()
	cfg := rules("tcp/10.67.0.0/16:22")
	cfg.Targets[0].Users = []string{"alice"}
	cfg.Targets[0].Addresses = []string{"tcp/10.67.0.1:22"}
	o := open(t, cfg, func(e *ExitConfig, _ *tunnel.Config) { e.Breakers = s; e.Subject.Identity = "alice" })
	o.codes(breakerFailures, func() error { _, err := o.dial(named("echo")); return err })
	s.want(t, BreakerOpen)
	o.exit.SetSubject(policy.Subject{Endpoint: "gw", Identity: "bob"})
	if _, err := o.dial(named("echo")); tunnel.CodeOf(err) != framecodec.CodeNotAllowed {
		t.Errorf("%v", err)
	}
}

// Of a flow's target the look-up and the route count; that nobody answers is not
// known when it is opened.
func TestFlowBreaker(t *testing.T) {
	s, told := newBreakers()
	refuse := false
	o := packetOffice(t, func(e *ExitConfig, _ *tunnel.Config) {
		e.Breakers = s
		connect := e.Connect
		e.Connect = func(ctx context.Context, a policy.Address, control policy.Control) (c net.Conn, err error) {
			if refuse {
				return nil, &net.OpError{Op: "dial", Net: "udp", Err: os.NewSyscallError("connect", syscall.ENETUNREACH)}
			}
			return connect(ctx, a, control)
		}
	})
	ask := func() error {
		st, err := o.ask(flow("dns"), newAsking("x"))
		if err == nil {
			st.Reset(framecodec.CodeRefused, "") // as an ICMP message would end it
		}
		return err
	}
	wantWords(t, o.codes(20, ask), "normal")
	refuse = true
	wantWords(t, o.codes(20, ask), "unreachable", "breaker_open")
	wantWords(t, told.take(), "dns open")
}

// A panic is not the target's fault, and a trial that panics gives its place back.
func TestBreakerPanic(t *testing.T) {
	s, _ := newBreakers()
	o := open(t, rules("tcp/10.0.0.0/8:22"), func(e *ExitConfig, _ *tunnel.Config) {
		e.Breakers = s
		e.Connect = func(context.Context, policy.Address, policy.Control) (net.Conn, error) { panic("a test") }
	})
	for _, target := range []tunnel.Target{named("echo"), tcp("10.0.0.9", 22)} {
		for range 2 * breakerFailures {
			func() {
				defer func() {
					if recover() == nil {
						t.Error("no panic")
					}
				}()
				_, _, _ = o.exit.dial(t.Context(), o.exit.view(), target)
			}()
		}
	}
	if len(s.named) != 0 || s.dynamic.Len() != 0 {
		t.Error("a panic was counted")
	}
}
