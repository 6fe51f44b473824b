package client

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/culvertgate/culvert/framecodec"
	"github.com/culvertgate/culvert/internal/testkit"
	"github.com/culvertgate/culvert/internal/testkit/gatewaykit"
	"github.com/culvertgate/culvert/tunnel"
)

// journal is what was told, in order.
type journal struct {
	mu      sync.Mutex
	entries []string
	ended   chan struct{} // a token for each end
}

// follow has a configuration tell j.
func follow(cfg *Config) *journal {
	j := &journal{ended: make(chan struct{}, 16)}
	cfg.Connected = func(*Tunnel, time.Duration) { j.add("connected") }
	cfg.Ended = func(*Tunnel, error) { j.add("ended"); j.ended <- struct{}{} }
	return j
}

func (j *journal) add(entry string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.entries = append(j.entries, entry)
}

// begins reports whether the journal's first entries are these.
func (j *journal) begins(want ...string) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if len(j.entries) < len(want) || !slices.Equal(j.entries[:len(want)], want) {
		return fmt.Errorf("told %q, want %q", j.entries, want)
	}
	return nil
}

// TestEndIsToldBeforeTheNextTunnel: however long the old tunnel's release takes,
// its end is told before the new tunnel is, which does not wait for the release;
// the Remote's Close does.
func TestEndIsToldBeforeTheNextTunnel(t *testing.T) {
	t.Parallel()
	g := gatewaykit.New(t)
	cfg := configFor(g)
	cfg.Connect = Eager
	j := follow(&cfg)
	r := newTestRemote(t, cfg)
	testkit.Eventually(t, patience, up(r))
	first := r.Current()
	first.wg.Add(1) // the release takes until Done
	release := sync.OnceFunc(first.wg.Done)
	defer release()
	first.shut(framecodec.CodeTunnelLost, "cut by the test")
	testkit.Eventually(t, patience, func() error {
		if now := r.Current(); now == nil || now == first {
			return errors.New("no new tunnel")
		}
		return nil
	})
	if err := j.begins("connected", "ended", "connected"); err != nil {
		t.Fatal(err)
	}
	select {
	case <-first.gone:
		t.Error("the new tunnel has waited for the old one's release")
	default:
		if !slices.Contains(r.Tunnels(), first) {
			t.Error("a tunnel that is being released is forgotten")
		}
	}
	closed := make(chan struct{})
	go func() {
		r.Close()
		close(closed)
	}()
	<-j.ended
	<-j.ended // the second tunnel's: Close is at work
	select {
	case <-closed:
		t.Error("Close has not waited for the release")
	default:
	}
	release()
	<-closed
	select {
	case <-first.gone:
	default:
		t.Error("a tunnel is left behind Close")
	}
}

// TestEndIsToldAfterItsOwnBeginning: a tunnel may end while its beginning is
// being told.
func TestEndIsToldAfterItsOwnBeginning(t *testing.T) {
	t.Parallel()
	g := gatewaykit.New(t)
	cfg := configFor(g)
	j := follow(&cfg)
	cfg.Connected = func(tun *Tunnel, _ time.Duration) {
		tun.Session().Close(framecodec.CodeClosedByAdmin, "at once")
		<-tun.Session().Done()
		select {
		case <-j.ended: // too early
		case <-time.After(time.Second):
		}
		j.add("connected")
	}
	tun := dialTest(t, cfg)
	<-tun.gone
	if err := j.begins("connected", "ended"); err != nil {
		t.Error(err)
	}
}

// TestOwnReasonWins: what ended a tunnel here is its error, whatever that has led
// to by the time it is looked at.
func TestOwnReasonWins(t *testing.T) {
	t.Parallel()
	tun := dialTest(t, configFor(gatewaykit.New(t)))
	tun.mu.Lock() // which its end needs
	tun.session.Close(framecodec.CodeClosedByAdmin, "what it led to")
	<-tun.session.Done()
	tun.shutErr = &tunnel.Error{Code: framecodec.CodeTunnelLost, Text: "the cause"}
	close(tun.closing)
	tun.mu.Unlock()
	<-tun.Done()
	if tunnel.CodeOf(tun.Err()) != framecodec.CodeTunnelLost {
		t.Errorf("Err = %v, want tunnel_lost", tun.Err())
	}
}
