package culvert

import (
	"context"
	"slices"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/culvertgate/culvert/framecodec"
	"github.com/culvertgate/culvert/tunnel"
	"github.com/culvertgate/culvert/tunnel/gateway"
	"github.com/culvertgate/culvert/tunnel/policy"
)

// serviceKey names a service: that of "bob" at one endpoint is not that of "bob"
// at another.
type serviceKey struct{ endpoint, identity, name string }

// exposedService is a service that a client has published in its tunnel.
type exposedService struct {
	key    serviceKey
	kind   tunnel.Kind
	tunnel *gatewayTunnel
}

// serviceTable holds the services that clients have published. The zero value is
// empty and ready; all methods are safe for concurrent use.
type serviceTable struct {
	mu       sync.Mutex
	m        map[serviceKey]*exposedService       // guarded by mu
	byTunnel map[*gatewayTunnel][]*exposedService // guarded by mu
}

// add publishes a service, unless somebody has it or the tunnel has enough.
func (t *serviceTable) add(s *exposedService) *tunnel.Error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.m[s.key] != nil {
		return &tunnel.Error{Code: framecodec.CodeConflict, Text: "this service is published already, by another tunnel or by this one"}
	}
	if len(t.byTunnel[s.tunnel]) >= tunnel.MaxServices {
		return &tunnel.Error{Code: framecodec.CodeOverloaded, Text: "this tunnel has as many services as it may"}
	}
	if t.m == nil {
		t.m, t.byTunnel = map[serviceKey]*exposedService{}, map[*gatewayTunnel][]*exposedService{}
	}
	t.m[s.key] = s
	t.byTunnel[s.tunnel] = append(t.byTunnel[s.tunnel], s)
	return nil
}

// find returns a service, nil if nobody publishes it now.
func (t *serviceTable) find(k serviceKey) *exposedService {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.m[k]
}

// remove takes a tunnel's service back; nil: it is not that tunnel's.
func (t *serviceTable) remove(g *gatewayTunnel, k serviceKey) *exposedService {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.m[k]
	if s == nil || s.tunnel != g {
		return nil
	}
	delete(t.m, k)
	left := slices.DeleteFunc(t.byTunnel[g], func(other *exposedService) bool { return other == s })
	if len(left) == 0 {
		delete(t.byTunnel, g)
	} else {
		t.byTunnel[g] = left
	}
	return s
}

// of lists what a tunnel has published.
func (t *serviceTable) of(g *gatewayTunnel) []*exposedService {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Clone(t.byTunnel[g])
}

// at lists what there is at an endpoint, by identity and name.
func (t *serviceTable) at(endpoint string) []*exposedService {
	t.mu.Lock()
	var list []*exposedService
	for k, s := range t.m {
		if k.endpoint == endpoint {
			list = append(list, s)
		}
	}
	t.mu.Unlock()
	slices.SortFunc(list, func(a, b *exposedService) int {
		return strings.Compare(a.target(), b.target())
	})
	return list
}

// target is how the service is called at the gateway.
func (s *exposedService) target() string {
	return tunnel.ServiceTarget(s.kind, s.key.identity, s.key.name).Host
}

// Owner implements gateway.Service.
func (s *exposedService) Owner() policy.Subject { return s.tunnel.subject() }

// Kind implements gateway.Service.
func (s *exposedService) Kind() tunnel.Kind { return s.kind }

// Open implements gateway.Service.
func (s *exposedService) Open(ctx context.Context, trace string, ep tunnel.Endpoint) (*tunnel.Stream, error) {
	h := s.tunnel.hub
	h.streams.Add(1) // while it is being opened; from then on the session's observer counts it
	defer h.streams.Add(-1)
	session, err := s.session()
	if err != nil {
		ep.Close(err.Code)
		return nil, err
	}
	return session.OpenWith(ctx, tunnel.Target{Kind: s.kind, Host: s.key.name}, ep, tunnel.OpenOptions{Trace: trace})
}

// session is where streams to the service are opened, unless there are enough.
func (s *exposedService) session() (*tunnel.Session, *tunnel.Error) {
	t := s.tunnel
	env, state, session := t.hub.current(), t.hub.endpoint(t.endpoint), t.currentSession()
	switch {
	case env == nil || state == nil || t.hub.draining.Load():
		return nil, &tunnel.Error{Code: framecodec.CodeDraining, Text: "the gateway is ending"}
	case !t.hub.gate(state, t.identity, t.owner).Allowed: // which of the two is not this client's affair
		return nil, &tunnel.Error{Code: framecodec.CodeUnreachable, Text: "the client that exposes it is kept out, or has used up its quota"}
	case session == nil:
		return nil, &tunnel.Error{Code: framecodec.CodeUnreachable, Text: "the client that exposes it is gone"}
	case session.Stats().Streams >= state.limits.StreamsPerTunnel, t.hub.streams.Load() > int64(env.limits.Streams):
		return nil, &tunnel.Error{Code: framecodec.CodeTooManyStreams, Text: "there are as many streams as there may be"}
	}
	return session, nil
}

// offersPerSecond is how often a client may offer services: each is told to the log,
// and looked up. All that it may have can be offered twice at once.
const offersPerSecond = 4

