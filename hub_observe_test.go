package culvert

import (
	"testing"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/culvertgate/culvert/tunnel/client"
	"github.com/culvertgate/culvert/tunnel/signal"
)

// TestClientKeys: a client's lines and events have the keys of the gateway's that
// are known there, those about a stream too.
func TestClientKeys(t *testing.T) {
	p := &pooledRemote{hub: new(hub), spec: &remoteSpec{name: "office"}, open: map[*client.Tunnel]*remoteTunnel{}}
	keys := func(fields []zap.Field) map[string]any {
		m := zapcore.NewMapObjectEncoder()
		for _, f := range fields {
			f.AddTo(m)
		}
		return m.Fields
	}
	if got := keys(p.fieldsOf(nil)); got["side"] != sideClient || got["remote"] != "office" {
		t.Errorf("before the tunnel is up: %v", got)
	}
	ct := new(client.Tunnel) // its session is nil, as is the one that is asked for
	rt := &remoteTunnel{id: "abc", remote: "office", tunnel: ct}
	p.open[ct] = rt
	for name, got := range map[string]map[string]any{"a stream's line": keys(p.fieldsOf(nil)), "an event": rt.eventData()} {
		if got["id"] != "abc" || got["remote"] != "office" || got["side"] != sideClient {
			t.Errorf("%s: %v", name, got)
		}
	}
	g := new(hub).newTunnel(&endpointState{name: "gw"}, signal.Caller{}, signal.Offer{Trace: "00-ab-cd-01"})
	if got := keys(g.fields()); got["traceparent"] != "00-ab-cd-01" {
		t.Errorf("the offer's trace is not in the line: %v", got)
	}
	for name, got := range map[string]map[string]any{"the gateway's line": keys(g.fields()), "its event": g.eventData()} {
		if got["id"] != g.id || got["endpoint"] != "gw" || got["side"] != sideGateway {
			t.Errorf("%s: %v", name, got)
		}
	}
}
