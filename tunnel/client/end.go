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

// end is the goroutine that waits for the tunnel's end and releases it.
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
	t.release(err)
	if t.cfg.single {
		t.cfg.release()
	}
	t.cfg.Logger().Debug("tunnel ended", zap.String("gateway", t.url), zap.Error(err))
	t.cfg.Ended(t, err)
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
			return asError(t.peer.Err())
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

// lossError is how the session ended; where its carrier was lost, the peer
// connection knows more.
func (t *Tunnel) lossError() error {
	err := asError(t.session.Err())
	if err.Code != framecodec.CodeTunnelLost {
		return err
	}
	select {
	case <-t.peer.Done():
		return asError(t.peer.Err())
	default:
		return err
	}
}

// release ends what there is of the tunnel, in the order in which the gateway
// still gets what was written: session, peer connection, signalling.
func (t *Tunnel) release(err *tunnel.Error) {
	session := t.session
	if session != nil {
		session.Close(err.Code, err.Text)
		<-session.Done() // bounded by the session itself
	}
	t.peer.Close(err.Code)
	if session == nil {
		select {
		case session = <-t.sessions: // it came too late, and ends since its channel has
		default:
		}
	}
	if session != nil {
		session.Wait()
	}
	if t.stop != nil {
		t.stop()
		t.signals.Wait()
	}
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
