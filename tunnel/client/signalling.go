package client

import (
	"context"
	"errors"
	"net"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/culvertgate/culvert/framecodec"
	"github.com/culvertgate/culvert/internal/faultpoint"
	"github.com/culvertgate/culvert/tunnel/rtc"
	"github.com/culvertgate/culvert/tunnel/signal"
)

const (
	patchTime   = 10 * time.Second // that one exchange with the gateway may take
	addressTick = time.Second      // how often a disturbed tunnel looks at this machine's addresses
	patchPause  = time.Second      // between tries of a restart
)

// signal is the goroutine that talks to the gateway over HTTP while the tunnel
// lives: one request at a time, in order.
func (t *Tunnel) signal(ctx context.Context) {
	faultpoint.Here(faultpoint.ClientSignal)
	addresses := localAddresses()
	renewal := newRenewal(t.remote.ExpiresIn)
	defer renewal.stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.found:
			t.trickle(ctx)
		case <-renewal.due:
			renewal.next(t.renew(ctx))
		case <-t.disturbed:
			addresses = t.watchAddresses(ctx, addresses)
		}
	}
}

// trickle sends the candidates that were found after the offer.
func (t *Tunnel) trickle(ctx context.Context) {
	t.mu.Lock()
	lines := t.candidates
	t.candidates = nil
	t.mu.Unlock()
	if len(lines) == 0 || !t.remote.CanTrickle() {
		return
	}
	f, err := t.peer.CandidateFragment(lines...)
	if err != nil {
		return // the peer has ended
	}
	ctx, cancel := context.WithTimeout(ctx, patchTime)
	defer cancel()
	if err := t.remote.Trickle(ctx, f); err != nil {
		t.cfg.Logger().Debug("candidates were not taken", zap.String("gateway", t.url), zap.Error(err))
	}
}

// renew starts the identity's time anew and returns how long it lasts.
func (t *Tunnel) renew(ctx context.Context) (time.Duration, error) {
	bounded, cancel := context.WithTimeout(ctx, patchTime)
	defer cancel()
	left, err := t.remote.Renew(bounded)
	if err != nil && ctx.Err() == nil {
		t.cfg.Logger().Warn("the gateway did not renew this identity's time; the tunnel ends with it", zap.String("gateway", t.url), zap.Error(err))
	}
	return left, err
}

// watchAddresses restarts ICE, once, if a disturbed path has to do with this
// machine being in another network. With the same addresses a restart would only
// give up the path that may come back: the peer connection keeps asking there
// until Timeouts.Failed.
func (t *Tunnel) watchAddresses(ctx context.Context, before []string) []string {
	ticker := time.NewTicker(addressTick)
	defer ticker.Stop()
	for !t.pathUp.Load() {
		if now := localAddresses(); len(now) > 0 && !slices.Equal(now, before) {
			t.restart(ctx)
			return now
		}
		select {
		case <-ctx.Done():
			return before
		case <-ticker.C:
		}
	}
	return before
}

// localAddresses returns this machine's addresses beyond loopback, sorted.
func localAddresses() []string {
	all, err := net.InterfaceAddrs()
	if err != nil {
		return nil
	}
	var list []string
	for _, a := range all {
		if prefix, ok := a.(*net.IPNet); ok && !prefix.IP.IsLoopback() && !prefix.IP.IsLinkLocalUnicast() {
			list = append(list, prefix.IP.String())
		}
	}
	slices.Sort(list)
	return list
}

// restart makes an ICE restart (RFC 9725 section 4.3.3). One that fails ends the
// tunnel, since the old path has been given up.
func (t *Tunnel) restart(ctx context.Context) {
	if !t.remote.CanTrickle() {
		return
	}
	bounded, cancel := context.WithTimeout(ctx, patchTime)
	defer cancel()
	t.cfg.closeIdle() // connections of the network that is gone
	f, err := t.peer.OfferRestart(bounded)
	if err != nil {
		t.cfg.Logger().Debug("no ICE restart", zap.String("gateway", t.url), zap.Error(err))
		return
	}
	t.pathUp.Store(false) // given up, until the new one is told of
	answer, err := t.askRestart(bounded, f)
	if err == nil {
		err = t.peer.AcceptRestart(answer)
	}
	if err != nil && ctx.Err() != nil {
		return // the tunnel has ended meanwhile
	}
	if err != nil {
		t.cfg.Logger().Info("the ICE restart failed", zap.String("gateway", t.url), zap.Error(err))
		t.shut(framecodec.CodeTunnelLost, "the network path was lost and the restart failed")
		return
	}
	t.cfg.Logger().Info("ICE restarted: this machine's addresses have changed", zap.String("gateway", t.url))
}

// askRestart sends a restart until it is answered: the new network may need a
// moment.
func (t *Tunnel) askRestart(ctx context.Context, f rtc.Fragment) (rtc.Fragment, error) {
	for {
		answer, err := t.remote.Restart(ctx, f)
		var refused *signal.ResponseError
		if err == nil || errors.As(err, &refused) {
			return answer, err
		}
		select {
		case <-ctx.Done():
			return rtc.Fragment{}, err
		case <-time.After(patchPause):
		}
	}
}
