package culvert

import (
	"time"

	"go.uber.org/zap"

	"github.com/culvertgate/culvert/framecodec"
	"github.com/culvertgate/culvert/tunnel"
	"github.com/culvertgate/culvert/tunnel/gateway"
	"github.com/culvertgate/culvert/tunnel/policy"
)

// The sides of a tunnel, as metrics and the admin API call them.
const (
	sideGateway = "gateway"
	sideClient  = "client"
)

// streamObserver hears of a session's streams. It is the engine's only way to
// the log and the metrics.
type streamObserver struct {
	hub    *hub
	side   string
	tunnel *gatewayTunnel // nil at a client
	remote *pooledRemote  // at a client
}

// StreamOpened implements tunnel.Observer.
func (o *streamObserver) StreamOpened(st *tunnel.Stream) {
	if st.Entry() { // one that the peer opened was counted when it was asked for
		o.hub.streams.Add(1)
	}
	processMetrics.streamOpened(o.side, st)
}

// StreamEnded implements tunnel.Observer.
func (o *streamObserver) StreamEnded(st *tunnel.Stream, code tunnel.Code, text string) {
	info := st.Info()
	if info.Accepted || info.Entry && info.Opened {
		o.hub.streams.Add(-1)
	}
	processMetrics.streamEnded(o.side, st, info.Opened, code)
	if c := o.hub.logger().Check(zap.DebugLevel, "stream ended"); c != nil {
		fields := []zap.Field{
			zap.Uint32("stream", info.ID), zap.String("target", framecodec.SafeText([]byte(info.Target))),
			zap.Stringer("code", code), zap.String("text", framecodec.SafeText([]byte(text))),
			zap.Uint64("bytes_in", info.BytesIn), zap.Uint64("bytes_out", info.BytesOut),
			zap.Int64("duration_ms", info.Age.Milliseconds()),
		}
		if o.tunnel != nil {
			fields = append(fields, o.tunnel.fields()...)
		} else {
			fields = append(fields, o.remote.fieldsOf(st.Session())...)
		}
		c.Write(fields...)
	}
}

// onRaw is told of a raw channel that has opened, and of each one's end.
func (t *gatewayTunnel) onRaw(r *gateway.Raw, ended bool) {
	end, info := r.Result(), r.Info()
	if !ended || end == nil {
		processMetrics.streamsOpened.WithLabelValues(sideGateway, kindRaw, resultOK).Inc()
		processMetrics.streamOpenTime.Observe(info.Age.Seconds())
		return
	}
	processMetrics.rawEnded(info, end.Code)
	if c := t.hub.logger().Check(zap.DebugLevel, "stream ended"); c != nil {
		c.Write(append(t.fields(), zap.String("stream", info.ID), zap.String("target", info.Target),
			zap.Stringer("code", end.Code), zap.Uint64("bytes_in", info.BytesIn), zap.Uint64("bytes_out", info.BytesOut),
			zap.Int64("duration_ms", info.Age.Milliseconds()))...)
	}
}

// Panicked implements tunnel.Observer.
func (o *streamObserver) Panicked(v any, stack []byte) { o.hub.panicked(v, stack) }

// fields are the keys of log lines about a tunnel.
func (t *gatewayTunnel) fields() []zap.Field {
	fields := []zap.Field{
		zap.String("side", sideGateway), zap.String("id", t.id), zap.String("endpoint", t.endpoint),
		zap.String("identity", t.identity), zap.Stringer("client_ip", t.clientIP),
	}
	if t.trace != "" {
		fields = append(fields, zap.String("traceparent", t.trace))
	}
	return fields
}

// eventData are the same keys for an event.
func (t *gatewayTunnel) eventData() map[string]any {
	return map[string]any{
		"side": sideGateway, "id": t.id, "endpoint": t.endpoint, "identity": t.identity, "client_ip": t.clientIP.String(),
	}
}

// tunnelOpened is told when a tunnel's first channel is open.
func (h *hub) tunnelOpened(t *gatewayTunnel) {
	processMetrics.tunnelOpened(sideGateway, resultOK)
	processMetrics.handshakeSeconds.Observe(time.Since(t.since).Seconds())
	h.logger().Info("tunnel opened", t.fields()...)
	h.emit(eventTunnelOpened, t.eventData())
}

// tunnelClosed is told when a tunnel has been released.
func (h *hub) tunnelClosed(t *gatewayTunnel, session *tunnel.Session, end tunnel.Error) {
	var stats tunnel.SessionStats
	if session != nil {
		stats = session.Stats()
		processMetrics.traffic.remove(session)
	}
	raw := t.exit.RawStats()
	stats.BytesIn += raw.BytesIn
	stats.BytesOut += raw.BytesOut
	processMetrics.traffic.removeTunnel(t.exit)
	t.mu.Lock()
	connected := t.connected
	t.mu.Unlock()
	if !connected {
		processMetrics.tunnelOpened(sideGateway, codeLabel(end.Code))
	}
	age := time.Since(t.since).Milliseconds()
	h.logger().Info("tunnel closed", append(t.fields(),
		zap.Stringer("code", end.Code), zap.String("text", framecodec.SafeText([]byte(end.Text))), zap.Bool("connected", connected),
		zap.Uint64("bytes_in", stats.BytesIn), zap.Uint64("bytes_out", stats.BytesOut), zap.Int64("duration_ms", age))...)
	data := t.eventData()
	data["code"], data["duration_ms"] = end.Code.String(), age
	data["bytes_in"], data["bytes_out"] = stats.BytesIn, stats.BytesOut
	h.emit(eventTunnelClosed, data)
}

// streamDenied is told when the policy refuses a stream. The resolved address
// is the log's alone.
func (t *gatewayTunnel) streamDenied(d policy.Decision, target tunnel.Target) {
	processMetrics.policyDenials.WithLabelValues(ruleLabel(d)).Inc()
	t.hub.warnClient(t.endpoint, "stream denied", append(t.fields(),
		zap.String("target", safeTarget(target)), zap.Stringer("code", d.Code), zap.String("rule", d.Rule.Describe()), zap.String("reason", d.Reason))...)
	data := t.eventData()
	data["target"], data["code"] = safeTarget(target), d.Code.String()
	t.hub.emit(eventStreamDenied, data)
}

// emit queues an event for the newest configuration's subscribers.
func (h *hub) emit(name string, data map[string]any) {
	h.mu.Lock()
	q := h.events
	h.mu.Unlock()
	if q != nil {
		q.emit(name, data)
	}
}

// safeTarget is a target as a peer wrote it, fit for a log or an event.
func safeTarget(t tunnel.Target) string { return framecodec.SafeText([]byte(t.String())) }
