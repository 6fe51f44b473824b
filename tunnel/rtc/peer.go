package rtc

import (
	"context"
	"fmt"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pion/webrtc/v4"
	"go.uber.org/zap"

	"github.com/culvertgate/culvert/framecodec"
	"github.com/culvertgate/culvert/internal/faultpoint"
	"github.com/culvertgate/culvert/tunnel"
)

const (
	flushTime   = time.Second     // that Close gives to what was written before
	releaseTime = 5 * time.Second // that Close waits for pion to let go
)

// live counts peers that were made and not yet released.
var live atomic.Int64

// Live returns how many peers of this process hold resources. A peer counts from
// its offer to the call of OnClosed.
func Live() int { return int(live.Load()) }

// Peer is one peer connection. It has an explicit end: Close, or one of the
// things that end it by itself (silence, failure, the remote's end, a time-out).
// Whatever comes first decides Err; everything is released exactly once. All
// methods are safe for concurrent use.
type Peer struct {
	handler Handler
	log     func() *zap.Logger
	connect time.Duration
	filter  remoteFilter
	ignore  bool                           // the peer's candidates are not used
	hosts   func(context.Context) []string // our host candidates, as lines
	private *mux                           // a client's own, closed with the peer
	release func()                         // told last, by the owner

	pc *webrtc.PeerConnection

	done     <-chan struct{} // the end has begun: Err is set
	stop     func()          // closes done
	released chan struct{}   // nothing is held any more
	tasks    sync.WaitGroup

	restartMu sync.Mutex // held while a restart is being exchanged

	mu         sync.Mutex
	err        error
	remote     description
	candidates int  // of the peer, counted for MaxCandidates
	path       bool // ICE has found one
	connected  bool // DTLS too
	opened     bool // a channel too
	restarting bool
	gathered   bool // Offer has returned: later candidates go to OnCandidate
	channels   map[*Channel]struct{}
	deadline   *time.Timer
	reports    []func()  // of the ICE agent, see later
	final      PeerStats // as of the end
}

// newPeer makes pion's peer connection and listens to it.
func newPeer(p *Peer, api func(alive context.Context) *webrtc.API, cert webrtc.Certificate, servers []webrtc.ICEServer) error {
	alive, stop := context.WithCancel(context.Background())
	p.done, p.stop, p.released = alive.Done(), stop, make(chan struct{})
	p.channels = make(map[*Channel]struct{})
	pc, err := api(alive).NewPeerConnection(webrtc.Configuration{Certificates: []webrtc.Certificate{cert}, ICEServers: servers})
	if err != nil {
		stop()
		return fmt.Errorf("making a peer connection: %w", err)
	}
	p.pc = pc
	live.Add(1)
	pc.OnConnectionStateChange(p.stateChanged)
	pc.OnICEConnectionStateChange(p.iceStateChanged)
	pc.SCTP().OnClose(p.associationEnded)
	return nil
}

// Done is closed when the peer has ended; resources may still be being released.
func (p *Peer) Done() <-chan struct{} { return p.done }

// Err returns why the peer has ended, a *tunnel.Error, or nil while it lives:
// CodeTunnelLost for a failed or silent path and a failed DTLS handshake,
// CodeTunnelClosed when the remote end said so, CodeTimeout when no channel was
// open in time, and otherwise the code of Close.
func (p *Peer) Err() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.err
}

// Disturbed reports whether the path that was found is silent at the moment.
func (p *Peer) Disturbed() bool {
	switch p.pc.ICEConnectionState() {
	case webrtc.ICEConnectionStateDisconnected, webrtc.ICEConnectionStateFailed:
		return true
	default:
		return false
	}
}

// Close ends the peer with code. What its channels have taken is given a second
// to arrive. It returns when everything is released, at the latest after about
// six seconds, and may be called again and by several. It must not be called
// from a Handler.
func (p *Peer) Close(code framecodec.Code) {
	p.flush(flushTime)
	p.end(&tunnel.Error{Code: code, Text: "closed here"})
	timer := time.NewTimer(releaseTime)
	defer timer.Stop()
	select {
	case <-p.released:
	case <-timer.C:
		p.log().Warn("a peer connection is not released in time", zap.Duration("waited", releaseTime))
	}
}

