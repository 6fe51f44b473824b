// Package gateway is the way out of a tunnel: it takes what the peer asks for,
// has the policy decide, dials within bounds and joins the connection to the
// stream.
//
// Goroutines: one for each open in progress, which ends with the answer; two for
// each raw channel, which end with the channel. Exit.Close stops all of an Exit,
// Exit.Wait waits for them. None stays for a stream that is open.
//
// Locks: Exit.mu, Pool.mu, Raw.mu and Breakers.mu; and that of a single breaker,
// which is taken with Breakers.mu or the library's own held. No other is held
// while another is taken, nor is any during a call into the session, a connection
// or the configuration's functions.
package gateway

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/culvertgate/culvert/framecodec"
	"github.com/culvertgate/culvert/tunnel"
	"github.com/culvertgate/culvert/tunnel/policy"
)

// Adopter makes Endpoints of connections; *reactor.Reactor is one. It takes c
// over, also when it fails.
type Adopter interface {
	Adopt(c net.Conn, prefix []byte) (tunnel.Endpoint, error)
}

// ExitConfig is what an Exit is made with. Subject, Policy, Pool and Reactor are
// needed.
type ExitConfig struct {
	// Subject is who the tunnel belongs to; SetSubject changes it.
	Subject policy.Subject
	// Policy returns the newest policy of the endpoint. It is called for every
	// open, from any goroutine, and must be cheap.
	Policy func() *policy.Policy
	// Pool holds the bounds of the process.
	Pool *Pool
	// Breakers keep opens away from targets that fail; nil: none do.
	Breakers *Breakers
	// Source is the client's address, for targets that are told it (PROXY protocol);
	// the zero value: not known.
	Source netip.Addr
	// Reactor takes the connections over.
	Reactor Adopter
	// Timeouts are asked for with every open, since a reload changes them; nil: the
	// defaults.
	Timeouts func() Timeouts
	// Service finds what a client of the same endpoint exposes; nil, or a nil result:
	// there is none. It is called for every open of one and must be cheap.
	Service func(identity, name string) Service
	// DefaultTarget is what streams without a target of their own go to, before
	// that of the policy (?target= of the offer) and behind that of a ticket.
	DefaultTarget string
	// MaxOpens dialling or waiting at a time. Default: 4,096.
	MaxOpens int
	// Budget is charged for raw channels; nil: none.
	Budget *tunnel.Budget
	// AdmitRaw counts a raw channel as a stream and returns how it is uncounted,
	// or an error whose code the channel is closed with. nil: all are admitted.
	AdmitRaw func() (release func(), err error)
	// OnRaw is told of a raw channel that has opened (ended is false) and of each
	// one's end, refusals included (ended is true; Result says how).
	OnRaw func(r *Raw, ended bool)
	// OnDenied is told of every stream that the policy refused: rule and reason are
	// for the log, the client has been told nothing of them. It must not block.
	OnDenied func(policy.Decision, tunnel.Target)
	// OnPanic is told of a panic in one of the Exit's goroutines, which has ended
	// what it served. The owner logs it and ends the tunnel. It must not block; nil:
	// it is logged here.
	OnPanic func(v any, stack []byte)
	// Logger is asked for each time, since a reload changes it; nil: no logs.
	Logger func() *zap.Logger
	// Connect and Resolver replace how addresses are connected to and names looked
	// up; nil: as policy.Dialer does.
	Connect  func(ctx context.Context, a policy.Address, control policy.Control) (net.Conn, error)
	Resolver policy.Resolver
}

// Timeouts of what an Exit opens. Zero means the default.
type Timeouts struct {
	// Dial is the time from an Open to its answer. Default: 10 s.
	Dial time.Duration
	// Keepalive finds dead targets; see policy.Dialer. Default: Go's own.
	Keepalive time.Duration
	// Write ends a raw channel whose target takes no byte for this long. Default:
	// 30 s (a raw channel has no window of its own, what waits for a stalled one
	// fills the association's).
	Write time.Duration
	// Idle ends a raw channel without data in either direction for this long;
	// streams have the session's. Zero: never.
	Idle time.Duration
}

// Exit serves the streams of one tunnel at the gateway. It is safe for
// concurrent use.
type Exit struct {
	cfg     ExitConfig
	dialer  policy.Dialer
	subject atomic.Pointer[policy.Subject]
	rates   atomic.Pointer[tunnel.Rates] // of raw channels; nil: no limit
	wg      sync.WaitGroup

	rawNumber atomic.Uint32 // of the last raw channel

	mu                sync.Mutex
	closed            bool                             // guarded by mu
	opens             map[*context.CancelFunc]struct{} // in progress; guarded by mu
	raws              map[*Raw]struct{}                // guarded by mu
	ended             []RawInfo                        // the last raw channels that ended; guarded by mu
	endedIn, endedOut uint64                           // bytes of all raw channels that ended; guarded by mu
	session           *tunnel.Session                  // of the last open; guarded by mu
}

