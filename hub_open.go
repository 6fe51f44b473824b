package culvert

import (
	"context"
	"time"

	"go.uber.org/zap"

	"github.com/culvertgate/culvert/framecodec"
	"github.com/culvertgate/culvert/tunnel"
	"github.com/culvertgate/culvert/tunnel/client"
)

// openContext bounds what an entry waits for: a tunnel, if there is none, and
// the gateway's answer.
func (h *hub) openContext() (context.Context, context.CancelFunc) {
	return h.bounded(context.Background())
}

// bounded is openContext below ctx.
func (h *hub) bounded(ctx context.Context) (context.Context, context.CancelFunc) {
	limit := time.Minute
	if env := h.current(); env != nil {
		limit = time.Duration(env.timeouts.Connect) + time.Duration(env.timeouts.Dial) + connectMargin + dialMargin
	}
	return context.WithTimeout(ctx, limit)
}

// openStream opens a stream of a remote and joins ep to it; with an error ep has
// been closed. ep may be nil: then the stream waits for Attach.
func (h *hub) openStream(ctx context.Context, remote string, target tunnel.Target, ep tunnel.Endpoint) (*tunnel.Stream, error) {
	h.streams.Add(1) // while it is being opened; from then on the session's observer counts it
	defer h.streams.Add(-1)
	r, err := h.remote(remote, target) //nolint:contextcheck // a remote that is made here outlives this open
	if err != nil {
		if ep != nil {
			ep.Close(err.Code)
		}
		return nil, err
	}
	trace := tunnel.NewTraceparent()
	if c := h.logger().Check(zap.DebugLevel, "stream asked for"); c != nil {
		c.Write(zap.String("side", sideClient), zap.String("remote", remote), zap.String("target", safeTarget(target)), zap.String("stream_traceparent", trace))
	}
	return r.OpenEndpoint(client.WithTraceparent(ctx, trace), target, ep)
}

// remote finds a remote in the newest configuration.
func (h *hub) remote(name string, target tunnel.Target) (*client.Remote, *tunnel.Error) {
	env := h.current()
	if env == nil || h.draining.Load() {
		return nil, &tunnel.Error{Code: framecodec.CodeDraining, Text: "Caddy is ending"}
	}
	p := env.running[name]
	if p == nil {
		return nil, &tunnel.Error{Code: framecodec.CodeTunnelClosed, Text: "the remote is no longer configured"}
	}
	if h.streams.Load() > int64(env.limits.Streams) {
		return nil, &tunnel.Error{Code: framecodec.CodeTooManyStreams, Text: "there are as many streams as there may be"}
	}
	named := ""
	if target.Named() {
		named = target.Host
	}
	r := p.client(named)
	if r == nil {
		return nil, &tunnel.Error{Code: framecodec.CodeDraining, Text: "the remote is being replaced"}
	}
	return r, nil
}
