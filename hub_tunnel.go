package culvert

import (
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"net/netip"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"github.com/culvertgate/culvert/framecodec"
	"github.com/culvertgate/culvert/internal/faultpoint"
	"github.com/culvertgate/culvert/tunnel"
	"github.com/culvertgate/culvert/tunnel/gateway"
	"github.com/culvertgate/culvert/tunnel/policy"
	"github.com/culvertgate/culvert/tunnel/rtc"
	"github.com/culvertgate/culvert/tunnel/signal"
)

// gatewayTunnel is a peer connection that a client of one of our endpoints made,
// with its session. It belongs to the hub and knows its endpoint by name only.
// One goroutine of its own (run) owns its end; everything else may come from
// anywhere.
type gatewayTunnel struct {
	hub       *hub
	id        string // public
	secret    string // in the signalling URL; never shown
	endpoint  string
	identity  string // empty: anonymous
	clientIP  netip.Addr
	owner     clientKey
	target    string            // of ?target=, for peers that cannot name one
	ticket    string            // target of the ticket that the identity comes from; empty: none
	ticketKey [sha256.Size]byte // hash of the key that it was signed with
	trace     string            // W3C traceparent of the offer, empty: none
	since     time.Time
	budget    *tunnel.Budget
	exit      *gateway.Exit
	opens     atomic.Pointer[rate.Limiter] // nil: no limit
	rates     tunnel.Rates                 // guarded by mu
	offers    *rate.Limiter                // of services
	raws      atomic.Int32                 // raw channels
	handshake *handshake

	sessions chan *tunnel.Session // hands the session to run; room for the only one
	closing  chan struct{}        // closed by close
	gone     chan struct{}        // closed when everything is released

	mu         sync.Mutex
	peer       *rtc.Peer       // nil while the offer is being answered; guarded by mu
	etag       string          // of the ICE session; guarded by mu
	restarting bool            // guarded by mu
	session    *tunnel.Session // nil before the channel is open; guarded by mu
	early      *rtc.Channel    // for datagrams, open before the session's; guarded by mu
	connected  bool            // some channel is open; guarded by mu
	renewed    time.Time       // when the identity's time began; guarded by mu
	expires    time.Time       // the credential's own end, zero: none; guarded by mu
	groups     []string        // of the offer or the last renewal; guarded by mu
	closeCode  tunnel.Code     // guarded by mu
	closeText  string          // guarded by mu
	isClosing  bool            // guarded by mu
	counted    uint64          // bytes that quotas have seen; guarded by mu
}

// peerMemory is what a peer connection takes by estimate, in bytes: pion's
// goroutines and buffers for one association. It counts against `memory`.
const peerMemory = 384 << 10

// leastMemory is what a tunnel needs to be of use, in bytes: one whose session
// went beyond a budget would keep new streams from all tunnels below that.
const leastMemory = peerMemory + tunnel.MinSessionMemory

// newTunnelID returns a public id.
func newTunnelID() string { return strings.ToLower(rand.Text()[:12]) }

// subject is who the tunnel belongs to, as of now.
func (t *gatewayTunnel) subject() policy.Subject {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.subjectLocked()
}

// subjectLocked is who the tunnel's streams are asked for by.
func (t *gatewayTunnel) subjectLocked() policy.Subject {
	return policy.Subject{Endpoint: t.endpoint, Identity: t.identity, Groups: t.groups, Anonymous: t.identity == "", Ticket: t.ticket}
}

// close ends the tunnel. It does not wait (gone tells); the first code counts.
func (t *gatewayTunnel) close(code tunnel.Code, text string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.isClosing {
		return
	}
	t.isClosing, t.closeCode, t.closeText = true, code, text
	close(t.closing)
}

// run waits for the tunnel's end, whoever makes it, and releases everything.
func (t *gatewayTunnel) run(peer *rtc.Peer) {
	defer t.hub.wg.Done()
	end := tunnel.Error{Code: framecodec.CodeInternal, Text: "an internal error"}
	func() {
		defer func() {
			if v := recover(); v != nil {
				t.hub.panicked(v, debug.Stack())
			}
		}()
		end = t.wait(peer)
	}()
	t.release(peer, end)
}