// exposed is asked by the session for each service that the client offers.
func (t *gatewayTunnel) exposed(kind tunnel.Kind, name string) (tunnel.Code, string) {
	if !t.offers.Allow() {
		return framecodec.CodeOverloaded, "too many offers a second"
	}
	owner := t.subject()
	if d := t.hub.policyOf(t.endpoint).MayExpose(owner, name); !d.Allowed {
		t.serviceDenied(d, name)
		return d.Code, policy.ClientText(d.Code)
	}
	s := &exposedService{key: serviceKey{t.endpoint, t.identity, name}, kind: kind, tunnel: t}
	if len(s.target()) > framecodec.MaxHost {
		return framecodec.CodeUnknownTarget, "the identity is too long for a target's name"
	}
	if err := t.hub.services.add(s); err != nil {
		t.hub.warnClient(t.endpoint, "service refused", append(t.fields(), zap.String("service", s.target()), zap.Stringer("code", err.Code))...)
		return err.Code, err.Text
	}
	select {
	case <-t.closing: // release may have passed by already
		t.hub.services.remove(t, s.key)
		return framecodec.CodeTunnelClosed, "the tunnel is ending"
	default:
	}
	t.hub.logger().Info("service exposed", append(t.fields(), zap.String("service", s.target()))...)
	return framecodec.CodeNormal, s.target()
}

// withdrawn is told of each service that the client takes back.
func (t *gatewayTunnel) withdrawn(name string) {
	t.unexpose(serviceKey{t.endpoint, t.identity, name}, "withdrawn by the client")
}

// unexpose takes a service out of the table and tells the log.
func (t *gatewayTunnel) unexpose(k serviceKey, why string) {
	if s := t.hub.services.remove(t, k); s != nil {
		t.hub.logger().Info("service gone", append(t.fields(), zap.String("service", s.target()), zap.String("reason", why))...)
	}
}

// recheckServices takes back what a policy no longer lets the tunnel publish, and
// with cut ends its streams.
func (t *gatewayTunnel) recheckServices(p *policy.Policy, cut bool) {
	session, owner := t.currentSession(), t.subject()
	for _, s := range t.hub.services.of(t) {
		d := p.MayExpose(owner, s.key.name)
		if d.Allowed {
			continue
		}
		t.serviceDenied(d, s.key.name)
		t.unexpose(s.key, "no longer allowed")
		if session == nil {
			continue
		}
		session.Revoke(s.key.name, framecodec.CodeNotAllowed, policy.ClientText(framecodec.CodePolicyChanged))
	}
	if cut {
		t.cutReverse(p)
	}
}

// cutReverse ends the streams to services that no policy of these lets the tunnel
// publish.
func (t *gatewayTunnel) cutReverse(policies ...*policy.Policy) {
	session, owner := t.currentSession(), t.subject()
	if session == nil {
		return
	}
	session.EachStream(func(st *tunnel.Stream) {
		allows := func(p *policy.Policy) bool { return p.MayExpose(owner, st.Target().Host).Allowed }
		if st.Entry() && !slices.ContainsFunc(policies, allows) {
			st.Reset(framecodec.CodePolicyChanged, policy.ClientText(framecodec.CodePolicyChanged))
		}
	})
}

// forgetServices takes back all services of a tunnel that ends.
func (t *gatewayTunnel) forgetServices() {
	for _, s := range t.hub.services.of(t) {
		t.unexpose(s.key, "the tunnel has ended")
	}
}

// serviceDenied tells of a service that the policy does not let the client
// publish.
func (t *gatewayTunnel) serviceDenied(d policy.Decision, name string) {
	processMetrics.policyDenials.WithLabelValues(ruleLabel(d)).Inc()
	t.hub.warnClient(t.endpoint, "service denied", append(t.fields(),
		zap.String("service", framecodec.SafeText([]byte(name))), zap.Stringer("code", d.Code),
		zap.String("rule", d.Rule.Describe()), zap.String("reason", d.Reason))...)
}

// service finds what a client of the same endpoint exposes.
func (t *gatewayTunnel) service(identity, name string) gateway.Service {
	if s := t.hub.services.find(serviceKey{t.endpoint, identity, name}); s != nil {
		return s
	}
	return nil
}

// openLocal opens a stream to a service that a client of this gateway exposes and
// joins ep to it; with an error ep has been closed. It is for handlers of this
// Caddy's own configuration: whoever wrote it may reach every service. endpoint
// may be empty where only one has an expose block.
func (h *hub) openLocal(ctx context.Context, endpoint string, target tunnel.Target, ep tunnel.Endpoint) (*tunnel.Stream, error) {
	s, err := h.localService(endpoint, target)
	if err != nil {
		ep.Close(err.Code)
		return nil, err
	}
	if env := h.current(); env != nil {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Duration(env.timeouts.Dial)+dialMargin)
		defer cancel()
	}
	trace := tunnel.NewTraceparent()
	if c := h.logger().Check(zap.DebugLevel, "stream asked for"); c != nil {
		c.Write(zap.String("side", sideGateway), zap.String("endpoint", s.key.endpoint), zap.String("target", s.target()), zap.String("stream_traceparent", trace))
	}
	return s.Open(ctx, trace, ep)
}

func (h *hub) localService(endpoint string, target tunnel.Target) (*exposedService, *tunnel.Error) {
	env := h.current()
	if env == nil || h.draining.Load() {
		return nil, &tunnel.Error{Code: framecodec.CodeDraining, Text: "Caddy is ending"}
	}
	name, err := env.exposingEndpoint(endpoint)
	if err != nil {
		return nil, &tunnel.Error{Code: framecodec.CodeUnreachable, Text: err.Error(), Err: err}
	}
	identity, service, _ := target.Service()
	s := h.services.find(serviceKey{name, identity, service})
	switch {
	case s == nil:
		return nil, tunnel.Errorf(framecodec.CodeUnreachable, "no client of %s exposes %s now", name, target.Host)
	case s.kind != target.Kind:
		return nil, tunnel.Errorf(framecodec.CodeUnknownTarget, "%s is of the other kind: a udp/ listener leads to a udp/ service, any other to a stream", target.Host)
	}
	return s, nil
}
