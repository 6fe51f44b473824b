package culvert

import (
	"context"
	"net/http"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/culvertgate/culvert/framecodec"
	"github.com/culvertgate/culvert/tunnel"
	"github.com/culvertgate/culvert/tunnel/client"
	"github.com/culvertgate/culvert/tunnel/gateway"
	"github.com/culvertgate/culvert/tunnel/rtc"
)

// pooledRemote is a remote that runs: it keeps its tunnel as long as some
// attached configuration wants one like it. All methods are safe for concurrent
// use.
type pooledRemote struct {
	hub      *hub
	spec     *remoteSpec
	services *services

	mu      sync.Mutex
	clients map[string]*client.Remote        // by ?target=, which is empty in dialect 2; guarded by mu
	open    map[*client.Tunnel]*remoteTunnel // guarded by mu
	ended   bool                             // guarded by mu
}

// remoteTunnel is a tunnel of a remote of ours.
type remoteTunnel struct {
	id     string // public
	remote string
	tunnel *client.Tunnel

	mu          sync.Mutex
	unpublished map[string]error // services that the gateway does not take; guarded by mu
}

func newPooledRemote(h *hub, spec *remoteSpec) *pooledRemote {
	p := &pooledRemote{hub: h, spec: spec, clients: map[string]*client.Remote{}, open: map[*client.Tunnel]*remoteTunnel{}}
	p.services = p.servicesOf(spec)
	if spec.remote.Connect == connectEager {
		p.client("")
	}
	return p
}

// client returns the remote for streams to a target: always the same in dialect
// 2; in dialect 1, where a stream can't name a target of the configuration, one
// for each such name. nil: the remote is being ended.
func (p *pooledRemote) client(target string) *client.Remote {
	if p.spec.remote.Dialect != 1 {
		target = ""
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ended {
		return nil
	}
	r := p.clients[target]
	if r == nil {
		r = client.NewRemote(p.config(target))
		p.clients[target] = r
	}
	return r
}

// config is the remote as package client wants it. It holds nothing of the
// configuration that it was born in but values.
func (p *pooledRemote) config(target string) client.Config {
	s := p.spec
	cfg := client.Config{
		URLs:           s.remote.URLs,
		Header:         func(context.Context) (http.Header, error) { return expandHeader(s.remote.Header) },
		TLS:            s.tlsConfig(),
		Dialect:        tunnel.Dialect(s.remote.Dialect),
		Target:         target,
		ICEServers:     s.ownICEServers(),
		ConnectTimeout: time.Duration(s.timeouts.Connect) + connectMargin,
		DialTimeout:    time.Duration(s.timeouts.Dial) + dialMargin,
		WriteTimeout:   time.Duration(s.timeouts.Write),
		IdleTimeout:    time.Duration(s.timeouts.Idle),
		UDPIdleTimeout: time.Duration(s.timeouts.UDPIdle),
		Budget:         p.hub.memory,
		TunnelMemory:   s.tunnelMemory,
		Logger:         p.hub.logger,
		Observer:       &streamObserver{hub: p.hub, side: sideClient, remote: p},
		Connected:      p.connected,
		Ended:          p.closed,
		Failed:         p.failed,
	}
	if len(p.services.list) > 0 {
		cfg.Services, cfg.Serve, cfg.Published = p.services.list, p.server, p.published
	}
	if s.remote.Connect == connectEager {
		cfg.Connect = client.Eager
	}
	return cfg
}

const (
	// connectMargin is for what comes before the answer that timeouts.connect
	// begins with: name, TLS, offer.
	connectMargin = 5 * time.Second
	// dialMargin lets the gateway's own timeouts.dial be the one that tells.
	dialMargin = 5 * time.Second
)

// ownICEServers are those that we may use ourselves: where only the secret is
// configured, the gateway's Link brings credentials.
func (s *remoteSpec) ownICEServers() []rtc.ICEServer {
	var list []rtc.ICEServer
	for _, server := range s.iceServers {
		if server.Secret == "" {
			list = append(list, rtc.ICEServer{URLs: server.URLs, Username: server.Username, Credential: server.Credential})
		}
	}
	return list
}

// connected is told of each tunnel that is up.
func (p *pooledRemote) connected(t *client.Tunnel, took time.Duration) {
	rt := &remoteTunnel{id: newTunnelID(), remote: p.spec.name, tunnel: t}
	p.mu.Lock()
	p.open[t] = rt
	p.mu.Unlock()
	processMetrics.traffic.add(t.Session(), sideClient)
	processMetrics.tunnelOpened(sideClient, resultOK)
	processMetrics.handshakeSeconds.Observe(took.Seconds())
	p.hub.logger().Info("tunnel opened", append(rt.fields(),
		zap.String("candidate_pair", t.Peer().Stats().CandidatePair), zap.Int64("duration_ms", took.Milliseconds()))...)
	p.hub.emit(eventTunnelOpened, rt.eventData())
}

// closed is told of the end of each tunnel that was up.
func (p *pooledRemote) closed(t *client.Tunnel, err error) {
	p.mu.Lock()
	rt := p.open[t]
	delete(p.open, t)
	p.mu.Unlock()
	if rt == nil {
		return
	}
	processMetrics.traffic.remove(t.Session())
	end, stats, age := asError(err), t.Session().Stats(), time.Since(t.Since()).Milliseconds()
	p.hub.logger().Info("tunnel closed", append(rt.fields(),
		zap.Stringer("code", end.Code), zap.String("text", framecodec.SafeText([]byte(end.Text))),
		zap.Uint64("bytes_in", stats.BytesIn), zap.Uint64("bytes_out", stats.BytesOut), zap.Int64("duration_ms", age))...)
	data := rt.eventData()
	data["code"], data["duration_ms"] = end.Code.String(), age
	data["bytes_in"], data["bytes_out"] = stats.BytesIn, stats.BytesOut
	p.hub.emit(eventTunnelClosed, data)
}

// failed is told of each attempt that led to no tunnel.
func (p *pooledRemote) failed(err error, took time.Duration) {
	code := tunnel.CodeOf(err)
	processMetrics.tunnelOpened(sideClient, codeLabel(code))
	if suppressed, ok := p.hub.warnings.allow("remote " + p.spec.name); ok {
		p.hub.logger().Warn("gateway not reached", zap.String("remote", p.spec.name), zap.Stringer("code", code), zap.Error(err),
			zap.Int64("duration_ms", took.Milliseconds()), zap.Int("suppressed_before", suppressed))
	}
}

// end takes no new streams, lets those that run finish for at most drain, and
// ends the tunnels.
func (p *pooledRemote) end(drain time.Duration) {
	p.mu.Lock()
	p.ended = true
	clients := make([]*client.Remote, 0, len(p.clients))
	for _, r := range p.clients {
		clients = append(clients, r)
	}
	p.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), drain)
	defer cancel()
	var ends sync.WaitGroup
	for _, r := range clients {
		ends.Go(func() {
			_ = r.Drain(ctx) // in time or not: what is left is cut
			r.Close()
		})
	}
	ends.Wait()
}

