package culvert

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/culvertgate/culvert/framecodec"
	"github.com/culvertgate/culvert/internal/testkit"
	"github.com/culvertgate/culvert/tunnel"
	"github.com/culvertgate/culvert/tunnel/policy"
	"github.com/culvertgate/culvert/tunnel/rtc"
)

// served is a hub with one endpoint, gw, and one tunnel of dialect 1 to it.
type served struct {
	t       *testing.T
	hub     *hub
	env     *environment
	tunnel  *gatewayTunnel
	peer    *rtc.Peer
	session *tunnel.Session // the client's
}

// serve makes a tunnel to an endpoint whose target x accepts and says nothing;
// configure may change the endpoint.
func serve(t *testing.T, configure func(*environment, *policy.Config)) *served {
	t.Helper()
	before := goleak.IgnoreCurrent()
	t.Cleanup(func() { goleak.VerifyNone(t, before) })
	s := &served{t: t, env: testEnvironment(t, "gw"), hub: newHub(listenAddress{"udp", "127.0.0.1:0"})}
	state := s.env.endpoints["gw"]
	state.dialects, state.allowAnonymous = []int{1}, true
	cfg := policy.Config{Targets: []policy.NamedTarget{{Name: "x", Addresses: []string{"tcp/" + deaf(t).Addr().String()}}}}
	if configure != nil {
		configure(s.env, &cfg)
	}
	var err error
	if state.policy, err = policy.New(cfg); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(s.hub.open(s.env), s.hub.attach(s.env)); err != nil {
		t.Fatal(err)
	}
	s.peer, s.session = dial1(t, s.hub, state, "x")
	s.tunnel = s.hub.tunnels.all()[0]
	testkit.Eventually(t, 20*time.Second, func() error { // a client of dialect 1 is ready before the gateway is
		if !s.tunnel.isConnected() {
			return errors.New("the gateway has no session")
		}
		return nil
	})
	t.Cleanup(func() {
		s.session.Close(framecodec.CodeNormal, "")
		s.session.Wait()
		s.peer.Close(framecodec.CodeNormal)
		<-s.tunnel.gone
		s.hub.detach(s.env)
		if err := s.hub.Destruct(); err != nil {
			t.Error(err)
		}
		if n := s.hub.streams.Load(); n != 0 {
			t.Errorf("%d streams are counted and there is none", n)
		}
	})
	return s
}

// open asks for a stream and returns the code of its refusal, normal if it opened.
func (s *served) open(target tunnel.Target) tunnel.Code {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	_, ep := tunnel.NewConn(tunnel.Addr{Net: "test", Text: "near"}, tunnel.Addr{Net: "test", Text: "far"})
	if _, err := s.session.Open(ctx, target, ep); err != nil {
		return tunnel.CodeOf(err)
	}
	return framecodec.CodeNormal
}

// counted waits until the hub counts so many streams.
func (s *served) counted(want int64) {
	s.t.Helper()
	testkit.Eventually(s.t, 10*time.Second, func() error {
		if n := s.hub.streams.Load(); n != want {
			return fmt.Errorf("%d streams are counted, want %d", n, want)
		}
		return nil
	})
}

// raw asks for a raw channel to x and returns the code of its refusal, normal if
// it was admitted.
func (s *served) raw() tunnel.Code {
	before := len(s.tunnel.exit.Raws())
	s.tunnel.exit.Raw(newStill(), "x")
	if len(s.tunnel.exit.Raws()) > before {
		return framecodec.CodeNormal
	}
	for _, info := range slices.Backward(s.tunnel.exit.RawInfos()) {
		if code, ok := framecodec.ParseCode(info.Code); ok {
			return code
		}
	}
	return framecodec.CodeInternal
}

// TestStreamsPerTunnelWithRawChannels: whichever kind comes first, both count for
// one limit.
func TestStreamsPerTunnelWithRawChannels(t *testing.T) {
	const limit = 4
	stream := func(s *served) tunnel.Code {
		if code := s.open(tunnel.Target{Kind: tunnel.KindNamed}); code != framecodec.CodeRefused {
			return code
		}
		return framecodec.CodeTooManyStreams // which is what dialect 1 calls it
	}
	for name, order := range map[string][2]func(*served) tunnel.Code{
		"raw channels first": {(*served).raw, stream},
		"streams first":      {stream, (*served).raw},
		"only streams":       {stream, stream}, // the engine's own refusals
	} {
		t.Run(name, func(t *testing.T) {
			s := serve(t, func(env *environment, _ *policy.Config) { env.endpoints["gw"].limits.StreamsPerTunnel = limit })
			for i := range 2 * limit {
				want := framecodec.CodeNormal
				if i >= limit {
					want = framecodec.CodeTooManyStreams
				}
				if code := order[i/2%2](s); code != want {
					t.Errorf("number %d: %v, want %v", i+1, code, want)
				}
			}
			s.counted(limit) // refusals have neither added nor taken
		})
	}
}

// unanswered looks names up until it is closed.
type unanswered chan struct{}

func (u unanswered) LookupNetIP(ctx context.Context, _, _ string) ([]netip.Addr, error) {
	select {
	case <-u:
	case <-ctx.Done():
	}
	return nil, &net.DNSError{Err: "no answer", IsNotFound: true}
}

// TestStreamsBeingOpenedCount: what waits for a dial has its place among all
// streams, and gives it back once, however it ends.
func TestStreamsBeingOpenedCount(t *testing.T) {
	const limit = 3
	names := make(unanswered)
	s := serve(t, func(env *environment, cfg *policy.Config) {
		env.limits.Streams = limit
		cfg.Resolver = names
		cfg.Dynamic = &policy.Dynamic{Rules: []policy.Rule{{Text: "tcp/*.example:443"}}}
	})
	slow := tunnel.Target{Kind: tunnel.KindTCP, Host: "a.example", Port: 443}
	ends := make(chan tunnel.Code, limit)
	for range limit {
		go func() { ends <- s.open(slow) }()
	}
	s.counted(limit)
	if code := s.open(tunnel.Target{Kind: tunnel.KindNamed}); code != framecodec.CodeRefused {
		t.Errorf("one more than the limit: %v", code)
	}
	if code := s.raw(); code != framecodec.CodeTooManyStreams {
		t.Errorf("a raw channel more than the limit: %v", code)
	}
	s.counted(limit)
	close(names)
	for range limit {
		if code := <-ends; code != framecodec.CodeResolveFailed {
			t.Errorf("without an answer: %v", code)
		}
	}
	s.counted(0)
	for range limit {
		if code := s.open(tunnel.Target{Kind: tunnel.KindNamed}); code != framecodec.CodeNormal {
			t.Errorf("with room again: %v", code)
		}
	}
	s.counted(limit)
}

// TestRawChannelsPerTunnel: they have a limit of their own, far below that of
// streams.
func TestRawChannelsPerTunnel(t *testing.T) {
	s := serve(t, nil)
	for i := range maxRaws + 2 {
		want := framecodec.CodeNormal
		if i >= maxRaws {
			want = framecodec.CodeTooManyStreams
		}
		if code := s.raw(); code != want {
			t.Fatalf("number %d: %v, want %v", i+1, code, want)
		}
	}
	if code := s.open(tunnel.Target{Kind: tunnel.KindNamed}); code != framecodec.CodeNormal {
		t.Errorf("a stream beside them: %v", code)
	}
}