// wait returns how the tunnel ends, when it does.
func (t *gatewayTunnel) wait(peer *rtc.Peer) (end tunnel.Error) {
	var session *tunnel.Session // known when its channel is open
	var sessionDone <-chan struct{}
	handshake := time.NewTimer(t.hub.handshakeTime())
	defer handshake.Stop()
	for {
		select {
		case session = <-t.sessions:
			faultpoint.Here(faultpoint.GatewayTunnel)
			sessionDone = session.Done()
			continue
		case <-handshake.C:
			if t.isConnected() {
				continue
			}
			return tunnel.Error{Code: framecodec.CodeTimeout, Text: "no data channel that is served here was opened in time"}
		case <-sessionDone:
			return t.endOf(peer)
		case <-peer.Done():
			return t.endOf(peer)
		case <-t.closing:
			t.mu.Lock()
			defer t.mu.Unlock()
			return tunnel.Error{Code: t.closeCode, Text: t.closeText}
		}
	}
}

// endOf returns how the peer connection and its session, if there is one, ended.
func (t *gatewayTunnel) endOf(peer *rtc.Peer) tunnel.Error {
	if session := t.currentSession(); session != nil {
		return asError(tunnel.EndOf(session, peer))
	}
	return asError(peer.Err())
}

// handshakeMargin lets the peer connection, which knows at which step it stands,
// say first that timeouts.connect is over.
const handshakeMargin = time.Second

// handshakeTime is how long a tunnel may be without a channel that we serve.
// The peer connection's own limit ends with its first channel, whatever that
// is: a client that opens only such as are refused would keep its place among
// the handshakes for ever.
func (h *hub) handshakeTime() time.Duration {
	connect := rtc.DefaultConnectTimeout
	if env := h.current(); env != nil {
		connect = time.Duration(env.timeouts.Connect)
	}
	return connect + handshakeMargin
}

// isConnected reports whether a channel that we serve was opened.
func (t *gatewayTunnel) isConnected() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.connected
}

// release ends what is left of the tunnel and gives back what it counted for.
func (t *gatewayTunnel) release(peer *rtc.Peer, end tunnel.Error) {
	t.close(end.Code, end.Text) // nothing new from now on
	t.forgetServices()
	session := t.currentSession()
	if session != nil {
		session.Close(end.Code, end.Text)
		<-session.Done() // bounded by the session itself
	}
	t.exit.Close()
	peer.Close(end.Code)
	t.exit.Wait() // its dials were cancelled, its channels are gone
	if session != nil {
		session.Wait() // its streams' ends have been told, and so counted
	}
	t.hub.settle(t)
	t.forget()
	if id, ok := strings.CutPrefix(t.identity, ticketPrefix); ok && t.ticket != "" && !t.isConnected() {
		t.hub.ledger.giveBack(id)
	}
	t.hub.tunnelClosed(t, session, end)
	close(t.gone)
}

// forget takes the tunnel off every count. It is called once.
func (t *gatewayTunnel) forget() {
	t.hub.handshakes.remove(t.handshake)
	t.hub.tunnels.remove(t)
	t.hub.identities.remove(t.owner)
	t.budget.Release(peerMemory)
}

// disturbed reports whether nothing has come from the client for a while.
func (t *gatewayTunnel) disturbed() bool {
	peer := t.currentPeer()
	return peer != nil && peer.Disturbed()
}

// panicked ends the tunnel that caused a panic, and nothing else.
func (t *gatewayTunnel) panicked(v any, stack []byte) {
	t.hub.panicked(v, stack)
	t.close(framecodec.CodeInternal, "an internal error")
}

// asError gives every end a code; one without is the client's orderly one.
func asError(err error) tunnel.Error {
	if err == nil {
		return tunnel.Error{Code: framecodec.CodeTunnelClosed}
	}
	if own, ok := errors.AsType[*tunnel.Error](err); ok {
		return *own
	}
	return tunnel.Error{Code: tunnel.CodeOf(err), Text: err.Error(), Err: err}
}