// flush closes the channels and waits until the peer has acknowledged everything.
func (p *Peer) flush(d time.Duration) {
	channels := p.openChannels()
	for _, c := range channels {
		_ = c.Close(framecodec.CodeNormal)
	}
	if p.pc.ConnectionState() != webrtc.PeerConnectionStateConnected {
		return // nobody there to acknowledge
	}
	deadline := time.Now().Add(d)
	for _, c := range channels {
		c.drain(time.Until(deadline))
	}
}

func (p *Peer) openChannels() []*Channel {
	p.mu.Lock()
	defer p.mu.Unlock()
	list := make([]*Channel, 0, len(p.channels))
	for c := range p.channels {
		list = append(list, c)
	}
	return list
}

// end begins the end, once.
func (p *Peer) end(err error) {
	p.mu.Lock()
	if p.err != nil {
		p.mu.Unlock()
		return
	}
	p.err = err
	if p.deadline != nil {
		p.deadline.Stop()
	}
	p.mu.Unlock()
	p.stop()
	go p.finish()
}

// finish releases everything; it is the only place that does.
func (p *Peer) finish() {
	final := p.stats()
	p.mu.Lock()
	p.final = final
	p.mu.Unlock()
	for _, c := range p.openChannels() {
		c.transportEnded()
	}
	p.guard(func() {
		if err := p.pc.GracefulClose(); err != nil {
			p.log().Debug("closing a peer connection", zap.Error(err))
		}
	})
	p.tasks.Wait()
	if p.private != nil {
		_ = p.private.Close()
	}
	live.Add(-1)
	if f := p.handler.OnClosed; f != nil {
		p.guard(func() { f(p, p.Err()) })
	}
	if p.release != nil {
		p.release()
	}
	close(p.released)
}

// spawn runs f in a goroutine that finish waits for; false after the end.
func (p *Peer) spawn(f func()) bool {
	if !p.enter() {
		return false
	}
	go func() {
		defer p.tasks.Done()
		p.event(f)
	}()
	return true
}

// enter begins something that finish waits for, until tasks.Done.
func (p *Peer) enter() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err != nil {
		return false
	}
	p.tasks.Add(1)
	return true
}

// tell calls a function of the owner unless the end has begun. Nothing but
// OnClosed is told after OnClosed.
func (p *Peer) tell(f func()) {
	if !p.enter() {
		return
	}
	defer p.tasks.Done()
	p.event(f)
}

// later calls f after all that was handed over before it, in a goroutine that
// finish waits for; not after the end. What the ICE agent reports goes this way:
// pion closes the agent under the lock that every question about candidates and
// pairs takes, and waits there until the agent's reports have been heard. Whoever
// asked on hearing one would wait for ever, and the peer with it.
func (p *Peer) later(f func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err != nil {
		return
	}
	p.reports = append(p.reports, f)
	if len(p.reports) == 1 {
		p.tasks.Add(1)
		go p.hear()
	}
}

// hear calls what is in reports. The first stays there while it is called, as
// the sign that somebody does.
func (p *Peer) hear() {
	defer p.tasks.Done()
	for {
		p.mu.Lock()
		f := p.reports[0]
		p.mu.Unlock()
		p.event(f)
		p.mu.Lock()
		p.reports = p.reports[1:]
		last := len(p.reports) == 0
		p.mu.Unlock()
		if last {
			return
		}
	}
}

// event is guard for what happens while the peer lives: its release has no fault of
// the suite's.
func (p *Peer) event(f func()) {
	p.guard(func() {
		faultpoint.Here(faultpoint.Peer)
		f()
	})
}

// guard calls a function of the owner or of pion; a panic there ends this peer
// only.
func (p *Peer) guard(f func()) {
	defer func() {
		if v := recover(); v != nil {
			p.log().Error("panic in a peer connection", zap.Any("panic", v), zap.ByteString("stack", debug.Stack()))
			p.end(&tunnel.Error{Code: framecodec.CodeInternal, Text: "internal error"})
		}
	}()
	f()
}
