package culvert

import (
	"runtime/debug"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/culvertgate/culvert/framecodec"
	"github.com/culvertgate/culvert/internal/faultpoint"
	"github.com/culvertgate/culvert/tunnel"
	"github.com/culvertgate/culvert/tunnel/policy"
	"github.com/culvertgate/culvert/tunnel/rtc"
)

// The protocols of data channels; SPEC.md, first table.
const (
	protocolDialect1 = ""
	protocolDialect2 = "culvert.2"
	protocolFlows    = "culvert.2.datagrams"
	protocolRaw      = "raw:"
)

// handler is what the peer connection tells the tunnel.
func (t *gatewayTunnel) handler() rtc.Handler {
	return rtc.Handler{OnChannel: t.onChannel}
}

// onChannel takes an open data channel. What is not one of ours, or one too
// many, is closed; the tunnel lives on.
func (t *gatewayTunnel) onChannel(_ *rtc.Peer, ch *rtc.Channel) {
	defer func() { // the peer connection recovers too, but counts nothing
		if v := recover(); v != nil {
			t.panicked(v, debug.Stack())
		}
	}()
	faultpoint.Here(faultpoint.GatewayChannel)
	protocol := ch.Protocol()
	switch {
	case protocol == protocolDialect1, protocol == protocolDialect2:
		t.openSession(ch)
	case protocol == protocolFlows && !ch.Ordered() && !ch.Reliable():
		t.openDatagrams(ch)
	case strings.HasPrefix(protocol, protocolRaw) && ch.Ordered() && ch.Reliable():
		t.openRaw(ch, strings.TrimPrefix(protocol, protocolRaw))
	default:
		t.refuseChannel(ch, "unknown protocol, ordering or reliability")
	}
}

func (t *gatewayTunnel) refuseChannel(ch *rtc.Channel, why string) {
	t.hub.warnClient(t.endpoint, "data channel refused", append(t.fields(), zap.String("reason", why))...)
	_ = ch.Close(framecodec.CodeProtocolError) // it is not needed; whether that is heard does not matter
}

// openDatagrams gives the session its channel for datagrams, which waits for the
// session's if that is not open yet: channels open in no order.
func (t *gatewayTunnel) openDatagrams(ch *rtc.Channel) {
	t.mu.Lock()
	s := t.session
	waits := s == nil && t.early == nil && !t.isClosing
	if waits {
		t.early = ch
	}
	t.mu.Unlock()
	if !waits && (s == nil || !s.AttachDatagrams(ch)) {
		t.refuseChannel(ch, "a tunnel has one channel for datagrams, and none in dialect 1")
	}
}

// openRaw serves a raw channel, unless the tunnel is ending: what it carried then
// would be carried by a tunnel that counts as one that was never made.
func (t *gatewayTunnel) openRaw(ch tunnel.Carrier, name string) {
	if !t.markConnected() {
		_ = ch.Close(framecodec.CodeTunnelClosed) // the tunnel's end comes next
		return
	}
	t.exit.Raw(ch, name)
}

const noMemory = "no memory is left for another tunnel"

// openSession starts the tunnel's only session on its channel.
func (t *gatewayTunnel) openSession(ch *rtc.Channel) {
	dialect := tunnel.Dialect1
	if ch.Protocol() == protocolDialect2 {
		dialect = tunnel.Dialect2
	}
	t.mu.Lock()
	// Under the lock, so that recheck either finds the session or comes before this.
	env := t.hub.current()
	var state *endpointState
	if env != nil {
		state = env.endpoints[t.endpoint]
	}
	if state == nil || !state.admits(int(dialect)) || !ch.Ordered() || !ch.Reliable() {
		t.mu.Unlock()
		t.refuseChannel(ch, "dialect not admitted, or wrong ordering or reliability")
		return
	}
	if t.session != nil || t.isClosing {
		t.mu.Unlock()
		t.refuseChannel(ch, "a tunnel has one session channel")
		return
	}
	reserve := int64(0)
	if dialect == tunnel.Dialect2 {
		reserve = tunnel.MinSessionMemory
	}
	if !t.budget.Reserve(reserve) { // it was free at the offer, others have taken it
		unused := !t.connected
		t.mu.Unlock()
		t.refuseChannel(ch, noMemory)
		if unused {
			t.close(framecodec.CodeOutOfMemoryBudget, noMemory)
		}
		return
	}
	s := tunnel.NewSession(ch, tunnel.Config{
		Dialect: dialect, Role: tunnel.RoleGateway,
		Accept:       t.accept,
		Exposed:      t.exposed,
		Withdrawn:    t.withdrawn,
		Observer:     &streamObserver{hub: t.hub, side: sideGateway, tunnel: t},
		Budget:       t.budget,
		MaxStreams:   state.limits.StreamsPerTunnel,
		WriteTimeout: time.Duration(env.timeouts.Write), IdleTimeout: time.Duration(env.timeouts.Idle),
		FlowIdleTimeout: time.Duration(env.timeouts.UDPIdle),
		Rates:           t.limitRatesLocked(state.limits),
	})
	t.session = s
	t.budget.Release(reserve)                  // the session has taken its own
	processMetrics.traffic.add(s, sideGateway) // before anybody can see that it ended
	first := t.connectLocked()                 // with the session: what it carries is a tunnel's that was made
	early := t.early
	t.early = nil
	t.mu.Unlock()
	if early != nil {
		t.openDatagrams(early)
	}
	if first {
		t.handshakeDone()
	}
	t.sessions <- s
}

