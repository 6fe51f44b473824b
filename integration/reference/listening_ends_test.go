package reference

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"testing"
	"time"

	"github.com/culvertgate/culvert/internal/testkit"
)

// isTold waits until the wheel has been told just these ends of connections.
func (l *listening) isTold(t testing.TB, want map[string]string) {
	t.Helper()
	testkit.Eventually(t, patience, func() error {
		if got := l.closings(); !maps.Equal(got, want) {
			return fmt.Errorf("the wheel was told %q, want %q", got, want)
		}
		return nil
	})
}

func TestListeningWheelIsRefused(t *testing.T) {
	l := startListening(t, plan{})
	c := dial(t, l.net, l.tube.ListenAddr)
	expectSeen(t, "the client", c, sawFIN)
	becomes(t, "results", opened, l.gateway, counts{"refused": 1})
	l.isTold(t, map[string]string{"1": "ServerRefuse: the target refused the connection"})
	check(t, c.Close())

	serveEcho(t, l.net, targetPort) // the tunnel has not suffered
	check(t, echoes(dial(t, l.net, l.tube.ListenAddr), 1, 1000))
	becomes(t, "results", opened, l.gateway, counts{"refused": 1, "ok": 1})
}

// TestListeningWheelIsToldWhyAStreamEnds ends open streams at the gateway's side.
// The reference shows its client a FIN, whatever the reason; its log shows that
// it was told. None of them must end its listener, as Error and UpstreamClosed
// would.
func TestListeningWheelIsToldWhyAStreamEnds(t *testing.T) {
	l := startListening(t, plan{})
	g := startTarget(t, l.net, targetPort)
	wantTold, wantEnds := map[string]string{}, counts{}
	for i, cause := range []struct {
		name string
		do   func(s stream) error
		told string
		code string
		far  end // what the target's socket sees; empty: it was closed
	}{
		{"in order", func(s stream) error { return errors.Join(s.near.CloseWrite(), s.far.CloseWrite()) }, "Normal", "normal", sawFIN},
		{"reset by the target", func(s stream) error { return reset(s.far) }, "Unknown: the target reset the connection", "target_closed", ""},
		{"killed by the operator", func(stream) error { return l.killStream() }, "AdminClosed: closed by an administrator", "closed_by_admin", sawRST},
		{"no longer allowed", func(stream) error { return l.reload("\t\ttarget other tcp/127.0.0.1:9001\n") }, "AdminClosed: no longer allowed", "policy_changed", sawRST},
	} {
		t.Run(cause.name, func(t *testing.T) {
			s := g.open(t, l.net, l.tube.ListenAddr)
			check(t, cause.do(s))
			expectSeen(t, "the client", s.near, sawFIN)
			if cause.far != "" {
				expectSeen(t, "the target", s.far, cause.far)
			}
			wantEnds[cause.code]++
			becomes(t, "ends", ended, l.gateway, wantEnds)
			wantTold[fmt.Sprint(i+1)] = cause.told
			l.isTold(t, wantTold)
		})
	}
	onlyTunnel(t, l.gateway)
}

// killStream ends the gateway's only stream by the admin API.
func (l *listening) killStream() error {
	list, err := tunnels(l.gateway)
	if err != nil || len(list) != 1 {
		return fmt.Errorf("tunnels: %+v, %w", list, err)
	}
	path := "/webrtc_tunnel/tunnels/" + list[0].ID
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	text, err := l.gateway.Get(ctx, path)
	if err != nil {
		return err
	}
	var detail struct {
		StreamList []struct{ ID uint32 } `json:"stream_list"`
	}
	if err := json.Unmarshal([]byte(text), &detail); err != nil || len(detail.StreamList) != 1 {
		return fmt.Errorf("streams: %s, %w", text, err)
	}
	return remove(l.gateway, fmt.Sprintf("%s/streams/%d", path, detail.StreamList[0].ID))
}

func (l *listening) reload(endpoint string) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	return l.gateway.Reload(ctx, l.caddyfile(endpoint))
}

// The reference tells nothing of a client that resets its connection. It closes
// with ConnectionLost once more data has come for it: the target sees the end,
// and the stream is over when it ends too. (A silent one ends by timeouts.idle.)
func TestListeningWheelWhoseClientResets(t *testing.T) {
	l := startListening(t, plan{})
	s := startTarget(t, l.net, targetPort).open(t, l.net, l.tube.ListenAddr)
	check(t, reset(s.near))
	testkit.Eventually(t, patience, func() error {
		if _, err := s.far.Write([]byte("more")); err != nil {
			return err
		}
		if got := seen(s.far, 100*time.Millisecond); got != sawFIN {
			return fmt.Errorf("the target saw %s, want %s", got, sawFIN)
		}
		return nil
	})
	check(t, s.far.Close())
	becomes(t, "ends", ended, l.gateway, counts{"normal": 1})
	if i := onlyTunnel(t, l.gateway); i.Streams != 0 {
		t.Errorf("%d streams are left", i.Streams)
	}
}

// Our operator ends the tunnel: the reference's client sees the end, too.
func TestListeningWheelWhoseTunnelIsKilled(t *testing.T) {
	l := startListening(t, plan{})
	s := startTarget(t, l.net, targetPort).open(t, l.net, l.tube.ListenAddr)
	check(t, remove(l.gateway, "/webrtc_tunnel/tunnels/"+onlyTunnel(t, l.gateway).ID))
	expectSeen(t, "the client", s.near, sawFIN)
	expectSeen(t, "the target", s.far, sawRST)
	becomes(t, "ends", ended, l.gateway, counts{"closed_by_admin": 1})
}

// The reference ends its tube: everything of it is released at once.
func TestListeningWheelClosesItsTube(t *testing.T) {
	l := startListening(t, plan{})
	s := startTarget(t, l.net, targetPort).open(t, l.net, l.tube.ListenAddr)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	check(t, l.tube.Close(ctx))
	expectSeen(t, "the target", s.far, sawRST)
	l.empty(t, 10*time.Second)
}

// The reference is killed: everything of it is released within 25 s.
func TestListeningWheelIsKilled(t *testing.T) {
	t.Parallel()
	l := startListening(t, plan{})
	g := startTarget(t, l.net, targetPort)
	idle, busy := g.open(t, l.net, l.tube.ListenAddr), g.open(t, l.net, l.tube.ListenAddr)
	check(t, busy.far.SetDeadline(time.Now().Add(2*patience)))
	stuffed := make(chan error, 1)
	go func() {
		_, err := io.Copy(busy.far, testkit.Payload(1, 1<<40)) // until it is cut
		stuffed <- err
	}()
	_, err := io.CopyN(io.Discard, busy.near, 1_000_000)
	check(t, err)
	before := time.Now()
	l.wheel.Kill()
	expectSeen(t, "the target of the idle stream", idle.far, sawRST)
	if err := <-stuffed; err == nil {
		t.Error("the busy stream was not cut")
	}
	l.empty(t, 25*time.Second-time.Since(before))
	t.Logf("released after %v", time.Since(before).Round(100*time.Millisecond))
	becomes(t, "ends", ended, l.gateway, counts{"tunnel_lost": 2})
}

// empty waits until the gateway has no tunnel.
func (l *listening) empty(t testing.TB, timeout time.Duration) {
	t.Helper()
	testkit.Eventually(t, timeout, func() error {
		list, err := tunnels(l.gateway)
		if err == nil && len(list) > 0 {
			err = fmt.Errorf("tunnels: %+v", list)
		}
		return err
	})
}
