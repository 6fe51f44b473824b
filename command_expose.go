package culvert

import (
	"context"
	"fmt"
	"strings"
	"sync"

	"go.uber.org/zap"

	"github.com/culvertgate/culvert/framecodec"
	"github.com/culvertgate/culvert/tunnel"
	"github.com/culvertgate/culvert/tunnel/client"
	"github.com/culvertgate/culvert/tunnel/gateway"
	"github.com/culvertgate/culvert/tunnel/policy"
)

// parseExposes reads what --expose was given: NAME=ADDRESS, each name once.
func parseExposes(list []string) (map[string][]string, error) {
	all := map[string][]string{}
	for _, s := range list {
		name, address, ok := strings.Cut(s, "=")
		if !ok || address == "" {
			return nil, fmt.Errorf("--expose %q: want NAME=ADDRESS, such as sshd=tcp/127.0.0.1:22", s)
		}
		if all[name] != nil {
			return nil, fmt.Errorf("--expose %s: the name is there twice", name)
		}
		all[name] = []string{address}
	}
	return all, nil
}

// publisher tells of the services that `connect` publishes and answers their
// streams. It is safe for concurrent use.
type publisher struct {
	services *services
	console  *console
	pool     *gateway.Pool

	refused chan error // room for one: the gateway did not take a service

	mu   sync.Mutex
	said map[string]string // by service, so that nothing is said again; guarded by mu
}

// newPublisher compiles what is to be published.
func newPublisher(console *console, exposes map[string][]string) (*publisher, error) {
	s, err := newServices(exposes, nil)
	if err != nil {
		return nil, err
	}
	return &publisher{
		services: s, console: console, pool: gateway.NewPool(gateway.PoolConfig{}),
		refused: make(chan error, 1), said: map[string]string{},
	}, nil
}

// configure has tunnels publish the services; server is where their connections
// are watched.
func (p *publisher) configure(cfg *client.Config, server *localServer) {
	if len(p.services.list) == 0 {
		return
	}
	logger := cfg.Logger
	if logger == nil {
		logger = zap.NewNop
	}
	cfg.Services, cfg.Published = p.services.list, p.published
	cfg.Serve = func() client.Server {
		return p.services.exit(gateway.ExitConfig{Pool: p.pool, Reactor: server.reactor, OnDenied: p.denied, Logger: logger})
	}
}

func (p *publisher) published(_ *client.Tunnel, pub client.Publication) {
	text := fmt.Sprintf("published %s as %s", pub.Service.Name, pub.Name)
	if pub.Err != nil {
		text = fmt.Sprintf("%s is not published: %s; offering it again", pub.Service.Name, exposeAdvice(pub.Err))
		select {
		case p.refused <- fmt.Errorf("publishing %s: %w", pub.Service.Name, pub.Err):
		default:
		}
	}
	p.mu.Lock()
	again := p.said[pub.Service.Name] == text && pub.Err != nil
	p.said[pub.Service.Name] = text
	p.mu.Unlock()
	if !again {
		p.console.say("%s", text)
	}
}

// exposeAdvice says what can be done about a refusal.
func exposeAdvice(err error) string {
	switch tunnel.CodeOf(err) {
	case framecodec.CodeNotAllowed:
		return err.Error() + " (the gateway's endpoint needs an expose block with a rule for this name and you)"
	case framecodec.CodeConflict:
		return err.Error() + " (another program publishes it, or the gateway has not noticed yet that an earlier tunnel was lost)"
	default:
		return err.Error()
	}
}

func (p *publisher) denied(d policy.Decision, target tunnel.Target) {
	p.console.say("the gateway asked for %s and got nothing: %s", safeTarget(target), d.Reason)
}

// awaitRefusal returns the first refusal of a service, or nil when ctx is over or
// the tunnel has ended.
func (p *publisher) awaitRefusal(ctx context.Context, t *client.Tunnel) error {
	select {
	case err := <-p.refused:
		return err
	case <-t.Done():
		return nil
	case <-ctx.Done():
		return nil
	}
}
