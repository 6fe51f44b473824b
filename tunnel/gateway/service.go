package gateway

import (
	"context"

	"github.com/culvertgate/culvert/framecodec"
	"github.com/culvertgate/culvert/tunnel"
	"github.com/culvertgate/culvert/tunnel/policy"
)

// Service is what a client exposes in its tunnel.
type Service interface {
	// Owner is who exposes it, as of now.
	Owner() policy.Subject
	// Kind is KindNamed or KindNamedDatagram.
	Kind() tunnel.Kind
	// Open opens a stream to it and joins ep, which has been closed on error. The
	// error is a *tunnel.Error: the client's refusal, or how its tunnel ended.
	Open(ctx context.Context, trace string, ep tunnel.Endpoint) (*tunnel.Stream, error)
}

// reached is kept with a stream that leads to a service.
type reached struct {
	name    string
	service Service
}

func (r *reached) owner() policy.Subject { return r.service.Owner() }

// acceptService takes a stream to a service. Whether there is one is told only to
// whom it may concern.
func (e *Exit) acceptService(in *tunnel.Incoming, v view, identity, name string) {
	t := in.Target()
	var s Service
	if e.cfg.Service != nil {
		s = e.cfg.Service(identity, name)
	}
	owner := policy.Subject{Endpoint: v.subject.Endpoint, Identity: identity}
	if s != nil {
		owner = s.Owner()
	}
	if d := v.policy.MayReach(*v.subject, owner, name); !d.Allowed {
		e.denied(d, t)
		in.Refuse(d.Code, policy.ClientText(d.Code))
		return
	}
	switch {
	case s == nil:
		e.refuse(in, &tunnel.Error{Code: framecodec.CodeUnreachable})
	case s.Kind() != t.Kind:
		e.refuse(in, &tunnel.Error{Code: framecodec.CodeUnknownTarget})
	default:
		e.start(in, func(ctx context.Context) { e.openService(ctx, in, v, &reached{name, s}) })
	}
}

// openService opens the stream in the other tunnel and joins the two.
func (e *Exit) openService(ctx context.Context, in *tunnel.Incoming, v view, to *reached) {
	bridge := tunnel.NewBridge
	if in.Target().Datagrams() {
		bridge = tunnel.NewDatagramBridge
	}
	near, far := bridge(e.cfg.Budget)
	if _, err := to.service.Open(ctx, in.Trace(), far); err != nil {
		near.Close(tunnel.CodeOf(err))
		e.failed(in.Target(), err)
		if tunnel.CodeOf(err) == framecodec.CodeTunnelClosed { // not the one that asks
			err = &tunnel.Error{Code: framecodec.CodeTunnelLost}
		}
		e.refuse(in, err)
		return
	}
	// As in open: from SetTag on Recheck sees the stream, and what came before is
	// asked here.
	in.Stream().SetTag(to)
	if now := e.view(); now != v {
		if d := now.policy.MayReach(*now.subject, to.owner(), to.name); !d.Allowed {
			e.denied(d, in.Target())
			near.Close(d.Code)
			e.refuse(in, d.Err())
			return
		}
	}
	_ = in.Attach(near, "") // an error: it was given up meanwhile, and both Endpoints are closed
}
