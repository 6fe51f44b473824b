package culvert

import (
	"context"
	"net/http"
	"time"

	"github.com/culvertgate/culvert/framecodec"
	"github.com/culvertgate/culvert/tunnel"
	"github.com/culvertgate/culvert/tunnel/gateway"
	"github.com/culvertgate/culvert/tunnel/policy"
	"github.com/culvertgate/culvert/tunnel/rtc"
	"github.com/culvertgate/culvert/tunnel/signal"
)

// backend is what signalling of one endpoint does with the hub's tunnels. It
// implements signal.Backend.
type backend struct {
	hub  *hub
	name string
	env  *environment // of the endpoint's own configuration: only to wait for its Start
}

// state returns the endpoint in the newest configuration. Servers may accept
// before our Start: then it waits for that.
func (b *backend) state(ctx context.Context) (*endpointState, error) {
	if err := b.env.wait(ctx); err != nil {
		// The configuration that runs is there at the next attempt.
		return nil, signal.WithRetryAfter(time.Second, err)
	}
	if s := b.hub.endpoint(b.name); s != nil {
		return s, nil
	}
	return nil, &tunnel.Error{Code: framecodec.CodeDraining, Text: "the endpoint is being removed"}
}

// own returns the caller's tunnel with that secret. One of another identity or
// endpoint is as none.
func (b *backend) own(c signal.Caller, secret string) (*gatewayTunnel, error) {
	t := b.hub.tunnels.withSecret(secret)
	if t == nil || t.endpoint != b.name || t.identity != c.Identity {
		return nil, &tunnel.Error{Code: framecodec.CodeNotFound, Text: "no such session"}
	}
	return t, nil
}

// ownPeer is own with its peer connection.
func (b *backend) ownPeer(c signal.Caller, secret string) (*gatewayTunnel, *rtc.Peer, error) {
	t, err := b.own(c, secret)
	if err != nil {
		return nil, nil, err
	}
	peer := t.currentPeer()
	if peer == nil {
		return nil, nil, &tunnel.Error{Code: framecodec.CodeNotFound, Text: "no such session"}
	}
	return t, peer, nil
}

// Create implements signal.Backend.
func (b *backend) Create(ctx context.Context, c signal.Caller, o signal.Offer) (signal.Session, error) {
	state, err := b.state(ctx)
	if err != nil {
		return signal.Session{}, err
	}
	return b.hub.create(ctx, state, c, o)
}

// Trickle implements signal.Backend.
func (b *backend) Trickle(_ context.Context, c signal.Caller, secret string, match signal.Match, f rtc.Fragment) error {
	t, peer, err := b.ownPeer(c, secret)
	if err != nil {
		return err
	}
	t.mu.Lock()
	etag := t.etag
	t.mu.Unlock()
	if !match.Holds(etag) {
		return &tunnel.Error{Code: framecodec.CodePreconditionFailed, Text: "the ICE session has another ETag by now"}
	}
	if peer.IsRestart(f) { // its candidates belong to an ICE session that is not there (RFC 9725 section 4.3.2)
		return signal.WithStatus(http.StatusUnprocessableEntity, framecodec.CodeBadOffer, "the fragment has other credentials than the ICE session: a restart takes If-Match: *")
	}
	_, err = peer.AddCandidates(f.Candidates)
	return err
}

// Restart implements signal.Backend.
func (b *backend) Restart(ctx context.Context, c signal.Caller, secret string, f rtc.Fragment) (rtc.Fragment, string, error) {
	t, peer, err := b.ownPeer(c, secret)
	if err != nil {
		return rtc.Fragment{}, "", err
	}
	t.mu.Lock()
	if t.restarting {
		t.mu.Unlock()
		return rtc.Fragment{}, "", &tunnel.Error{Code: framecodec.CodeConflict, Text: "an ICE restart is under way"}
	}
	t.restarting = true
	t.mu.Unlock()
	answer, err := peer.Restart(ctx, f)
	t.mu.Lock()
	defer t.mu.Unlock()
	t.restarting = false
	if err != nil {
		return rtc.Fragment{}, "", err
	}
	t.etag = signal.NewETag()
	return answer, t.etag, nil
}

// Delete implements signal.Backend.
func (b *backend) Delete(_ context.Context, c signal.Caller, secret string) error {
	t, err := b.own(c, secret)
	if err != nil {
		return err
	}
	b.hub.tunnels.hide(t) // a second DELETE finds nothing, however long the end takes
	if t.disturbed() {    // a client that has lost its path says so over HTTP
		t.close(framecodec.CodeTunnelLost, "the path was lost, and the client ended the session")
		return nil
	}
	t.close(framecodec.CodeTunnelClosed, "the client ended the session")
	return nil
}

// Renew implements signal.Backend.
func (b *backend) Renew(_ context.Context, c signal.Caller, secret string) (time.Time, error) {
	t, err := b.own(c, secret)
	if err != nil {
		return time.Time{}, err
	}
	if err := expired(c); err != nil {
		return time.Time{}, err
	}
	t.renew(c)
	return t.expiry(), nil
}

// Exists implements signal.Backend.
func (b *backend) Exists(_ context.Context, c signal.Caller, secret string) error {
	_, err := b.own(c, secret)
	return err
}

// Status implements signal.Backend.
func (b *backend) Status(_ context.Context, c signal.Caller, secret string) (any, error) {
	t, err := b.own(c, secret)
	if err != nil {
		return nil, err
	}
	return t.detail(), nil
}

// targetList is the body of GET P/targets.
type targetList struct {
	Targets []targetEntry `json:"targets"`
	// Dynamic: addresses may be named too, if a rule allows them.
	Dynamic bool `json:"dynamic"`
}

// targetEntry is a named target, or a service that a client exposes now, as its
// users see it.
type targetEntry struct {
	policy.TargetInfo
	Usable bool `json:"usable"` // a tunnel for it can be had at this moment, and its breaker is not open
}

// Targets implements signal.Backend.
func (b *backend) Targets(ctx context.Context, c signal.Caller) (any, error) {
	state, err := b.state(ctx)
	if err != nil {
		return nil, err
	}
	if err := b.hub.refuses(ctx, state, c); err != nil {
		return nil, err
	}
	list := targetList{Targets: []targetEntry{}, Dynamic: state.dynamic}
	unavailable, _ := b.hub.health()
	subject := subjectOf(b.name, c)
	for _, info := range state.policy.Targets(subject) {
		usable := len(unavailable) == 0 && b.hub.breakers.Named(b.name, info.Name) != gateway.BreakerOpen
		list.Targets = append(list.Targets, targetEntry{TargetInfo: info, Usable: usable})
	}
	for _, s := range b.hub.services.at(b.name) {
		if state.policy.MayReach(subject, s.Owner(), s.key.name).Allowed {
			info := policy.TargetInfo{Name: s.target(), Kind: policy.KindWord(s.kind)}
			list.Targets = append(list.Targets, targetEntry{TargetInfo: info, Usable: len(unavailable) == 0})
		}
	}
	return list, nil
}

// ICEServers implements signal.Backend.
func (b *backend) ICEServers(ctx context.Context, c signal.Caller) []rtc.ICEServer {
	state, err := b.state(ctx)
	if err != nil || b.hub.refuses(ctx, state, c) != nil {
		return nil // the offer is told why
	}
	if env := b.hub.current(); env != nil {
		return env.iceServersFor(c)
	}
	return nil
}

var _ signal.Backend = (*backend)(nil)
