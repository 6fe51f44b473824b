package culvert

import (
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/culvertgate/culvert/framecodec"
	"github.com/culvertgate/culvert/tunnel"
	"github.com/culvertgate/culvert/tunnel/gateway"
	"github.com/culvertgate/culvert/tunnel/policy"
)

// TestMetricsInEachRegistry: each configuration has a registry of its own, and a
// configuration may be provisioned twice with one.
func TestMetricsInEachRegistry(t *testing.T) {
	m := newMetrics()
	m.tunnelOpened(sideGateway, resultOK)
	first, second := prometheus.NewPedanticRegistry(), prometheus.NewPedanticRegistry()
	for _, r := range []*prometheus.Registry{first, second, second} {
		if err := m.register(r); err != nil {
			t.Fatal(err)
		}
	}
	m.tunnelOpened(sideGateway, resultOK)
	for _, r := range []*prometheus.Registry{first, second} {
		want := "# HELP caddy_webrtc_tunnel_tunnels_opened_total Tunnels asked for, by how that ended: ok or a code.\n" +
			"# TYPE caddy_webrtc_tunnel_tunnels_opened_total counter\n" +
			"caddy_webrtc_tunnel_tunnels_opened_total{result=\"ok\",side=\"gateway\"} 2\n"
		if err := testutil.GatherAndCompare(r, strings.NewReader(want), "caddy_webrtc_tunnel_tunnels_opened_total"); err != nil {
			t.Error(err)
		}
	}
	// Another collector of the same name is a mistake and not the same one again.
	third := prometheus.NewPedanticRegistry()
	third.MustRegister(prometheus.NewGauge(prometheus.GaugeOpts{Name: metricsPrefix + "tunnels", Help: "another"}))
	if err := m.register(third); err == nil {
		t.Error("a clash with another collector is not an error")
	}
}

// TestMetricNames holds the names and labels against the interface, and all of
// them against client_golang's lint.
func TestMetricNames(t *testing.T) {
	m := newMetrics()
	m.tunnelsOpened.WithLabelValues(sideGateway, resultOK)
	m.streamsOpened.WithLabelValues(sideGateway, "tcp", resultOK)
	m.streamEnds.WithLabelValues(sideGateway, "normal")
	m.signalling.WithLabelValues("POST", "201")
	m.policyDenials.WithLabelValues("gw dynamic.rules[0]")
	r := prometheus.NewPedanticRegistry()
	if err := m.register(r); err != nil {
		t.Fatal(err)
	}
	problems, err := testutil.GatherAndLint(r)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, f := range families {
		var labels []string
		for _, l := range f.GetMetric()[0].GetLabel() {
			labels = append(labels, l.GetName())
		}
		slices.Sort(labels)
		got[strings.TrimPrefix(f.GetName(), metricsPrefix)] = strings.Join(labels, " ")
	}
	for name, labels := range map[string]string{
		"tunnels": "carrier side", "tunnels_opened_total": "result side", "handshake_seconds": "", "streams": "side",
		"streams_opened_total": "kind result side", "stream_open_seconds": "", "stream_ends_total": "code side",
		"bytes_total": "direction side", "frames_total": "direction side", "rtt_seconds": "",
		"carrier_blocked_seconds_total": "", "window_blocked_total": "", "buffered_bytes": "", "memory_budget_bytes": "",
		"udp_packets_total": "direction", "udp_receive_errors_total": "", "signalling_requests_total": "code method", "policy_denials_total": "rule",
	} {
		if have, ok := got[name]; !ok || have != labels {
			t.Errorf("metric %s: labels %q (there: %v), want %q", name, have, ok, labels)
		}
	}
}

// TestLabelsAreBounded: nothing that a client chooses becomes a label.
func TestLabelsAreBounded(t *testing.T) {
	if got := codeLabel(tunnel.Code(1234)); got != "unknown" {
		t.Errorf("a code from the wire became the label %q", got)
	}
	if got := methodLabel("BREW"); got != "other" {
		t.Errorf("a method from the wire became the label %q", got)
	}
	d := policy.Decision{Rule: policy.RuleRef{Endpoint: "gw", List: "dynamic.rules", Index: 2, Text: "deny x"}}
	if got := ruleLabel(d); got != "gw dynamic.rules[2]" {
		t.Errorf("rule label %q", got)
	}
}

func TestRawChannelsAreCounted(t *testing.T) {
	m := newMetrics()
	m.rawEnded(gateway.RawInfo{Opened: true}, framecodec.CodeNormal)
	m.rawEnded(gateway.RawInfo{}, framecodec.CodeNotAllowed)
	if got := testutil.ToFloat64(m.streamEnds.WithLabelValues(sideGateway, "normal")); got != 1 {
		t.Errorf("%v ends, want 1", got)
	}
	if got := testutil.ToFloat64(m.streamsOpened.WithLabelValues(sideGateway, kindRaw, "not_allowed")); got != 1 {
		t.Errorf("%v refusals, want 1", got)
	}
}
