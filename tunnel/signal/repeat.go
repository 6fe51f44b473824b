package signal

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"sync/atomic"
	"time"
)

// repeatPause is what a server gets to put a new listener in the place of the old
// one, before a call is repeated.
const repeatPause = 200 * time.Millisecond

// send sends a call, and once more if it met a server that was just going away,
// as a gateway whose configuration is reloaded is: refused or broken off before
// any byte of an answer. net/http does this by itself only for methods that are
// idempotent, and only on connections that were used before.
//
// An offer may be sent twice: if the first one did arrive, it has made a tunnel
// that nobody knows the answer of. ICE tells the two apart by the gateway's own
// user name fragment, so nothing ever reaches the first one, and the gateway
// drops it after its connect timeout.
func (c *Client) send(ctx context.Context, call call) (*http.Response, error) {
	res, passing, err := c.try(ctx, call)
	if err == nil || !passing || call.final {
		return res, err
	}
	timer := time.NewTimer(repeatPause)
	defer timer.Stop()
	select {
	case <-timer.C:
		res, _, err = c.try(ctx, call)
		return res, err
	case <-ctx.Done():
		return nil, err
	}
}

// try sends a call. Passing: it failed in a way that may be over in a moment.
func (c *Client) try(ctx context.Context, call call) (res *http.Response, passing bool, err error) {
	req, err := c.request(ctx, call)
	if err != nil {
		return nil, false, err
	}
	var seen sight
	res, err = c.http.Do(req.WithContext(seen.of(ctx)))
	if err != nil {
		return nil, ctx.Err() == nil && seen.passing(err), transportError(ctx, err)
	}
	return res, false, nil
}

// sight is how far a request has come.
type sight struct {
	connected atomic.Bool // it had a connection, TLS included
	answered  atomic.Bool // a byte of the answer has come
}

func (s *sight) of(ctx context.Context) context.Context {
	return httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		GotConn:              func(httptrace.GotConnInfo) { s.connected.Store(true) },
		GotFirstResponseByte: func() { s.answered.Store(true) },
	})
}

// passing tells a server that goes away from what stays as it is: a wrong name,
// certificate or protocol, silence.
func (s *sight) passing(err error) bool {
	var timeout net.Error
	switch {
	case s.answered.Load(), errors.As(err, &timeout) && timeout.Timeout():
		return false
	case s.connected.Load():
		return true // whatever broke it: HTTP/2 has errors of its own for it
	default:
		return isRefused(err) || isReset(err) || isEOF(err)
	}
}

// isEOF reports whether the other side has closed the connection in order.
func isEOF(err error) bool { return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) }
