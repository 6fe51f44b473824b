package policy

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"time"

	"github.com/culvertgate/culvert/framecodec"
	"github.com/culvertgate/culvert/tunnel"
)

// Control looks at a socket before it connects; it is net.Dialer's.
type Control func(network, address string, c syscall.RawConn) error

// Dialer connects to targets under a policy: it resolves once, checks every
// address, and dials only what was checked, by literal, with a Control hook
// that checks again. The zero value is ready; a Dialer is safe for concurrent
// use if its functions are.
type Dialer struct {
	// Keepalive is when an idle target is probed first; it is dead after about
	// twice that without an answer, with data on the way too where the system can
	// tell (Linux 6.15). A slow reader is never dead. 0: Go's defaults.
	Keepalive time.Duration
	// Resolver looks names up; nil: the policy's.
	Resolver Resolver
	// Lookup waits for leave to look up a name that a client chose (not that of a
	// named target); nil: at once. An error ends the attempt.
	Lookup func(ctx context.Context) error
	// Line waits for a place among the dials to an address and returns how to give
	// it back; nil: at once.
	Line func(ctx context.Context, a Address) (release func(), err error)
	// Admit is asked, at the front of the line, whether an address that a client
	// named may be dialled now, and returns what is to be told the outcome: each time
	// and once. by is the rule that allows the address. nil: always. Named targets
	// are not asked for: whoever calls Dial knows their names.
	Admit func(a Address, by RuleRef) (tell func(error), err error)
	// Source is the client's address for targets that want to be told it in the
	// PROXY protocol; the zero value: not known.
	Source netip.Addr
	// Connect connects to a, calling control on the socket first; nil: net.Dialer.
	// It is the seam of tests.
	Connect func(ctx context.Context, a Address, control Control) (net.Conn, error)
}

// Dial opens a connection to the target for the subject; of a datagram target it
// is a connected *net.UDPConn, and only routes were asked: nobody has answered yet. The context's deadline
// is the time for all of it: look-up, waiting and every address, each of which
// has a fair share of what is left, so that a dead one does not use it up. The
// error is a *tunnel.Error that is fit for the client: not_allowed (with a
// *DenialError for the log inside), unknown_target, resolve_failed, timeout, refused,
// unreachable, overloaded or cancelled.
func (d *Dialer) Dial(ctx context.Context, p *Policy, s Subject, t tunnel.Target) (net.Conn, Address, error) {
	steps, decision := p.plan(s, t)
	if !decision.Allowed {
		return nil, Address{}, decision.Err()
	}
	var first error
	for i := range steps {
		stepCtx, cancel := share(ctx, len(steps)-i)
		c, at, err := d.dialStep(stepCtx, p, s, t, &steps[i])
		cancel()
		if err == nil {
			return c, at, nil
		}
		if first == nil {
			first = err
		}
		if ctx.Err() != nil {
			break
		}
	}
	if errors.Is(ctx.Err(), context.Canceled) {
		first = codeError(framecodec.CodeCancelled, context.Cause(ctx))
	}
	return nil, Address{}, first
}

func (d *Dialer) dialStep(ctx context.Context, p *Policy, s Subject, t tunnel.Target, st *step) (net.Conn, Address, error) {
	r := d.Resolver
	if r == nil {
		r = p.resolver
	}
	if st.name != "" && st.grant.dynamic && d.Lookup != nil {
		if err := d.Lookup(ctx); err != nil {
			return nil, Address{}, p.hideLookup(st, dialError(ctx, err))
		}
	}
	lookupCtx, cancel := share(ctx, 2) // half of the time is the look-up's
	list, seen, err := p.addresses(lookupCtx, r, s, t, st)
	cancel()
	if err != nil {
		return nil, Address{}, err
	}
	var first error
	for i, a := range list {
		oneCtx, cancel := share(ctx, len(list)-i)
		c, err := d.dialOne(oneCtx, a, st.grant, seen[i].Rule, func(network, address string, socket syscall.RawConn) error {
			if err := p.recheck(s, t.Kind, st.grant, a, network, address); err != nil {
				return err
			}
			if a.UDP && socket != nil && !p.spelledOut(s, t.Kind, st.grant, a) {
				return forbidBroadcast(socket)
			}
			return nil
		})
		cancel()
		if err == nil {
			return c, a, nil
		}
		if first == nil {
			first = err
		}
		if ctx.Err() != nil {
			break
		}
	}
	return nil, Address{}, first
}

// dialOne waits for its turn and dials an address; its error has a code.
func (d *Dialer) dialOne(ctx context.Context, a Address, g grant, by RuleRef, check Control) (net.Conn, error) {
	began := time.Now()
	if d.Line != nil {
		release, err := d.Line(ctx, a)
		if err != nil {
			return nil, hurried(dialError(ctx, err))
		}
		defer release()
	}
	tell := func(error) {}
	if d.Admit != nil && g.dynamic {
		var err error
		if tell, err = d.Admit(a, by); err != nil {
			return nil, dialError(ctx, err)
		}
	}
	outcome := errNotTried // a panic is not the target's fault
	defer func() { tell(outcome) }()
	waited := time.Since(began)
	c, err := d.connect(ctx, a, check)
	if err == nil && g.proxy != 0 {
		err = announce(ctx, c, g.proxy, d.Source, a)
	}
	if err != nil {
		err = dialError(ctx, err)
		if time.Since(began) < 2*waited {
			err = hurried(err)
		}
	}
	outcome = err
	if err != nil {
		return nil, err
	}
	return c, nil
}

// connect dials an address.
func (d *Dialer) connect(ctx context.Context, a Address, check Control) (net.Conn, error) {
	if d.Connect != nil {
		return d.Connect(ctx, a, check)
	}
	dialer := net.Dialer{
		KeepAliveConfig: keepAlive(d.Keepalive),
		Control: func(network, address string, c syscall.RawConn) error {
			if err := check(network, address, c); err != nil {
				return err
			}
			if a.Path != "" || a.UDP {
				return nil
			}
			return boundRetransmission(c, d.Keepalive)
		},
	}
	dialer.SetMultipathTCP(false)
	return dialer.DialContext(ctx, a.Network(), a.String())
}

// recheck is the check at connect: the socket's address must be the one that was
// decided on, and still be allowed.
func (p *Policy) recheck(s Subject, kind tunnel.Kind, g grant, want Address, network, address string) error {
	got := Address{Path: address}
	if network != "unix" {
		ap, err := netip.ParseAddrPort(address)
		if err != nil {
			return p.deny(p.builtin("host"), "%q is not a literal address", address).Err()
		}
		got = Address{Addr: unmap(ap.Addr()), Port: ap.Port(), UDP: strings.HasPrefix(network, "udp")}
	}
	if got != want {
		return p.deny(p.builtin("host"), "%s/%s was checked, %s/%s was about to be dialled", want.Network(), want, network, got).Err()
	}
	return p.checkAddress(s, kind, g, got).Err()
}

// share gives one of n attempts its part of the time that is left.
func share(ctx context.Context, n int) (context.Context, context.CancelFunc) {
	deadline, ok := ctx.Deadline()
	if !ok || n <= 1 {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, time.Until(deadline)/time.Duration(n))
}

// probes of a keep-alive without an answer end a connection.
const probes = 3

func keepAlive(idle time.Duration) net.KeepAliveConfig {
	if idle <= 0 {
		return net.KeepAliveConfig{}
	}
	return net.KeepAliveConfig{Enable: true, Idle: idle, Interval: max(idle/probes, time.Second), Count: probes}
}
