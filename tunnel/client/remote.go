package client

import (
	"context"
	"net"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"
	"go.uber.org/zap"

	"github.com/culvertgate/culvert/framecodec"
	"github.com/culvertgate/culvert/tunnel"
)

const (
	minBackOff = 500 * time.Millisecond
	maxBackOff = 30 * time.Second
	hurry      = time.Second      // the longest wait between attempts while somebody wants a stream
	steady     = 10 * time.Second // a tunnel that lived so long lets the back-off begin anew
	drainCheck = 50 * time.Millisecond
)

// Remote is a gateway that is to be reached: it makes a tunnel when one is
// needed, shares it among all users, and makes a new one after a loss, with
// jittered exponential back-off. All methods are safe for concurrent use.
//
// Opens wait for a tunnel as long as their context lasts. They are told a
// failure at once if what went wrong does not pass by itself (credentials), or if
// no tunnel has ever been up and the gateway did not answer that it is being
// replaced.
type Remote struct {
	cfg     Config
	invalid error // of the configuration
	stop    context.CancelFunc
	wg      sync.WaitGroup // keep, and the tunnels
	kick    chan struct{}  // one token: somebody waits
	last    *Tunnel        // that was up; keep's own

	mu sync.Mutex
	// Guarded by mu.
	changed  chan struct{} // closed and replaced at each change of what follows
	current  *Tunnel
	tunnels  map[*Tunnel]struct{} // that are not released
	waiting  int
	failures int
	lastErr  error
	ever     bool // a tunnel has been up
	step     Progress
	dialing  bool
	draining bool
	closed   bool
}

// NewRemote starts a remote; an invalid configuration fails its first use
// (Config.Validate tells before). Close it.
func NewRemote(cfg Config) *Remote {
	r := &Remote{
		invalid: cfg.Validate(), kick: make(chan struct{}, 1),
		changed: make(chan struct{}), tunnels: make(map[*Tunnel]struct{}),
	}
	cfg = cfg.withDefaults()
	r.watch(&cfg)
	r.cfg = cfg
	ctx, stop := context.WithCancel(context.Background())
	r.stop = stop
	if r.invalid == nil {
		r.wg.Go(func() { r.keep(ctx) })
	}
	return r
}

// watch follows the attempts and the tunnels besides the owner's callbacks.
func (r *Remote) watch(cfg *Config) {
	progress, connected := cfg.Progress, cfg.Connected
	cfg.Progress = func(p Progress) {
		r.mu.Lock()
		r.step = p
		r.mu.Unlock()
		progress(p)
	}
	cfg.Connected = func(t *Tunnel, took time.Duration) {
		r.lastIsTold()
		r.last = t
		connected(t, took)
	}
	cfg.released = func(t *Tunnel) {
		r.mu.Lock()
		defer r.mu.Unlock()
		t.released = true
		delete(r.tunnels, t)
		r.changeLocked()
	}
}

// lastIsTold waits, two seconds at most, until the owner knows of the end of the
// tunnel that the new one replaces. One that takes no new streams may live on.
func (r *Remote) lastIsTold() {
	if r.last == nil {
		return
	}
	select {
	case <-r.last.Done():
		<-r.last.told
	default:
	}
}

func (r *Remote) changeLocked() {
	close(r.changed)
	r.changed = make(chan struct{})
}

// keep is the goroutine that makes the tunnels.
func (r *Remote) keep(ctx context.Context) {
	wait := backoff.NewExponentialBackOff()
	wait.InitialInterval, wait.MaxInterval, wait.Multiplier = minBackOff, maxBackOff, 2
	for r.wanted(ctx) {
		t, err := r.cfg.dial(ctx)
		r.publish(t, err)
		if err != nil {
			r.cfg.Logger().Debug("gateway not reached", zap.Error(err))
			r.pause(ctx, wait.NextBackOff(), retryAfter(err))
			continue
		}
		select {
		case <-t.Done():
		case <-t.Session().Away():
		case <-ctx.Done():
		}
		r.retire(t)
		if time.Since(t.Since()) >= steady {
			wait.Reset()
		}
		// Everybody who lost this gateway comes back now: not all at once.
		r.pause(ctx, wait.NextBackOff(), 0)
	}
}

// wanted waits until a tunnel is needed; false: the remote is being closed.
func (r *Remote) wanted(ctx context.Context) bool {
	for {
		r.mu.Lock()
		needed := (r.cfg.Connect == Eager || r.waiting > 0) && !r.draining
		r.dialing = needed
		changed := r.changed
		r.mu.Unlock()
		if ctx.Err() != nil {
			return false
		}
		if needed {
			return true
		}
		select {
		case <-r.kick:
		case <-changed:
		case <-ctx.Done():
		}
	}
}

// publish tells those who wait how an attempt ended.
func (r *Remote) publish(t *Tunnel, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.dialing = false
	if err != nil {
		r.failures++
		r.lastErr = err
	} else {
		r.current, r.ever, r.lastErr = t, true, nil
		if !t.released {
			r.tunnels[t] = struct{}{}
		}
	}
	r.changeLocked()
}

// retire takes a tunnel out of use; its streams go on as long as it lives.
func (r *Remote) retire(t *Tunnel) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.current == t {
		r.current = nil
	}
	if err := t.Err(); err != nil {
		r.lastErr = err
	}
	r.changeLocked()
}

// pause waits between attempts: at least for asked, which the gateway said, and
// no longer than hurry once somebody waits for a stream.
func (r *Remote) pause(ctx context.Context, d, asked time.Duration) {
	began := time.Now()
	timer := time.NewTimer(max(d, asked))
	defer timer.Stop()
	hurried := false
	for {
		r.mu.Lock()
		somebody := r.waiting > 0
		r.mu.Unlock()
		if somebody && !hurried {
			hurried = true
			if d > hurry {
				timer.Reset(max(hurry, asked) - time.Since(began))
			}
		}
		select {
		case <-r.kick:
		case <-timer.C:
			return
		case <-ctx.Done():
			return
		}
	}
}

