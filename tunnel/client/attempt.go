package client

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http/httptrace"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/culvertgate/culvert/tunnel"
	"github.com/culvertgate/culvert/tunnel/rtc"
	"github.com/culvertgate/culvert/tunnel/signal"
)

// attempt is one try to make a tunnel with one URL. It knows which step it is
// at, since the causes of errors do not.
type attempt struct {
	url      string
	progress func(Progress)

	mu    sync.Mutex
	step  Step
	begun bool
	over  bool // a tunnel that is up, or was given up, tells no more steps
	since time.Time
}

func newAttempt(url string, progress func(Progress)) *attempt {
	return &attempt{url: strings.SplitN(url, "?", 2)[0], progress: progress}
}

// enter begins a step; the one before it is over. Steps never go back, so that
// a late callback does no harm.
func (a *attempt) enter(step Step, detail string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.over || (a.begun && step <= a.step) {
		return
	}
	if a.begun {
		a.progress(Progress{Step: a.step, URL: a.url, Done: true, Took: time.Since(a.since), Detail: detail})
	}
	a.begun, a.step, a.since = true, step, time.Now()
	a.progress(Progress{Step: step, URL: a.url})
}

// reach enters a step behind the network path, and those before it that have not
// been told of: a peer connection's callbacks come in any order.
func (a *attempt) reach(p *rtc.Peer, step Step) {
	a.enter(StepDTLS, p.Stats().CandidatePair)
	for next := StepDTLS + 1; next <= step; next++ {
		a.enter(next, "")
	}
}

// stop keeps the step at which an attempt has failed: what is then released may
// still get further.
func (a *attempt) stop() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.over = true
}

// finish ends the last step, with an error or without.
func (a *attempt) finish(err error) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.over = true
	done := Progress{Step: a.step, URL: a.url, Done: true, Took: time.Since(a.since), Err: err}
	if err != nil {
		failed := newStepError(a.step, a.url, err)
		done.Err = failed
		err = failed
	}
	a.progress(done)
	return err
}

// trace follows the first request to the gateway, which begins the step asking
// once there is a connection.
func (a *attempt) trace(asking Step) *httptrace.ClientTrace {
	return &httptrace.ClientTrace{
		ConnectStart: func(_, address string) { a.enter(StepConnect, address) },
		TLSHandshakeStart: func() {
			a.enter(StepTLS, "")
		},
		TLSHandshakeDone: func(state tls.ConnectionState, err error) {
			if err == nil {
				a.enter(asking, tls.VersionName(state.Version))
			}
		},
		GotConn: func(info httptrace.GotConnInfo) {
			a.enter(asking, info.Conn.RemoteAddr().String())
		},
	}
}

// dial makes a tunnel with the first URL that leads to one.
func (c Config) dial(ctx context.Context) (*Tunnel, error) {
	var all []error
	for _, u := range c.URLs {
		began := time.Now()
		t, err := c.dialURL(ctx, u)
		if err == nil {
			c.Connected(t, time.Since(began))
			t.publish() //nolint:contextcheck // as the tunnel's end
			go t.end()  //nolint:contextcheck // lives as long as the tunnel, not as the attempt; begins behind Connected, so that Ended is told after it
			return t, nil
		}
		c.Failed(err, time.Since(began))
		all = append(all, err)
		if ctx.Err() != nil {
			break
		}
	}
	return nil, joined(all, len(c.URLs))
}

// joined is the error of attempts at one URL after another, of that many.
func joined(all []error, urls int) error {
	if len(all) == 1 {
		return all[0]
	}
	return fmt.Errorf("no gateway of %d was reached: %w", urls, errors.Join(all...))
}

// dialURL makes a tunnel with one gateway. The error is a *StepError.
func (c Config) dialURL(ctx context.Context, url string) (*Tunnel, error) {
	ctx, cancel := context.WithTimeout(ctx, c.ConnectTimeout)
	defer cancel()
	a := newAttempt(url, c.Progress)
	a.enter(StepResolve, "")
	t, err := c.newTunnel(a, url)
	if err == nil {
		err = t.attempted(func() error { return t.connect(ctx, a) }) //nolint:contextcheck // as in connect
	}
	if err != nil {
		return nil, a.finish(err)
	}
	_ = a.finish(nil)
	return t, nil
}

// isLoopback reports whether a URL leads to this machine by its name alone.
func isLoopback(url string) bool {
	u, err := signal.ParseURL(url)
	if err != nil {
		return false
	}
	addr, err := netip.ParseAddr(u.Hostname())
	return strings.EqualFold(u.Hostname(), "localhost") || (err == nil && addr.IsLoopback())
}

// Dial makes one tunnel. It is over when it is lost or closed; Remote keeps one
// up. The error is a *StepError, or several of them joined.
func Dial(ctx context.Context, cfg Config) (*Tunnel, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	cfg = cfg.withDefaults()
	cfg.single = true
	t, err := cfg.dial(ctx)
	if err != nil {
		cfg.release()
	}
	return t, err
}

// asError makes sure that an end has a code.
func asError(err error) *tunnel.Error {
	if e, ok := errors.AsType[*tunnel.Error](err); ok {
		return e
	}
	return &tunnel.Error{Code: tunnel.CodeOf(err), Text: err.Error(), Err: err}
}
