package gateway

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"github.com/culvertgate/culvert/framecodec"
	"github.com/culvertgate/culvert/internal/faultpoint"
	"github.com/culvertgate/culvert/tunnel"
)

var rawMessages = sync.Pool{New: func() any { return new([rawMessage]byte) }}

// serve is the goroutine towards the page: it dials, then sends what the target
// says. opened ends the open in progress.
func (r *Raw) serve(ctx context.Context, v view, opened func()) {
	hold := time.NewTimer(rawHold)
	defer hold.Stop()
	if !r.dial(ctx, v, opened) {
		return
	}
	select {
	case <-r.spoken:
	case <-hold.C:
	case <-r.over:
		return
	}
	r.end(r.send())
}

// dial connects and reports whether the channel still runs.
func (r *Raw) dial(ctx context.Context, v view, opened func()) bool {
	defer opened()
	faultpoint.Here(faultpoint.GatewayRaw)
	e := r.exit
	c, at, err := e.dial(ctx, v, r.target)
	if err != nil {
		e.failed(r.target, err)
		r.end(e.codeOf(err))
		return false
	}
	r.mu.Lock()
	gone := r.result != nil
	if !gone {
		r.conn, r.at = c, at
	}
	r.mu.Unlock()
	if gone {
		closeConn(c, framecodec.CodeCancelled)
		return false
	}
	if now := e.view(); now != v && r.recheck(now.policy, nil) {
		return false
	}
	r.watchIdle()
	close(r.dialled)
	if e.cfg.OnRaw != nil {
		e.cfg.OnRaw(r, false)
	}
	return true
}

// send moves bytes from the target to the page until one of the two ends, and
// returns how.
func (r *Raw) send() tunnel.Code {
	buf := make([]byte, min(rawChunk, max(r.carrier.MaxMessage(), 1)))
	limit, say := rawLimit{raw: r}, r.say
	for {
		n, err := r.conn.Read(buf)
		if n > 0 {
			switch failed := limit.pass(buf[:n], say); {
			case failed == errRawOver: //nolint:errorlint // a sentinel that is never wrapped
				return framecodec.CodeTunnelClosed
			case failed != nil:
				return r.discard()
			}
		}
		switch {
		case err == nil:
		case errors.Is(err, io.EOF):
			// A channel is closed only when the page has everything.
			r.waitLow(0, 0)
			return framecodec.CodeNormal
		case errors.Is(err, os.ErrDeadlineExceeded): // receive has set it: the page is gone
			return framecodec.CodeNormal
		default:
			return brokenTarget(err)
		}
	}
}

// say sends one message when there is room for it.
func (r *Raw) say(p []byte) error {
	if !r.waitLow(rawHigh, rawLow) {
		return errRawOver
	}
	if err := r.carrier.WriteMessage(p); err != nil {
		return err
	}
	r.moved(&r.bytesOut, len(p))
	return nil
}

// discard reads what a target still says to a page that is gone, so that the
// last bytes to the target are not lost by a reset. receive bounds the time.
func (r *Raw) discard() tunnel.Code {
	_ = r.conn.SetReadDeadline(time.Now().Add(rawLinger)) // a dead connection ends the copy at once
	_, _ = io.Copy(io.Discard, r.conn)
	return framecodec.CodeNormal
}

// waitLow waits, when more than high bytes are buffered in the carrier, until
// it is low or the channel ends, which it reports.
func (r *Raw) waitLow(high, low int) bool {
	if r.carrier.Buffered() <= high {
		return true
	}
	room := make(chan struct{}, 1)
	r.carrier.NotifyLow(low, func() {
		select {
		case room <- struct{}{}:
		default:
		}
	})
	select {
	case <-room:
		return true
	case <-r.over:
		return false
	}
}

// receive is the goroutine towards the target.
func (r *Raw) receive() {
	err := r.carrier.Wait()
	if err == nil {
		close(r.spoken)
		select {
		case <-r.dialled:
		case <-r.over:
			return
		}
		err = r.pump()
	}
	r.endOf(err)
}

// pump moves messages to the target until one of the two ends.
func (r *Raw) pump() error {
	limit, write := rawLimit{raw: r, in: true}, r.write
	for {
		if err := r.pumpOne(&limit, write); err != nil {
			return err
		}
		if err := r.carrier.Wait(); err != nil {
			return err
		}
	}
}

func (r *Raw) pumpOne(limit *rawLimit, write func([]byte) error) error {
	buf := rawMessages.Get().(*[rawMessage]byte)
	defer rawMessages.Put(buf)
	n, err := r.carrier.ReadMessage(buf[:])
	if err != nil {
		return err
	}
	r.moved(&r.bytesIn, n)
	return limit.pass(buf[:n], write)
}

// write gives all of p to the target, as slowly as it likes, unless it takes
// nothing at all for the write time-out.
func (r *Raw) write(p []byte) error {
	limit := r.exit.timeouts().Write
	for len(p) > 0 {
		if err := r.conn.SetWriteDeadline(time.Now().Add(limit)); err != nil {
			return targetError{err}
		}
		n, err := r.conn.Write(p)
		p = p[n:]
		if err != nil && (n == 0 || !errors.Is(err, os.ErrDeadlineExceeded)) {
			return targetError{err}
		}
	}
	return nil
}

// targetError tells a failure of the target's side from one of the carrier's.
type targetError struct{ error }

func (e targetError) Unwrap() error { return e.error }

// brokenTarget is the code for a target's connection that failed: most are
// reset, but keep-alives or retransmissions may also have run out.
func brokenTarget(err error) framecodec.Code {
	if gone, ok := errors.AsType[net.Error](err); ok && gone.Timeout() {
		return framecodec.CodeTimeout
	}
	return framecodec.CodeTargetClosed
}

// endOf ends the channel after receive has seen err. When the page closed the
// channel, the target gets all bytes and the end of them first.
func (r *Raw) endOf(err error) {
	var target targetError
	switch {
	case errors.As(err, &target) && errors.Is(err, os.ErrDeadlineExceeded):
		r.end(framecodec.CodeSlowConsumer)
	case errors.As(err, &target):
		r.end(brokenTarget(err))
	case errors.Is(err, io.EOF), tunnel.CodeOf(err) == framecodec.CodeTunnelClosed:
		r.finish()
	case tunnel.CodeOf(err) == framecodec.CodeInternal:
		r.end(framecodec.CodeTunnelLost)
	default:
		r.end(tunnel.CodeOf(err))
	}
}

// finish ends the direction towards the target and leaves the rest to serve.
func (r *Raw) finish() {
	select {
	case <-r.dialled:
	default:
		r.end(framecodec.CodeCancelled)
		return
	}
	half, ok := r.conn.(interface{ CloseWrite() error })
	if !ok || half.CloseWrite() != nil || r.conn.SetReadDeadline(time.Now().Add(rawLinger)) != nil {
		r.end(framecodec.CodeNormal)
	}
}
