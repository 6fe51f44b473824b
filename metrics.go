package culvert

import (
	"errors"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/culvertgate/culvert/tunnel"
	"github.com/culvertgate/culvert/tunnel/gateway"
	"github.com/culvertgate/culvert/tunnel/policy"
)

// metricsPrefix begins every name; the names are part of the interface.
const metricsPrefix = "caddy_webrtc_tunnel_"

// resultOK is the label of what succeeded; failures have their code.
const resultOK = "ok"

// carrierWebRTC is the only kind of carrier there is.
const carrierWebRTC = "webrtc"

// processMetrics are the collectors of this process. They are made once and
// registered with each configuration's registry, so that counters go on over a
// reload (each configuration has a registry of its own).
var processMetrics = newMetrics()

type metrics struct {
	traffic           traffic
	packets           packets
	eventsDropped     atomic.Uint64
	memoryReturns     atomic.Uint64 // times that memory was given back
	tunnelsOpened     *prometheus.CounterVec
	handshakeSeconds  prometheus.Histogram
	streamsOpened     *prometheus.CounterVec
	streamOpenTime    prometheus.Histogram
	streamEnds        *prometheus.CounterVec
	signalling        *prometheus.CounterVec
	policyDenials     *prometheus.CounterVec
	roundTrips        prometheus.Histogram
	panics            prometheus.Counter
	socksAuthFailures prometheus.Counter
	collectors        []prometheus.Collector
}

func newMetrics() *metrics {
	m := &metrics{
		tunnelsOpened: counterVec("tunnels_opened_total", "Tunnels asked for, by how that ended: ok or a code.", "side", "result"),
		handshakeSeconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: metricsPrefix + "handshake_seconds", Help: "From an offer to its open data channel, in seconds.",
			Buckets: []float64{.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 15},
		}),
		streamsOpened: counterVec("streams_opened_total", "Streams asked for, by how that ended: ok or a code.", "side", "kind", "result"),
		streamOpenTime: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: metricsPrefix + "stream_open_seconds", Help: "From a stream's Open to its answer, in seconds.",
			Buckets: []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10},
		}),
		streamEnds:    counterVec("stream_ends_total", "Streams that ended after they had been opened, by code.", "side", "code"),
		signalling:    counterVec("signalling_requests_total", "Signalling requests, by method and status.", "method", "code"),
		policyDenials: counterVec("policy_denials_total", "Streams that the policy refused, by endpoint and rule.", "rule"),
		roundTrips: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: metricsPrefix + "rtt_seconds", Help: "Smoothed round trip of each open tunnel, looked at every ten seconds.",
			Buckets: []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1},
		}),
		socksAuthFailures: prometheus.NewCounter(prometheus.CounterOpts{Name: metricsPrefix + "socks_auth_failures_total", Help: "SOCKS5 clients that gave a wrong user name or password."}),
		panics:            prometheus.NewCounter(prometheus.CounterOpts{Name: metricsPrefix + "panics_total", Help: "Panics that ended one tunnel each."}),
	}
	m.collectors = []prometheus.Collector{
		m.tunnelsOpened, m.handshakeSeconds, m.streamsOpened, m.streamOpenTime, m.streamEnds, m.signalling, m.policyDenials, m.roundTrips, m.panics, m.socksAuthFailures,
		&liveCollector{m},
	}
	return m
}

func counterVec(name, help string, labels ...string) *prometheus.CounterVec {
	return prometheus.NewCounterVec(prometheus.CounterOpts{Name: metricsPrefix + name, Help: help}, labels)
}

// register adds the collectors to a configuration's registry. It may have them
// already; any other error is returned.
func (m *metrics) register(registry prometheus.Registerer) error {
	for _, c := range m.collectors {
		var already prometheus.AlreadyRegisteredError
		if err := registry.Register(c); err != nil && !errors.As(err, &already) {
			return err
		}
	}
	return nil
}

func (m *metrics) tunnelOpened(side, result string) {
	m.tunnelsOpened.WithLabelValues(side, result).Inc()
}

func (m *metrics) streamOpened(side string, st *tunnel.Stream) {
	m.streamsOpened.WithLabelValues(side, kindLabel(st.Target().Kind), resultOK).Inc()
	m.streamOpenTime.Observe(st.Info().Age.Seconds())
}

func (m *metrics) streamEnded(side string, st *tunnel.Stream, opened bool, code tunnel.Code) {
	if opened {
		m.streamEnds.WithLabelValues(side, codeLabel(code)).Inc()
		return
	}
	m.streamsOpened.WithLabelValues(side, kindLabel(st.Target().Kind), codeLabel(code)).Inc()
}

// rawEnded counts a raw channel's end.
func (m *metrics) rawEnded(info gateway.RawInfo, code tunnel.Code) {
	if info.Opened {
		m.streamEnds.WithLabelValues(sideGateway, codeLabel(code)).Inc()
		return
	}
	m.streamsOpened.WithLabelValues(sideGateway, kindRaw, codeLabel(code)).Inc()
}

// kindRaw is the kind of raw channels; the others are those of targets.
const kindRaw = "raw"

// kindLabel names a kind of target.
func kindLabel(k tunnel.Kind) string {
	switch k {
	case tunnel.KindNamed:
		return "named"
	case tunnel.KindTCP:
		return "tcp"
	case tunnel.KindUDP:
		return "udp"
	case tunnel.KindNamedDatagram:
		return "named_datagram"
	default:
		return "other"
	}
}

// codeLabel bounds what a peer can put into a label: any u16 can be a code.
func codeLabel(c tunnel.Code) string {
	if !c.Known() {
		return "unknown"
	}
	return c.String()
}

// ruleLabel names a rule by its endpoint and place, both from the configuration.
func ruleLabel(d policy.Decision) string { return refLabel(d.Rule) }

func refLabel(r policy.RuleRef) string { return r.Endpoint + " " + r.String() }
