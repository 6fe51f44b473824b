package client

import "context"

type traceKey struct{}

// WithTraceparent has streams that are opened with the context carry a W3C
// traceparent, which the gateway puts into its log. One that is not valid
// (tunnel.ValidTraceparent) is left out there.
func WithTraceparent(ctx context.Context, traceparent string) context.Context {
	return context.WithValue(ctx, traceKey{}, traceparent)
}

func traceOf(ctx context.Context) string {
	trace, _ := ctx.Value(traceKey{}).(string) // none: ""
	return trace
}