// Tunnel returns the tunnel that is up, or waits for one.
func (r *Remote) Tunnel(ctx context.Context) (*Tunnel, error) {
	if r.invalid != nil {
		return nil, r.invalid
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	seen := r.failures
	for {
		switch {
		case r.closed:
			return nil, &tunnel.Error{Code: framecodec.CodeTunnelClosed, Text: "the remote is closed"}
		case r.draining:
			return nil, &tunnel.Error{Code: framecodec.CodeDraining, Text: "the remote takes no new streams"}
		case r.current != nil && r.current.usable():
			return r.current, nil
		case r.failures > seen && !(temporary(r.lastErr) && (r.ever || beingReplaced(r.lastErr))):
			return nil, r.lastErr
		case ctx.Err() != nil:
			return nil, r.gaveUpLocked(ctx)
		}
		r.waitLocked(ctx)
	}
}

// waitLocked gives the lock back until something has changed.
func (r *Remote) waitLocked(ctx context.Context) {
	r.waiting++
	changed := r.changed
	r.mu.Unlock()
	token(r.kick)
	select {
	case <-changed:
	case <-ctx.Done():
	}
	r.mu.Lock()
	r.waiting--
}

// gaveUpLocked says what an open was waiting for when its time was over.
func (r *Remote) gaveUpLocked(ctx context.Context) error {
	switch {
	case r.dialing:
		return newStepError(r.step.Step, r.step.URL, gaveUp(ctx))
	case r.lastErr != nil:
		return r.lastErr
	default:
		return gaveUp(ctx)
	}
}

// Open is Tunnel.Open in the tunnel that is up, or the next one.
func (r *Remote) Open(ctx context.Context, target string) (net.Conn, error) {
	parsed, err := tunnel.ParseTarget(target)
	if err != nil {
		return nil, err
	}
	return r.open(ctx, parsed)
}

// OpenDatagrams is Tunnel.OpenDatagrams in the tunnel that is up, or the next one.
func (r *Remote) OpenDatagrams(ctx context.Context, target string) (net.Conn, error) {
	parsed, err := parseDatagrams(target)
	if err != nil {
		return nil, err
	}
	return r.open(ctx, parsed)
}

// DialContext is Tunnel.DialContext in the tunnel that is up, or the next one.
func (r *Remote) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	target, err := parseDial(ctx, network, address)
	if err != nil {
		return nil, err
	}
	return r.open(ctx, target)
}

// open tries the next tunnel when the one at hand has just ended.
func (r *Remote) open(ctx context.Context, target tunnel.Target) (net.Conn, error) {
	for {
		t, err := r.Tunnel(ctx)
		if err != nil {
			return nil, err
		}
		conn, err := t.open(ctx, target)
		if err == nil || t.usable() {
			return conn, err
		}
	}
}

// OpenEndpoint is Tunnel.OpenEndpoint in the tunnel that is up, or the next one.
// On error ep has been closed.
func (r *Remote) OpenEndpoint(ctx context.Context, target tunnel.Target, ep tunnel.Endpoint) (*tunnel.Stream, error) {
	t, err := r.Tunnel(ctx)
	if err != nil {
		if ep != nil {
			ep.Close(tunnel.CodeOf(err))
		}
		return nil, err
	}
	return t.OpenEndpoint(ctx, target, ep)
}

// Targets returns what the gateway's target list says, JSON as sent.
func (r *Remote) Targets(ctx context.Context) ([]byte, error) {
	t, err := r.Tunnel(ctx)
	if err != nil {
		return nil, err
	}
	return t.Targets(ctx)
}

// Current returns the tunnel that is up, or nil. It waits for nothing.
func (r *Remote) Current() *Tunnel {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.current
}

// Tunnels returns all tunnels that are not released: the one that is up, and
// older ones whose last streams still run.
func (r *Remote) Tunnels() []*Tunnel {
	r.mu.Lock()
	defer r.mu.Unlock()
	list := make([]*Tunnel, 0, len(r.tunnels))
	for t := range r.tunnels {
		list = append(list, t)
	}
	return list
}

// Err returns why there is no tunnel at the moment: the last failure or loss.
// It is nil while one is up and before the first attempt.
func (r *Remote) Err() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.lastErr
}

// Drain takes no new streams, withdraws services, and returns when none is left or ctx is over; then
// call Close.
func (r *Remote) Drain(ctx context.Context) error {
	r.mu.Lock()
	r.draining = true
	r.changeLocked()
	r.mu.Unlock()
	for _, t := range r.Tunnels() {
		t.Withdraw()
	}
	ticker := time.NewTicker(drainCheck)
	defer ticker.Stop()
	for r.streams() > 0 {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return gaveUp(ctx)
		}
	}
	return nil
}

func (r *Remote) streams() int {
	n := 0
	for _, t := range r.Tunnels() {
		n += t.Session().Stats().Streams
	}
	return n
}

// Close ends all tunnels with their streams and returns when nothing is left,
// within about ten seconds.
func (r *Remote) Close() {
	r.mu.Lock()
	r.closed = true
	r.changeLocked()
	r.mu.Unlock()
	r.stop()
	r.wg.Wait() // no further tunnels
	var ends sync.WaitGroup
	for _, t := range r.Tunnels() {
		ends.Go(func() { _ = t.Close() })
	}
	ends.Wait()
	r.cfg.release()
}