// markConnected ends the handshake; false: the tunnel is ending.
func (t *gatewayTunnel) markConnected() bool {
	t.mu.Lock()
	first, ending := t.connectLocked(), t.isClosing
	t.mu.Unlock()
	if first {
		t.handshakeDone()
	}
	return !ending
}

// connectLocked notes that a channel is served, and reports whether it is the first.
func (t *gatewayTunnel) connectLocked() (first bool) {
	if t.connected || t.isClosing {
		return false
	}
	t.connected = true
	processMetrics.traffic.addTunnel(t.exit) // before anybody can see that it ended
	return true
}

func (t *gatewayTunnel) handshakeDone() {
	t.hub.handshakes.remove(t.handshake)
	t.hub.tunnelOpened(t)
}

// accept is asked for each stream: what one tunnel may ask for first, then the
// exit decides and dials.
func (t *gatewayTunnel) accept(in *tunnel.Incoming) {
	t.hub.streams.Add(1) // until its end, which streamObserver hears of, refused or not
	if c := t.hub.logger().Check(zap.DebugLevel, "stream asked for"); c != nil {
		fields := append(t.fields(), zap.Uint32("stream", in.Stream().ID()), zap.String("target", safeTarget(in.Target())))
		if trace := in.Trace(); tunnel.ValidTraceparent(trace) {
			fields = append(fields, zap.String("stream_traceparent", trace))
		}
		c.Write(fields...)
	}
	if err := t.admitStream(in.Stream().Session()); err != nil {
		in.Refuse(err.Code, err.Text)
		return
	}
	t.exit.Accept(in)
}

// admitStream holds the limits that the engine does not know, for a stream of the
// session (nil: there is none) or a raw channel. Tunnel and hub count it already,
// so that of two at once one sees the other.
func (t *gatewayTunnel) admitStream(session *tunnel.Session) *tunnel.Error {
	env, state, opens := t.hub.current(), t.hub.endpoint(t.endpoint), t.opens.Load()
	open := int(t.raws.Load())
	if session != nil {
		open += session.Stats().Streams
	}
	if env == nil || state == nil || t.hub.draining.Load() {
		return &tunnel.Error{Code: framecodec.CodeDraining, Text: "the gateway is ending"}
	}
	if d := t.hub.gate(state, t.identity, t.owner); !d.Allowed {
		return &tunnel.Error{Code: d.Code, Text: policy.ClientText(d.Code)}
	}
	switch {
	case opens != nil && !opens.Allow():
		return &tunnel.Error{Code: framecodec.CodeOverloaded, Text: "too many opens a second"}
	case open > state.limits.StreamsPerTunnel:
		return &tunnel.Error{Code: framecodec.CodeTooManyStreams, Text: "this tunnel has as many streams as it may"}
	case t.hub.streams.Load() > int64(env.limits.Streams):
		return &tunnel.Error{Code: framecodec.CodeTooManyStreams, Text: "the gateway has as many streams as it may"}
	}
	return nil
}

// maxRaws is how many raw channels a tunnel may have, whatever streams_per_tunnel
// says. Their only flow control is SCTP's window: what a target does not take waits
// there, counted by payload only, for up to timeouts.write. A page has one or two.
const maxRaws = 64

// admitRaw counts a raw channel as a stream.
func (t *gatewayTunnel) admitRaw() (release func(), err error) {
	raws := t.raws.Add(1)
	t.hub.streams.Add(1)
	release = func() {
		t.raws.Add(-1)
		t.hub.streams.Add(-1)
	}
	if raws > maxRaws {
		release()
		return nil, &tunnel.Error{Code: framecodec.CodeTooManyStreams, Text: "this tunnel has as many raw channels as it may"}
	}
	if err := t.admitStream(t.currentSession()); err != nil {
		release()
		return nil, err
	}
	return release, nil
}
