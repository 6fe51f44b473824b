package client

import (
	"context"
	"time"

	"go.uber.org/zap"

	"github.com/culvertgate/culvert/framecodec"
	"github.com/culvertgate/culvert/tunnel"
)

const (
	deleteTime = 2 * time.Second        // that the gateway has to answer a DELETE
	emptyCheck = 250 * time.Millisecond // how often a tunnel that takes no streams looks whether any is left
)

// end is the goroutine that waits for the tunnel's end, tells of it and releases
// the tunnel. It tells first: the release may take seconds, and the next tunnel
// need not wait for it.
func (t *Tunnel) end() {
	defer close(t.gone)
	err := t.await()
	t.mu.Lock()
	if t.shutErr != nil {
		err = t.shutErr // who ended it here knows better than what that led to
	}
	t.err = err
	t.mu.Unlock()
	close(t.done)
	t.endSession(err)
	t.cfg.Logger().Debug("tunnel ended", zap.String("gateway", t.url), zap.Error(err))
	t.cfg.Ended(t, err)
	close(t.told)
	t.release(err)
	if t.cfg.single {
		t.cfg.release()
	}
	t.cfg.released(t)
}

// await returns how the tunnel ended. After the gateway's GoAway the tunnel ends
// with its last stream.
func (t *Tunnel) await() *tunnel.Error {
	away := t.session.Away()
	var check <-chan time.Time
	for {
		select {
		case <-t.session.Done():
			return asError(t.lossError())
		case <-t.peer.Done():
			return asError(t.lossError())
		case <-t.closing:
			t.mu.Lock()
			defer t.mu.Unlock()
			return t.shutErr
		case <-away:
			away = nil
			ticker := time.NewTicker(emptyCheck)
			defer ticker.Stop()
			check = ticker.C
		case <-check:
			if t.session.Stats().Streams == 0 {
				return &tunnel.Error{Code: framecodec.CodeDraining, Text: "the gateway takes no new streams"}
			}
		}
	}
}

// lossError is how session and peer connection ended, once one of them has.
func (t *Tunnel) lossError() error { return tunnel.EndOf(t.session, t.peer) }

// endSession ends the session and returns when that and its streams are over,
// within about two seconds: the session waits for the gateway to take its last
// words. Where those have no way to go, the peer connection's end cuts that short.
func (t *Tunnel) endSession(err *tunnel.Error) {
	t.session.Close(err.Code, err.Text)
	if t.unheard(t.session, err) {
		t.wg.Go(func() { t.peer.Close(err.Code) })
	}
	t.session.Wait()
}

// release ends what is left behind the session, in the order in which the gateway
// still gets what was written: peer connection, signalling.
func (t *Tunnel) release(err *tunnel.Error) {
	t.peer.Close(err.Code)
	session := t.session
	if session == nil {
		select {
		case session = <-t.sessions: // it came too late, and ends since its channel has
			session.Wait()
		default:
		}
	}
	if session != nil && t.services.server != nil {
		t.services.server.Close()
		t.services.server.Wait()
	}
	if t.stop != nil {
		t.stop()
	}
	t.wg.Wait()
	if t.remote != nil && t.unheard(session, err) {
		t.delete()
	}
}

// unheard reports whether the gateway may not know of the end yet: there was no
// session to say it in, or no path to say it on.
func (t *Tunnel) unheard(session *tunnel.Session, err *tunnel.Error) bool {
	return session == nil || !t.pathUp.Load() || err.Code == framecodec.CodeTunnelLost || err.Code == framecodec.CodeTimeout
}

// delete tells the gateway, which may have noticed or not be there.
func (t *Tunnel) delete() {
	ctx, cancel := context.WithTimeout(context.Background(), deleteTime)
	defer cancel()
	if err := t.remote.Delete(ctx); err != nil && tunnel.CodeOf(err) != framecodec.CodeNotFound {
		t.cfg.Logger().Debug("the gateway was not told of the tunnel's end", zap.String("gateway", t.url), zap.Error(err))
	}
}
