package culvert

import (
	"context"
	"time"

	"golang.org/x/time/rate"

	"github.com/culvertgate/culvert/framecodec"
	"github.com/culvertgate/culvert/tunnel"
	"github.com/culvertgate/culvert/tunnel/gateway"
	"github.com/culvertgate/culvert/tunnel/policy"
	"github.com/culvertgate/culvert/tunnel/rtc"
	"github.com/culvertgate/culvert/tunnel/signal"
)

// drainRetry is when a client may ask again: another process, or the end of the
// drain, is near.
const drainRetry = 2 * time.Second

// create answers an offer for an endpoint. Limits come before state: nothing of
// the peer connection is made before every count has room for it.
func (h *hub) create(ctx context.Context, state *endpointState, c signal.Caller, o signal.Offer) (signal.Session, error) {
	env := h.current()
	if env == nil || h.draining.Load() {
		return signal.Session{}, signal.WithRetryAfter(drainRetry, &tunnel.Error{Code: framecodec.CodeDraining, Text: "the gateway is ending"})
	}
	if err := expired(c); err != nil {
		return signal.Session{}, err
	}
	if d := h.gate(state, c.Identity, identityKey(state.name, c.Identity, c.ClientIP)); !d.Allowed {
		processMetrics.policyDenials.WithLabelValues(ruleLabel(d)).Inc()
		return signal.Session{}, d.Err()
	}
	if o.Target != "" {
		named := tunnel.Target{Kind: tunnel.KindNamed, Host: o.Target}
		if err := state.policy.Decide(subjectOf(state.name, c), named).Err(); err != nil {
			return signal.Session{}, err
		}
	}
	t := h.newTunnel(state, c, o)
	if err := h.admit(t, env, state); err != nil {
		return signal.Session{}, err
	}
	started := time.Now()
	answer, err := h.answerOnce(ctx, t, c, o)
	if err != nil {
		t.exit.Close()
		t.forget()
		close(t.gone)
		return signal.Session{}, err
	}
	if newest := h.current(); newest != nil {
		t.recheck(newest) // a reload in between has not seen this tunnel
	}
	return signal.Session{
		Secret: t.secret, ETag: t.etag, Answer: answer,
		ICEServers: env.iceServersFor(c), Expires: t.expiry(),
		Timing: []signal.Timing{{Name: "ice", Duration: time.Since(started)}},
	}, nil
}

// refuses returns why offers of a caller would be refused whatever they ask for, nil
// if they would not. A ticket is used up when its tunnels are over, too: one that runs
// may need ICE servers for a restart.
func (h *hub) refuses(ctx context.Context, state *endpointState, c signal.Caller) error {
	if err := expired(c); err != nil {
		return err
	}
	owner := identityKey(state.name, c.Identity, c.ClientIP)
	if d := h.gate(state, c.Identity, owner); !d.Allowed {
		return d.Err()
	}
	if c.Ticket == nil {
		return nil
	}
	err := h.ledger.refuses(ctx, *c.Ticket)
	if err == nil || err.Code == framecodec.CodeTicketUsed && h.identities.has(owner) {
		return nil
	}
	return err
}

func subjectOf(endpoint string, c signal.Caller) policy.Subject {
	s := policy.Subject{Endpoint: endpoint, Identity: c.Identity, Groups: c.Groups, Anonymous: c.Identity == ""}
	if c.Ticket != nil {
		s.Ticket = c.Ticket.Target
	}
	return s
}

// answerOnce counts the use of a ticket and answers. The use comes first, so that a
// ticket makes no more handshakes at a time than tunnels; one that comes to nothing is
// given back.
func (h *hub) answerOnce(ctx context.Context, t *gatewayTunnel, c signal.Caller, o signal.Offer) (string, error) {
	if c.Ticket == nil {
		return h.answer(ctx, t, o)
	}
	if err := h.ledger.use(ctx, t.endpoint, *c.Ticket); err != nil {
		return "", err
	}
	answer, err := h.answer(ctx, t, o)
	if err != nil {
		h.ledger.giveBack(c.Ticket.ID) //nolint:contextcheck // also for a client that is gone
	}
	return answer, err
}

// newTunnel makes the record of a tunnel; nothing runs yet.
func (h *hub) newTunnel(state *endpointState, c signal.Caller, o signal.Offer) *gatewayTunnel {
	t := &gatewayTunnel{
		hub: h, id: newTunnelID(), secret: signal.NewSecret(), etag: signal.NewETag(),
		endpoint: state.name, identity: c.Identity, groups: c.Groups, clientIP: c.ClientIP, target: o.Target, trace: o.Trace,
		owner: identityKey(state.name, c.Identity, c.ClientIP),
		since: time.Now(), renewed: time.Now(), expires: c.Expires,
		ticket:   subjectOf(state.name, c).Ticket,
		offers:   rate.NewLimiter(offersPerSecond, 2*tunnel.MaxServices),
		sessions: make(chan *tunnel.Session, 1), closing: make(chan struct{}), gone: make(chan struct{}),
	}
	if c.Ticket != nil {
		t.ticketKey = c.Ticket.Key
	}
	t.limitOpens(state.limits.OpensPerSecond)
	t.handshake = &handshake{
		keys:  [2]clientKey{t.owner, addressKey(c.ClientIP)},
		since: t.since,
		evict: func() { t.close(framecodec.CodeOverloaded, "too many handshakes at once") },
	}
	return t
}

