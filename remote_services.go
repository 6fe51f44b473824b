package culvert

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"go.uber.org/zap"

	"github.com/culvertgate/culvert/framecodec"
	"github.com/culvertgate/culvert/tunnel"
	"github.com/culvertgate/culvert/tunnel/client"
	"github.com/culvertgate/culvert/tunnel/gateway"
	"github.com/culvertgate/culvert/tunnel/policy"
)

// services are what a client lets its gateway open: named targets of its own, and
// nothing else (security.md, "Things that are handed on" 1).
type services struct {
	policy *policy.Policy
	list   []client.Service
}

// newServices compiles addresses by service name. forbidden is what is never
// reached; nil: nothing.
func newServices(addresses map[string][]string, forbidden func() []policy.Listener) (*services, error) {
	cfg := policy.Config{Endpoint: "expose", Forbidden: forbidden}
	names := slices.Sorted(maps.Keys(addresses))
	for _, name := range names {
		if !tunnel.ValidServiceName(name) || !tunnel.ValidTargetName(name) {
			return nil, fmt.Errorf("expose %q: a service's name is [a-z0-9-], at most 63, and begins with no dash", name)
		}
		cfg.Targets = append(cfg.Targets, policy.NamedTarget{Name: name, Addresses: addresses[name]})
	}
	p, err := policy.New(cfg)
	if err != nil {
		return nil, fmt.Errorf("expose: %w", err)
	}
	s := &services{policy: p}
	for _, name := range names {
		s.list = append(s.list, client.Service{Name: name, Datagrams: p.Named(name).Datagrams()})
	}
	return s, nil
}

// exit answers the streams that a gateway opens in one tunnel.
func (s *services) exit(cfg gateway.ExitConfig) *gateway.Exit {
	cfg.Policy = func() *policy.Policy { return s.policy }
	return gateway.NewExit(cfg)
}

// servicesOf compiles what a remote exposes.
func (p *pooledRemote) servicesOf(spec *remoteSpec) *services {
	forbidden := func() []policy.Listener {
		if env := p.hub.current(); env != nil {
			return env.forbidden()
		}
		return nil
	}
	s, err := newServices(spec.remote.Expose, forbidden)
	if err != nil {
		panic(err) // it was compiled when the configuration was loaded
	}
	return s
}

// remoteServer answers the streams that the gateway opens in a tunnel of a remote.
type remoteServer struct {
	*gateway.Exit
	remote *pooledRemote
}

// server makes the answering side of a tunnel.
func (p *pooledRemote) server() client.Server {
	return &remoteServer{remote: p, Exit: p.services.exit(gateway.ExitConfig{
		Pool: p.hub.pool, Reactor: p.hub.reactor, Timeouts: p.hub.exitTimeouts,
		OnDenied: p.denied, OnPanic: p.hub.panicked, Logger: p.hub.logger,
	})}
}

// Accept counts the stream among those of this process.
func (s *remoteServer) Accept(in *tunnel.Incoming) {
	h := s.remote.hub
	h.streams.Add(1) // until its end, which streamObserver hears of, refused or not
	if c := h.logger().Check(zap.DebugLevel, "stream asked for"); c != nil {
		fields := append(s.remote.fieldsOf(in.Stream().Session()), zap.Uint32("stream", in.Stream().ID()), zap.String("target", safeTarget(in.Target())))
		if trace := in.Trace(); tunnel.ValidTraceparent(trace) {
			fields = append(fields, zap.String("stream_traceparent", trace))
		}
		c.Write(fields...)
	}
	switch env := h.current(); {
	case env == nil || h.draining.Load():
		in.Refuse(framecodec.CodeDraining, "the client is ending")
	case h.streams.Load() > int64(env.limits.Streams):
		in.Refuse(framecodec.CodeTooManyStreams, "the client has as many streams as it may")
	default:
		s.Exit.Accept(in)
	}
}

// denied tells of a stream that the gateway asked for and may not have.
func (p *pooledRemote) denied(d policy.Decision, target tunnel.Target) {
	if suppressed, ok := p.hub.warnings.allow("remote " + p.spec.name); ok {
		p.hub.logger().Warn("stream of the gateway denied", zap.String("remote", p.spec.name), zap.String("target", safeTarget(target)),
			zap.Stringer("code", d.Code), zap.String("reason", d.Reason), zap.Int("suppressed_before", suppressed))
	}
}

// published is told what becomes of each offer of a service.
func (p *pooledRemote) published(t *client.Tunnel, pub client.Publication) {
	p.mu.Lock()
	rt := p.open[t]
	p.mu.Unlock()
	if rt == nil {
		return // it is over already
	}
	fields := append(rt.fields(), zap.String("service", pub.Service.Name))
	rt.setPublished(pub)
	if pub.Err == nil {
		p.hub.logger().Info("service published", append(fields, zap.String("name", pub.Name))...)
		return
	}
	if suppressed, ok := p.hub.warnings.allow("remote " + p.spec.name); ok {
		p.hub.logger().Warn("service not published; it is offered again", append(fields,
			zap.Stringer("code", tunnel.CodeOf(pub.Err)), zap.Error(pub.Err), zap.Int("suppressed_before", suppressed))...)
	}
}

// setPublished remembers what the gateway does not take.
func (t *remoteTunnel) setPublished(pub client.Publication) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if pub.Err == nil {
		delete(t.unpublished, pub.Service.Name)
		return
	}
	if t.unpublished == nil {
		t.unpublished = map[string]error{}
	}
	t.unpublished[pub.Service.Name] = pub.Err
}

// notPublished says which services the gateway does not take, "" if it takes all.
func (t *remoteTunnel) notPublished() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	list := make([]string, 0, len(t.unpublished))
	for _, name := range slices.Sorted(maps.Keys(t.unpublished)) {
		list = append(list, name+" ("+tunnel.CodeOf(t.unpublished[name]).String()+")")
	}
	return strings.Join(list, ", ")
}
