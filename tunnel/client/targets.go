package client

import (
	"context"
	"net/http/httptrace"
)

// Targets asks the gateways in order for their list of targets, until one
// answers, and returns its JSON as sent. It makes no tunnel. Each gateway has
// cfg.ConnectTimeout. The error is a *StepError, or several of them joined.
func Targets(ctx context.Context, cfg Config) ([]byte, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	cfg = cfg.withDefaults()
	defer cfg.release()
	var all []error
	for _, u := range cfg.URLs {
		list, err := cfg.targets(ctx, u)
		if err == nil {
			return list, nil
		}
		all = append(all, err)
		if ctx.Err() != nil {
			break
		}
	}
	return nil, joined(all, len(cfg.URLs))
}

// targets asks one gateway.
func (c Config) targets(ctx context.Context, url string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, c.ConnectTimeout)
	defer cancel()
	a := newAttempt(url, c.Progress)
	a.enter(StepResolve, "")
	client, err := c.signalClient(url)
	if err != nil {
		return nil, a.finish(err)
	}
	list, err := client.Targets(httptrace.WithClientTrace(ctx, a.trace(StepTargets)))
	if err != nil {
		return nil, a.finish(err)
	}
	a.enter(StepTargets, "")
	_ = a.finish(nil)
	return list, nil
}