// err returns why the remote has no tunnel, nil when it has one or never tried.
func (p *pooledRemote) err() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, r := range p.clients {
		if r.Current() == nil && r.Err() != nil {
			return r.Err()
		}
	}
	return nil
}

// tunnels returns those that are up.
func (p *pooledRemote) tunnels() []*remoteTunnel {
	p.mu.Lock()
	defer p.mu.Unlock()
	list := make([]*remoteTunnel, 0, len(p.open))
	for _, rt := range p.open {
		list = append(list, rt)
	}
	return list
}

// fieldsOf are the keys of log lines about a session of the remote, or about the
// remote where its tunnel is not up yet.
func (p *pooledRemote) fieldsOf(s *tunnel.Session) []zap.Field {
	for _, rt := range p.tunnels() {
		if rt.tunnel.Session() == s {
			return rt.fields()
		}
	}
	return []zap.Field{zap.String("side", sideClient), zap.String("remote", p.spec.name)}
}

// fields are the keys of log lines about a tunnel: those of the gateway's side that
// a client knows. Which identity and address its credentials and packets lead to,
// only the gateway does.
func (t *remoteTunnel) fields() []zap.Field {
	return []zap.Field{
		zap.String("side", sideClient), zap.String("id", t.id), zap.String("remote", t.remote), zap.String("gateway", t.tunnel.URL()),
	}
}

// eventData are the same keys for an event.
func (t *remoteTunnel) eventData() map[string]any {
	return map[string]any{"side": sideClient, "id": t.id, "remote": t.remote, "gateway": t.tunnel.URL()}
}

// info returns a snapshot.
func (t *remoteTunnel) info() tunnelInfo {
	i := tunnelInfo{
		ID: t.id, Side: sideClient, Remote: t.remote, Carrier: carrierWebRTC, State: stateOpen,
		Since: t.tunnel.Since(), CandidatePair: t.tunnel.Peer().Stats().CandidatePair,
	}
	select {
	case <-t.tunnel.Done():
		i.State = stateClosing
	default:
	}
	i.addSession(t.tunnel.Session())
	return i
}

// detail returns a snapshot with the streams.
func (t *remoteTunnel) detail() tunnelDetail {
	return tunnelDetail{tunnelInfo: t.info(), StreamList: streamList(t.tunnel.Session())}
}

func (t *remoteTunnel) currentSession() *tunnel.Session { return t.tunnel.Session() }

// rawChannel finds none: only pages open them.
func (t *remoteTunnel) rawChannel(string) *gateway.Raw { return nil }

// close ends the session, and with it the tunnel; the remote may make another.
func (t *remoteTunnel) close(code tunnel.Code, text string) { t.tunnel.Session().Close(code, text) }
