package tunnel_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/culvertgate/culvert/tunnel"
)

// waits wants what a stream waits for, at some time.
func waits(t *testing.T, s *tunnel.Session, n uint32, out, in string) {
	t.Helper()
	var got tunnel.StreamInfo
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		st := s.Stream(n)
		if st == nil {
			continue
		}
		if got = st.Info(); got.Out.For == out && got.In.For == in {
			if text := fmt.Sprint(got.Out, got.In); got.Out.Ms > 60_000 || got.In.Ms > 60_000 {
				t.Errorf("waits for a long time: %s", text)
			}
			return
		}
	}
	t.Errorf("stream %d waits for %+v and %+v, want %q and %q", n, got.Out, got.In, out, in)
}

// TestWhatStreamsWaitFor makes each state happen.
func TestWhatStreamsWaitFor(t *testing.T) {
	t.Run("data", func(t *testing.T) {
		p := newPair(t, tunnel.Dialect2)
		near, far := p.open(t)
		waits(t, p.client, 1, tunnel.WaitsData, tunnel.WaitsData)
		_ = far.(*tunnel.Conn).CloseWrite()
		waits(t, p.gateway, 1, tunnel.WaitsNothing, tunnel.WaitsData)
		waits(t, p.client, 1, tunnel.WaitsData, tunnel.WaitsNothing)
		_ = near
	})
	t.Run("target", func(t *testing.T) {
		answer := make(chan *tunnel.Incoming, 1)
		p := newFlowPair(t, func(_, gateway *tunnel.Config) { gateway.Accept = func(in *tunnel.Incoming) { answer <- in } })
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			_, ep := newConn()
			_, _ = p.client.Open(ctx, tunnel.Target{Kind: tunnel.KindNamed, Host: "x"}, ep)
		}()
		in := <-answer
		waits(t, p.client, 1, tunnel.WaitsTarget, tunnel.WaitsTarget)
		waits(t, p.gateway, 1, tunnel.WaitsTarget, tunnel.WaitsTarget)
		in.Refuse(tunnel.Code(4), "")
		cancel()
		<-ended
	})
	t.Run("room", func(t *testing.T) { // without windows the channel itself fills up
		p := newPair(t, tunnel.Dialect1)
		near, _ := p.open(t)
		go func() { _, _ = near.Write(make([]byte, 64<<20)) }()
		waits(t, p.client, 1, tunnel.WaitsRoom, tunnel.WaitsData)
		waits(t, p.gateway, 1, tunnel.WaitsData, tunnel.WaitsReader)
	})
	t.Run("reader and credit", func(t *testing.T) {
		p := newPair(t, tunnel.Dialect2)
		near, _ := p.open(t)
		go func() { _, _ = near.Write(make([]byte, 64<<20)) }() // nobody reads
		waits(t, p.client, 1, tunnel.WaitsCredit, tunnel.WaitsData)
		waits(t, p.gateway, 1, tunnel.WaitsData, tunnel.WaitsReader)
	})
}
