package gateway

import (
	"context"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/culvertgate/culvert/framecodec"
	"github.com/culvertgate/culvert/tunnel"
	"github.com/culvertgate/culvert/tunnel/policy"
)

// Sizes of a raw channel, in bytes, and its times.
const (
	rawChunk    = 16 << 10  // of a message towards the page
	rawHigh     = 256 << 10 // buffered in the carrier
	rawLow      = rawHigh * 7 / 8
	rawMessage  = 64 << 10 // the largest message from the page
	rawMemory   = rawHigh + rawChunk + rawMessage
	rawHold     = 250 * time.Millisecond // SPEC.md, first table: browsers may deliver before open
	rawLinger   = 5 * time.Second        // for the target to take the last bytes
	rawsKept    = 16                     // ends that Raws still tells
	rawsRunning = 2                      // goroutines of one
)

// Raw is a raw channel: a data channel that is, without frames, the byte stream
// of one named target (SPEC.md, first table, raw:<target>). It counts as a
// stream. Its methods are safe for concurrent use.
type Raw struct {
	exit    *Exit
	id      string
	carrier tunnel.Carrier
	target  tunnel.Target
	since   time.Time

	bytesIn, bytesOut atomic.Uint64
	active            atomic.Int64 // when data was moved last, in nanoseconds since
	running           atomic.Int32
	uncount           func()

	spoken  chan struct{} // closed when the client has sent a message
	dialled chan struct{} // closed when conn is set
	over    chan struct{} // closed at the end

	mu     sync.Mutex
	conn   net.Conn           // guarded by mu until dialled is closed, then constant
	at     policy.Address     // likewise
	idle   *time.Timer        // nil: it may be idle for ever; guarded by mu
	cancel context.CancelFunc // of the dial; constant
	result *tunnel.Error      // guarded by mu; nil while it runs
}

// RawInfo is a snapshot of a raw channel for people.
type RawInfo struct {
	ID       string        `json:"id"` // raw-1, raw-2 ...: no stream's number
	Target   string        `json:"target"`
	Opened   bool          `json:"opened"`
	Code     string        `json:"code,omitempty"` // of its end; empty while it runs
	BytesIn  uint64        `json:"bytes_in"`       // from the peer
	BytesOut uint64        `json:"bytes_out"`      // to the peer
	Age      time.Duration `json:"-"`
}

// Raw serves a raw channel to the named target. It returns at once; a refusal
// closes the channel, and its code is told by OnRaw and Raws.
func (e *Exit) Raw(c tunnel.Carrier, name string) {
	t := tunnel.Target{Kind: tunnel.KindNamed, Host: name}
	v := e.view()
	r := &Raw{
		exit: e, id: fmt.Sprintf("raw-%d", e.rawNumber.Add(1)), carrier: c, target: t, since: time.Now(),
		spoken: make(chan struct{}), dialled: make(chan struct{}), over: make(chan struct{}),
		cancel: func() {}, uncount: func() {},
	}
	ctx, done, err := r.admit(v)
	if err != nil {
		r.end(tunnel.CodeOf(err))
		r.forget()
		return
	}
	go r.loop(func() { r.serve(ctx, v, done) })
	go r.loop(r.receive)
}

// admit decides, counts and makes place for the dial, or does nothing of it.
func (r *Raw) admit(v view) (ctx context.Context, done func(), err error) {
	e := r.exit
	d := v.policy.Decide(*v.subject, r.target)
	if r.target.Host == "" {
		d = policy.Decision{Code: framecodec.CodeUnknownTarget, Reason: "a raw channel names its target"}
	}
	if !d.Allowed {
		e.denied(d, r.target)
		return nil, nil, d.Err()
	}
	if err := r.count(); err != nil {
		return nil, nil, err
	}
	ctx, cancel, done, err := e.begin()
	if err != nil {
		return nil, nil, err
	}
	r.cancel = cancel
	e.mu.Lock()
	e.raws[r] = struct{}{}
	r.running.Store(rawsRunning)
	e.wg.Add(rawsRunning) // the open in progress still counts, so this is not behind Wait
	closed := e.closed
	e.mu.Unlock()
	if closed { // between begin and here: Close has not seen it
		r.Close(framecodec.CodeTunnelClosed)
	}
	return ctx, done, nil
}

// count charges what a raw channel costs.
func (r *Raw) count() error {
	b := r.exit.cfg.Budget
	if b != nil && !b.Reserve(rawMemory) {
		return &tunnel.Error{Code: framecodec.CodeOutOfMemoryBudget}
	}
	release := func() {
		if b != nil {
			b.Release(rawMemory)
		}
	}
	if admit := r.exit.cfg.AdmitRaw; admit != nil {
		uncount, err := admit()
		if err != nil {
			release()
			return err
		}
		r.uncount = func() { uncount(); release() }
		return nil
	}
	r.uncount = release
	return nil
}

