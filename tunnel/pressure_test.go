package tunnel_test

import (
	"io"
	"testing"

	"github.com/culvertgate/culvert/framecodec"
	"github.com/culvertgate/culvert/tunnel"
)

// When the budget of the process is three quarters used by others, a stream that
// flows is granted less and less, nothing that was granted is taken back, and
// behind the limit no new stream is made; when there is room again, all goes on.
func TestPressure(t *testing.T) {
	process := tunnel.NewBudget(nil, 64<<20)
	r := newRaw(t, tunnel.Dialect2, tunnel.RoleGateway, func(cfg *tunnel.Config) {
		cfg.Budget = tunnel.NewBudget(process, 0)
	})
	r.greet()
	conn := r.open(1)
	drained := make(chan struct{})
	go func() {
		defer close(drained)
		_, _ = io.Copy(io.Discard, conn) // ends with the session
	}()
	t.Cleanup(func() { _ = conn.Close(); <-drained })

	limit := uint64(256 << 10) // of the Hello
	grant := func() uint64 {
		t.Helper()
		for {
			r.data(1, make([]byte, min(32<<10, limit-r.sent[1])))
			if limit-r.sent[1] > 32<<10 {
				continue
			}
			w, err := framecodec.ParseWindow(r.await(framecodec.MsgWindow))
			if err != nil {
				t.Fatal(err)
			}
			if w.Conn != 1 {
				continue
			}
			if w.Limit < limit {
				t.Fatalf("the limit went back from %d to %d", limit, w.Limit)
			}
			limit = w.Limit
			return w.Limit - w.Consumed
		}
	}
	if got := grant(); got <= 64<<10 || got > 128<<10 {
		t.Errorf("granted %d bytes ahead without pressure, want an eighth of what is free in 1 MiB", got)
	}
	others := process.Limit()/4*3 + 1
	process.Force(others)
	least := grant()
	for range 16 {
		least = grant()
	}
	if least > 64<<10 {
		t.Errorf("granted %d bytes ahead under pressure, want at most 64 KiB", least)
	}

	process.Force(process.Limit())
	r.send(framecodec.Open{Conn: 3, Kind: framecodec.KindNamed, Host: []byte("x")})
	r.expectReset(3, framecodec.CodeOutOfMemoryBudget)
	process.Release(process.Limit() + others)
	other := r.open(5)
	r.exchange(5, other)
	if err := r.s.Err(); err != nil {
		t.Error(err)
	}
}
