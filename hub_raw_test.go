package culvert

import (
	"fmt"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/culvertgate/culvert/framecodec"
	"github.com/culvertgate/culvert/internal/testkit"
)

// TestRawChannelIsSeen: a raw channel is a stream to the admin API and the
// metrics while it runs, and can be ended like one.
func TestRawChannelIsSeen(t *testing.T) {
	s := serve(t, nil)
	h, g := s.hub, s.tunnel
	if _, loaded := hubPool.LoadOrStore(h.listen, h); loaded {
		t.Fatal("another test's hub is in the pool")
	}
	t.Cleanup(func() {
		if _, err := hubPool.Delete(h.listen); err != nil {
			t.Error(err)
		}
	})
	beforeSum, _ := processMetrics.traffic.sums(sideGateway)
	page := newStill()
	g.exit.Raw(page, "x")
	waitRaws(t, g, "x")
	page.say <- "hello"
	check := func(when string, streams int) {
		t.Helper()
		testkit.Eventually(t, 10*time.Second, func() error {
			i := g.info()
			sum, tunnels := processMetrics.traffic.sums(sideGateway)
			if i.Streams != streams || i.BytesIn != 5 || sum.Streams != beforeSum.Streams+streams || sum.BytesIn != beforeSum.BytesIn+5 || tunnels < 1 {
				return fmt.Errorf("%s: %d streams and %d bytes in the admin API, %d more streams and %d more bytes in the metrics, %d tunnels",
					when, i.Streams, i.BytesIn, sum.Streams-beforeSum.Streams, sum.BytesIn-beforeSum.BytesIn, tunnels)
			}
			return nil
		})
	}
	check("while it runs", 1)
	end := func(stream string) int {
		r := httptest.NewRequest("DELETE", "/webrtc_tunnel/tunnels/"+g.id+"/streams/"+stream, nil)
		r.SetPathValue("id", g.id)
		r.SetPathValue("n", stream)
		w := httptest.NewRecorder()
		if err := new(Admin).closeStream(w, r); err != nil {
			return 404
		}
		return w.Code
	}
	if code := end("raw-2"); code != 404 {
		t.Errorf("DELETE of a channel that is not there: %d", code)
	}
	if code := end(g.detail().RawChannels[0].ID); code != 204 {
		t.Errorf("DELETE of the channel: %d", code)
	}
	check("behind its end", 0)
	if code := g.detail().RawChannels[0].Code; code != "closed_by_admin" {
		t.Errorf("it ended with %q", code)
	}
}

// TestTunnelOfRawChannelsOnly: the metrics count it among the tunnels, and once
// it is gone its bytes stay.
func TestTunnelOfRawChannelsOnly(t *testing.T) {
	s := serve(t, nil)
	g := &gatewayTunnel{hub: s.hub, endpoint: "gw", handshake: &handshake{}}
	g.exit = s.hub.newExit(g)
	m := &processMetrics.traffic
	_, before := m.sums(sideGateway)
	g.markConnected()
	if _, n := m.sums(sideGateway); n != before+1 {
		t.Errorf("%d tunnels, want %d", n, before+1)
	}
	m.removeTunnel(g.exit)
	m.removeTunnel(g.exit)
	if _, n := m.sums(sideGateway); n != before {
		t.Errorf("%d tunnels behind its end, want %d", n, before)
	}
}

// TestRawChannelOfEndingTunnel: it is not served, for a tunnel that nothing was carried
// by gives the use of its ticket back.
func TestRawChannelOfEndingTunnel(t *testing.T) {
	s := serve(t, nil)
	g := &gatewayTunnel{hub: s.hub, endpoint: "gw", handshake: &handshake{}, closing: make(chan struct{})}
	g.exit = s.hub.newExit(g)
	g.close(framecodec.CodeClosedByAdmin, "")
	page := newStill()
	g.openRaw(page, "x")
	if n := len(g.exit.Raws()); n != 0 || g.isConnected() {
		t.Errorf("%d raw channels are served; connected: %v", n, g.isConnected())
	}
	select {
	case <-page.closed:
	default:
		t.Error("the channel is left open")
	}
	g.exit.Close()
	g.exit.Wait()
}