// admit counts the tunnel everywhere, or nowhere and says why. The handshakes
// come last: only who is admitted may take another's place there.
func (h *hub) admit(t *gatewayTunnel, env *environment, state *endpointState) error {
	identity, ok := h.identities.add(t.owner, state.limits.TunnelsPerIdentity, h.memory, env.limits.MemoryPerIdentity)
	if !ok {
		return tunnel.Errorf(framecodec.CodeTooManyTunnels, "this identity has as many tunnels as it may (tunnels_per_identity: %d)", state.limits.TunnelsPerIdentity)
	}
	t.budget = tunnel.NewBudget(identity, env.limits.TunnelMemory)
	// The session takes its part when its channel opens, not for each handshake.
	if t.budget.Free(leastMemory) < leastMemory || !t.budget.Reserve(peerMemory) {
		h.identities.remove(t.owner)
		return &tunnel.Error{Code: framecodec.CodeOutOfMemoryBudget, Text: noMemory}
	}
	t.exit = h.newExit(t)
	t.mu.Lock()
	t.exit.SetRates(t.limitRatesLocked(state.limits))
	t.mu.Unlock()
	err := h.tunnels.add(t, env.limits.Tunnels)
	if err == nil {
		err = h.admitHandshake(t, env)
	}
	if err != nil {
		t.exit.Close()
		t.forget()
		close(t.gone)
	}
	return err
}

// admitHandshake counts the handshake; for one too many the oldest of the busiest
// client goes.
func (h *hub) admitHandshake(t *gatewayTunnel, env *environment) error {
	evicted, ok := h.handshakes.add(t.handshake, env.limits.Handshakes, env.limits.HandshakesPerClient)
	if !ok {
		return signal.WithRetryAfter(time.Second, tunnel.Errorf(framecodec.CodeTooManyTunnels,
			"too many tunnels of this client are being set up (handshakes_per_client: %d)", env.limits.HandshakesPerClient))
	}
	if evicted != nil {
		evicted.evict()
	}
	return nil
}

// newExit makes the tunnel's way out. It asks the hub for policy and time-outs
// each time, so that a reload counts at once.
func (h *hub) newExit(t *gatewayTunnel) *gateway.Exit {
	return gateway.NewExit(gateway.ExitConfig{
		Subject:       t.subjectLocked(), // nobody else has the tunnel yet
		Policy:        func() *policy.Policy { return h.policyOf(t.endpoint) },
		Pool:          h.pool,
		Breakers:      h.breakers,
		Source:        t.clientIP,
		Reactor:       h.reactor,
		Timeouts:      h.exitTimeouts,
		DefaultTarget: t.target,
		Service:       t.service,
		Budget:        t.budget,
		AdmitRaw:      t.admitRaw,
		OnRaw:         t.onRaw,
		OnDenied:      t.streamDenied,
		OnPanic:       t.panicked,
		Logger:        h.logger,
	})
}

// exitTimeouts are those of the newest configuration.
func (h *hub) exitTimeouts() gateway.Timeouts {
	env := h.current()
	if env == nil {
		return gateway.Timeouts{}
	}
	return gateway.Timeouts{
		Dial: time.Duration(env.timeouts.Dial), Keepalive: time.Duration(env.timeouts.Keepalive), Write: time.Duration(env.timeouts.Write),
		Idle: time.Duration(env.timeouts.Idle),
	}
}

// policyOf returns the newest policy of an endpoint; of one that is gone, a
// policy that allows nothing.
func (h *hub) policyOf(endpoint string) *policy.Policy {
	if s := h.endpoint(endpoint); s != nil {
		return s.policy
	}
	return denyAll
}

// denyAll allows nothing.
var denyAll = func() *policy.Policy {
	p, err := policy.New(policy.Config{})
	if err != nil {
		panic(err) // an empty configuration is valid
	}
	return p
}()

// answer makes the peer connection and starts the tunnel's goroutine.
func (h *hub) answer(ctx context.Context, t *gatewayTunnel, o signal.Offer) (string, error) {
	h.mu.Lock()
	gw := h.net.gateway
	h.mu.Unlock()
	if gw == nil {
		return "", &tunnel.Error{Code: framecodec.CodeDraining, Text: "the gateway is ending"}
	}
	peer, answer, err := gw.Answer(ctx, o.SDP, t.handler())
	if err != nil {
		return "", err
	}
	t.mu.Lock()
	t.peer = peer
	t.mu.Unlock()
	h.wg.Add(1)
	go t.run(peer) //nolint:contextcheck // it outlives the offer
	return answer, nil
}

// iceServersFor returns what a caller is told of ICE servers: credentials made
// for it, never ours unless they are shared on purpose.
func (env *environment) iceServersFor(c signal.Caller) []rtc.ICEServer {
	list := make([]rtc.ICEServer, 0, len(env.iceServers))
	for _, s := range env.iceServers {
		out := rtc.ICEServer{URLs: s.URLs}
		switch {
		case s.Secret != "":
			ttl := time.Duration(s.TTL)
			if ttl == 0 {
				ttl = defaultTURNTTL
			}
			subject := c.Identity
			if subject == "" {
				subject = "anonymous"
			}
			out.Username, out.Credential = signal.TURNCredentials(s.Secret, subject, time.Now(), ttl)
		case s.Username != "" && !s.Share:
			continue
		default:
			out.Username, out.Credential = s.Username, s.Credential
		}
		list = append(list, out)
	}
	return list
}

// defaultTURNTTL is how long made credentials are good: they are needed once,
// to allocate, and again to refresh with new ones of a later offer.
const defaultTURNTTL = 10 * time.Minute
