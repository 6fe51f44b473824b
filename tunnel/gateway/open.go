package gateway

import (
	"context"
	"errors"
	"slices"

	"go.uber.org/zap"

	"github.com/culvertgate/culvert/framecodec"
	"github.com/culvertgate/culvert/internal/faultpoint"
	"github.com/culvertgate/culvert/tunnel"
	"github.com/culvertgate/culvert/tunnel/policy"
)

// Accept takes a stream that the peer asks for: tunnel.Config.Accept. It returns
// at once; what the policy refuses without a look-up is answered by then.
func (e *Exit) Accept(in *tunnel.Incoming) {
	t := e.target(in.Target())
	v := e.view()
	if identity, name, ok := t.Service(); ok {
		e.acceptService(in, v, identity, name)
		return
	}
	if d := v.policy.Decide(*v.subject, t); !d.Allowed {
		e.denied(d, t)
		in.Refuse(d.Code, policy.ClientText(d.Code))
		return
	}
	e.start(in, func(ctx context.Context) { e.open(ctx, in, t, v) })
}

// open dials and answers.
func (e *Exit) open(ctx context.Context, in *tunnel.Incoming, t tunnel.Target, v view) {
	c, at, err := e.dial(ctx, v, t)
	if err != nil {
		e.failed(t, err)
		e.refuse(in, err)
		return
	}
	// From SetTag on Recheck sees the stream; a policy or subject that came before is
	// asked here. So none is missed.
	in.Stream().SetTag(&at)
	if now := e.view(); now != v {
		if err := e.again(t, now, at); err != nil {
			_ = c.Close() // nothing was sent
			e.refuse(in, err)
			return
		}
	}
	bound := ""
	if at.Path == "" {
		bound = c.LocalAddr().String()
	}
	ep, err := e.cfg.Reactor.Adopt(c, nil)
	if err != nil {
		e.cfg.Logger().Error("a connection to a target cannot be watched", zap.Error(err))
		in.Refuse(framecodec.CodeOverloaded, policy.ClientText(framecodec.CodeOverloaded))
		return
	}
	_ = in.Attach(ep, bound) // an error: it was given up meanwhile, and the Endpoint is closed
}

// again asks once more when the policy or the subject changed while the target was
// dialled.
func (e *Exit) again(t tunnel.Target, v view, at policy.Address) error {
	d := v.policy.CheckAddress(*v.subject, t, at)
	if !d.Allowed {
		e.denied(d, t)
	}
	return d.Err()
}

// failed tells why a stream did not open. A denial has a way of its own, since
// the root counts and samples it.
func (e *Exit) failed(t tunnel.Target, err error) {
	if denial, ok := errors.AsType[*policy.DenialError](err); ok {
		e.denied(denial.Decision, t)
		return
	}
	if l := e.cfg.Logger(); l.Core().Enabled(zap.DebugLevel) {
		l.Debug("a stream was not opened", zap.String("target", framecodec.SafeText([]byte(t.String()))),
			zap.Stringer("code", tunnel.CodeOf(err)), zap.NamedError("cause", errors.Unwrap(err)))
	}
}

// refuse answers with what the client may know of err.
func (e *Exit) refuse(in *tunnel.Incoming, err error) {
	code := e.codeOf(err)
	in.Refuse(code, policy.ClientText(code))
}

// start makes place for the open, or refuses it, and has f serve it.
func (e *Exit) start(in *tunnel.Incoming, f func(ctx context.Context)) {
	ctx, cancel, done, err := e.begin()
	if err != nil {
		e.refuse(in, err)
		return
	}
	e.mu.Lock()
	e.session = in.Stream().Session()
	e.mu.Unlock()
	in.OnCancel(cancel)
	go func() {
		defer done()
		e.guard(
			func() {
				faultpoint.Here(faultpoint.GatewayOpen)
				f(ctx)
			},
			func() { in.Stream().Session().Close(framecodec.CodeInternal, "opening a stream failed") },
		)
	}()
}

// Recheck ends the running streams and raw channels that p refuses, and each of also,
// with policy_changed, and returns how many those were. What is still being opened
// looks at the newest policy and subject itself, once it is open.
func (e *Exit) Recheck(p *policy.Policy, also ...*policy.Policy) int {
	e.mu.Lock()
	session := e.session
	e.mu.Unlock()
	ended := 0
	if session != nil {
		session.EachStream(func(st *tunnel.Stream) {
			if e.recheck(st, p, also) {
				ended++
			}
		})
	}
	for _, r := range e.Raws() {
		if r.recheck(p, also) {
			ended++
		}
	}
	return ended
}

// recheck ends a stream if all policies refuse what it is connected to.
func (e *Exit) recheck(st *tunnel.Stream, p *policy.Policy, also []*policy.Policy) bool {
	t, subject := e.target(st.Target()), *e.subject.Load()
	var decide func(*policy.Policy) policy.Decision
	switch tag := st.Tag().(type) {
	case *policy.Address:
		decide = func(p *policy.Policy) policy.Decision { return p.CheckAddress(subject, t, *tag) }
	case *reached:
		decide = func(p *policy.Policy) policy.Decision { return p.MayReach(subject, tag.owner(), tag.name) }
	default:
		return false // not open yet, or opened by us
	}
	d, refused := refusedByAll(decide, p, also)
	if !refused {
		return false
	}
	e.denied(d, t)
	st.Reset(framecodec.CodePolicyChanged, policy.ClientText(framecodec.CodePolicyChanged))
	return true
}

// refusedByAll asks each policy; the decision is p's.
func refusedByAll(decide func(*policy.Policy) policy.Decision, p *policy.Policy, also []*policy.Policy) (d policy.Decision, refused bool) {
	if d = decide(p); d.Allowed {
		return d, false
	}
	return d, !slices.ContainsFunc(also, func(p *policy.Policy) bool { return decide(p).Allowed })
}