// NewExit returns an Exit; it starts nothing.
func NewExit(cfg ExitConfig) *Exit {
	if cfg.Timeouts == nil {
		cfg.Timeouts = func() Timeouts { return Timeouts{} }
	}
	if cfg.MaxOpens <= 0 {
		cfg.MaxOpens = 4096
	}
	if cfg.Logger == nil {
		cfg.Logger = zap.NewNop
	}
	e := &Exit{
		cfg: cfg,
		dialer: policy.Dialer{
			Resolver: cfg.Resolver,
			Lookup:   newLookups().wait,
			Line:     cfg.Pool.wait,
			Admit:    cfg.Breakers.admitDynamic,
			Source:   cfg.Source,
			Connect:  cfg.Connect,
		},
		opens: make(map[*context.CancelFunc]struct{}),
		raws:  make(map[*Raw]struct{}),
	}
	e.SetSubject(cfg.Subject)
	return e
}

// SetSubject changes who the tunnel belongs to, for the opens to come and those
// in progress; Recheck judges what is open.
func (e *Exit) SetSubject(s policy.Subject) { e.subject.Store(&s) }

// view is what an open is judged by.
type view struct {
	policy  *policy.Policy
	subject *policy.Subject
}

// view returns what counts now.
func (e *Exit) view() view { return view{e.cfg.Policy(), e.subject.Load()} }

// timeouts returns those that count now.
func (e *Exit) timeouts() Timeouts {
	t := e.cfg.Timeouts()
	if t.Dial <= 0 {
		t.Dial = 10 * time.Second
	}
	if t.Write <= 0 {
		t.Write = 30 * time.Second
	}
	return t
}

// dial connects to a target that the policy has not refused, with the time-outs
// that count now, unless its breaker is open.
func (e *Exit) dial(ctx context.Context, v view, t tunnel.Target) (c net.Conn, at policy.Address, err error) {
	dialer := e.dialer
	dialer.Keepalive = e.timeouts().Keepalive
	if !t.Named() {
		return dialer.Dial(ctx, v.policy, *v.subject, t)
	}
	tell, err := e.cfg.Breakers.admitNamed(v.policy, t.Host)
	if err != nil {
		return nil, policy.Address{}, err
	}
	outcome := errPanicked
	defer func() { tell(outcome) }()
	c, at, err = dialer.Dial(ctx, v.policy, *v.subject, t)
	outcome = err
	return c, at, err
}

// errPanicked is the outcome of a dial that did not return: not the target's
// fault.
var errPanicked = errors.New("panicked")

// Close gives up what is being opened and ends the raw channels with
// tunnel_closed; streams that are open belong to the session. It does not wait.
func (e *Exit) Close() {
	e.mu.Lock()
	e.closed = true
	cancels := make([]context.CancelFunc, 0, len(e.opens))
	for c := range e.opens {
		cancels = append(cancels, *c)
	}
	e.mu.Unlock()
	for _, cancel := range cancels {
		cancel()
	}
	for _, r := range e.Raws() {
		r.Close(framecodec.CodeTunnelClosed)
	}
}

// Wait returns when no goroutine of the Exit runs any more, after Close.
func (e *Exit) Wait() { e.wg.Wait() }

// begin makes place for one open; its context ends with the time-out, with
// Close, or with cancel. done must be called at the open's end.
func (e *Exit) begin() (ctx context.Context, cancel context.CancelFunc, done func(), err error) {
	if !e.cfg.Pool.enter() {
		return nil, nil, nil, overloaded()
	}
	limit := e.timeouts().Dial
	e.mu.Lock()
	defer e.mu.Unlock()
	switch {
	case e.closed:
		err = &tunnel.Error{Code: framecodec.CodeTunnelClosed, Text: policy.ClientText(framecodec.CodeTunnelClosed)}
	case len(e.opens) >= e.cfg.MaxOpens:
		err = overloaded()
	}
	if err != nil {
		e.cfg.Pool.leave()
		return nil, nil, nil, err
	}
	ctx, cancel = context.WithTimeout(context.Background(), limit)
	e.opens[&cancel] = struct{}{}
	e.wg.Add(1)
	return ctx, cancel, func() {
		cancel()
		e.mu.Lock()
		delete(e.opens, &cancel)
		e.mu.Unlock()
		e.cfg.Pool.leave()
		e.wg.Done()
	}, nil
}

// target replaces a target that the peer left out. Who holds a ticket means that
// one's: whatever is kept by name, such as breakers, must see it.
func (e *Exit) target(t tunnel.Target) tunnel.Target {
	if !t.Named() || t.Host != "" {
		return t
	}
	if t.Host = e.subject.Load().Ticket; t.Host == "" && t.Kind == tunnel.KindNamed {
		t.Host = e.cfg.DefaultTarget
	}
	return t
}

// codeOf is tunnel.CodeOf, but for opens that Close has cancelled.
func (e *Exit) codeOf(err error) tunnel.Code {
	code := tunnel.CodeOf(err)
	if code != framecodec.CodeCancelled {
		return code
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return framecodec.CodeTunnelClosed
	}
	return code
}

// denied tells the log of a refusal by policy.
func (e *Exit) denied(d policy.Decision, t tunnel.Target) {
	if e.cfg.OnDenied != nil {
		e.cfg.OnDenied(d, t)
	}
}

// guard runs f; after a panic it runs failed and tells of it.
func (e *Exit) guard(f, failed func()) {
	defer func() {
		v := recover()
		if v == nil {
			return
		}
		stack := debug.Stack()
		failed()
		if e.cfg.OnPanic != nil {
			e.cfg.OnPanic(v, stack)
			return
		}
		e.cfg.Logger().Error("a goroutine of a tunnel panicked", zap.Any("panic", v), zap.ByteString("stack", stack))
	}()
	f()
}