// loop is the frame of both goroutines; the last one forgets the channel.
func (r *Raw) loop(f func()) {
	defer r.exit.wg.Done()
	defer func() {
		if r.running.Add(-1) == 0 {
			r.forget()
		}
	}()
	r.exit.guard(f, func() { r.end(framecodec.CodeInternal) })
}

// forget gives back what was counted and tells of the end.
func (r *Raw) forget() {
	e := r.exit
	r.uncount()
	info := r.Info()
	e.mu.Lock()
	delete(e.raws, r)
	e.endedIn += info.BytesIn
	e.endedOut += info.BytesOut
	if len(e.ended) == rawsKept {
		e.ended = append(e.ended[:0], e.ended[1:]...)
	}
	e.ended = append(e.ended, info)
	e.mu.Unlock()
	if e.cfg.OnRaw != nil {
		e.cfg.OnRaw(r, true)
	}
}

// Close ends the channel with code; it does not wait.
func (r *Raw) Close(code tunnel.Code) { r.end(code) }

// end ends everything once; later codes do not count. A target whose stream did
// not end in order is reset.
func (r *Raw) end(code tunnel.Code) {
	r.mu.Lock()
	if r.result != nil {
		r.mu.Unlock()
		return
	}
	r.result = &tunnel.Error{Code: code, Text: policy.ClientText(code)}
	conn := r.conn
	if r.idle != nil {
		r.idle.Stop()
	}
	r.mu.Unlock()
	close(r.over)
	r.cancel()
	if conn != nil {
		closeConn(conn, code)
	}
	_ = r.carrier.Close(code) // it may be gone already
}

func closeConn(c net.Conn, code tunnel.Code) {
	if tcp, ok := c.(*net.TCPConn); ok && code != framecodec.CodeNormal {
		_ = tcp.SetLinger(0) // if that fails the end is only less abrupt
	}
	_ = c.Close() // nothing can be done about it
}

// Result returns how the channel ended, nil while it runs.
func (r *Raw) Result() *tunnel.Error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.result
}

// Info returns a snapshot.
func (r *Raw) Info() RawInfo {
	r.mu.Lock()
	defer r.mu.Unlock()
	info := RawInfo{
		ID: r.id, Target: framecodec.SafeText([]byte(r.target.Host)), Opened: r.conn != nil,
		BytesIn: r.bytesIn.Load(), BytesOut: r.bytesOut.Load(), Age: time.Since(r.since),
	}
	if r.result != nil {
		info.Code = r.result.Code.String()
	}
	return info
}

// Raws returns the raw channels that run.
func (e *Exit) Raws() []*Raw {
	e.mu.Lock()
	defer e.mu.Unlock()
	out := make([]*Raw, 0, len(e.raws))
	for r := range e.raws {
		out = append(out, r)
	}
	return out
}

// RawByID returns the raw channel with that id that runs, nil if there is none.
func (e *Exit) RawByID(id string) *Raw {
	for _, r := range e.Raws() {
		if r.id == id {
			return r
		}
	}
	return nil
}

// RawStats are the counters of all raw channels of an Exit.
type RawStats struct {
	Open     int    // that run
	BytesIn  uint64 // from the peer, since the beginning
	BytesOut uint64 // to the peer, since the beginning
}

// RawStats returns the counters.
func (e *Exit) RawStats() RawStats {
	e.mu.Lock()
	defer e.mu.Unlock()
	s := RawStats{Open: len(e.raws), BytesIn: e.endedIn, BytesOut: e.endedOut}
	for r := range e.raws {
		s.BytesIn += r.bytesIn.Load()
		s.BytesOut += r.bytesOut.Load()
	}
	return s
}

// RawInfos returns snapshots of the raw channels that run, and of the last 16
// that ended: a page has no other way to learn why.
func (e *Exit) RawInfos() []RawInfo {
	running := e.Raws()
	e.mu.Lock()
	out := append([]RawInfo{}, e.ended...)
	e.mu.Unlock()
	for _, r := range running {
		out = append(out, r.Info())
	}
	return out
}

// recheck ends the channel if all policies refuse what it is connected to.
func (r *Raw) recheck(p *policy.Policy, also []*policy.Policy) bool {
	r.mu.Lock()
	at, open := r.at, r.conn != nil && r.result == nil
	r.mu.Unlock()
	if !open {
		return false
	}
	subject := *r.exit.subject.Load()
	d, refused := refusedByAll(func(p *policy.Policy) policy.Decision { return p.CheckAddress(subject, r.target, at) }, p, also)
	if !refused {
		return false
	}
	r.exit.denied(d, r.target)
	r.end(framecodec.CodePolicyChanged)
	return true
}