// recheck judges the tunnel by its endpoint in a new configuration, and has the
// limits of that count for it.
func (t *gatewayTunnel) recheck(env *environment) {
	s := env.endpoints[t.endpoint]
	var rates tunnel.Rates
	t.mu.Lock()
	session := t.session
	if s != nil {
		rates = t.limitRatesLocked(s.limits)
	}
	t.mu.Unlock()
	switch {
	case s == nil:
		t.close(framecodec.CodePolicyChanged, "the endpoint is gone")
	case t.identity == "" && !s.allowAnonymous:
		t.close(framecodec.CodePolicyChanged, "an identity is needed now")
	case t.ticket != "" && (s.tickets == nil || s.tickets.keyHash != t.ticketKey):
		t.close(framecodec.CodePolicyChanged, "the ticket is not taken any more")
	case session != nil && !s.admits(int(session.Dialect())):
		t.close(framecodec.CodePolicyChanged, "the dialect is no longer spoken")
	default:
		t.limitOpens(s.limits.OpensPerSecond)
		t.exit.SetRates(rates)
		t.budget.SetLimit(env.limits.TunnelMemory)
		if session != nil {
			session.SetMaxStreams(s.limits.StreamsPerTunnel)
			session.SetRates(rates)
		}
		if s.onReload == reloadCut {
			t.exit.Recheck(s.policy)
		}
		t.recheckServices(s.policy, s.onReload == reloadCut)
	}
}

// cut ends the streams that each of some policies refuses; there is one at least.
func (t *gatewayTunnel) cut(policies []*policy.Policy) {
	t.exit.Recheck(policies[0], policies[1:]...)
	t.cutReverse(policies...)
}

// limitOpens sets how many streams a second the client may ask for; 0: as many as
// it likes.
func (t *gatewayTunnel) limitOpens(perSecond int) {
	now := t.opens.Load()
	switch {
	case perSecond <= 0:
		t.opens.Store(nil)
	case now == nil || now.Burst() != perSecond:
		t.opens.Store(rate.NewLimiter(rate.Limit(perSecond), perSecond))
	}
}

// limitRatesLocked returns the rates of an endpoint's limits. What has not changed
// goes on counting, for whatever has it already.
func (t *gatewayTunnel) limitRatesLocked(l EndpointLimits) tunnel.Rates {
	if t.rates.Out.PerSecond() != l.Rate {
		t.rates.Out, t.rates.In = tunnel.NewBucket(l.Rate), tunnel.NewBucket(l.Rate)
	}
	t.rates.Stream = l.StreamRate
	return t.rates
}

// expiry returns when the identity's time is over; zero: never.
func (t *gatewayTunnel) expiry() time.Time {
	t.mu.Lock()
	renewed, end := t.renewed, t.expires
	t.mu.Unlock()
	if s := t.hub.endpoint(t.endpoint); s != nil && s.maxAge > 0 {
		if byAge := renewed.Add(time.Duration(s.maxAge)); end.IsZero() || byAge.Before(end) {
			end = byAge
		}
	}
	return end
}

// renew starts the identity's time anew. Its groups are those of this request:
// what they no longer allow ends.
func (t *gatewayTunnel) renew(c signal.Caller) {
	t.mu.Lock()
	t.renewed, t.expires = time.Now(), c.Expires
	changed := !slices.Equal(t.groups, c.Groups)
	t.groups = c.Groups
	if changed {
		t.exit.SetSubject(t.subjectLocked())
	}
	t.mu.Unlock()
	if !changed {
		return
	}
	p := t.hub.policyOf(t.endpoint)
	t.exit.Recheck(p)
	t.recheckServices(p, true)
	if len(t.hub.services.of(t)) > 0 { // who may reach them depends on the owner's groups too
		for _, other := range t.hub.tunnels.all() {
			if other.endpoint == t.endpoint {
				other.exit.Recheck(p)
			}
		}
	}
}

// currentPeer returns the peer connection, nil while the offer is being answered.
func (t *gatewayTunnel) currentPeer() *rtc.Peer {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.peer
}

// currentSession returns the session, nil before the channel is open.
func (t *gatewayTunnel) currentSession() *tunnel.Session {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.session
}
