package tunnel_test

import (
	"context"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/culvertgate/culvert/framecodec"
	"github.com/culvertgate/culvert/tunnel"
)

// duo is two sessions on a wire inside a synctest bubble: time is the test's.
type duo struct {
	t               *testing.T
	d               tunnel.Dialect
	wire            *wire
	client, gateway *tunnel.Session
	entry, exit     *handEnd // of the stream that the test is about
	refuse          tunnel.Code
	pending         bool // the exit does not answer
	in              *tunnel.Incoming

	mu        sync.Mutex
	ends      [2][]tunnel.Code // told by the observers: entry side, exit side
	cancelled int              // OnCancel calls
}

type duoSide struct {
	d    *duo
	side int
}

func (o duoSide) StreamOpened(*tunnel.Stream) {}
func (o duoSide) StreamEnded(_ *tunnel.Stream, code tunnel.Code, _ string) {
	o.d.mu.Lock()
	defer o.d.mu.Unlock()
	o.d.ends[o.side] = append(o.d.ends[o.side], code)
}
func (o duoSide) Panicked(any, []byte) {}

// inDuo runs f with two sessions in a bubble of their own, and ends them.
func inDuo(t *testing.T, d tunnel.Dialect, change func(client, gateway *tunnel.Config), f func(p *duo)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		a, b := newWires()
		p := &duo{t: t, d: d, wire: a, entry: new(handEnd), exit: new(handEnd)}
		client := tunnel.Config{Dialect: d, Role: tunnel.RoleClient, Observer: duoSide{p, 0}}
		gateway := tunnel.Config{Dialect: d, Role: tunnel.RoleGateway, Observer: duoSide{p, 1}, Accept: p.accept}
		if change != nil {
			change(&client, &gateway)
		}
		p.gateway = tunnel.NewSession(b, gateway)
		p.client = tunnel.NewSession(a, client)
		<-p.client.Ready()
		synctest.Wait()
		f(p)
		synctest.Wait()
		p.client.Close(0, "")
		p.client.Wait()
		p.gateway.Wait()
		for i, s := range []*tunnel.Session{p.client, p.gateway} {
			if n := s.Stats().Streams; n != 0 {
				t.Errorf("session %d: %d streams are left", i, n)
			}
		}
	})
}

func (p *duo) accept(in *tunnel.Incoming) {
	p.in = in
	switch {
	case p.refuse != 0:
		in.Refuse(p.refuse, "refused by the test")
	case p.pending:
		in.OnCancel(func() {
			p.mu.Lock()
			defer p.mu.Unlock()
			p.cancelled++
		})
	default:
		_ = in.Attach(p.exit, "")
	}
}

var duoTarget = tunnel.Target{Kind: tunnel.KindTCP, Host: "a.example", Port: 80}

// open opens the stream of the test.
func (p *duo) open() *tunnel.Stream {
	p.t.Helper()
	st, err := p.client.Open(context.Background(), duoTarget, p.entry)
	if err != nil {
		p.t.Fatal(err)
	}
	synctest.Wait()
	return st
}

// ending is a cause and the codes that both sides see, by dialect: dialect 1
// tells a reason, which means less.
type ending struct {
	cause          string
	change         func(client, gateway *tunnel.Config)
	act            func(p *duo)
	entry2, exit2  tunnel.Code
	entry1, exit1  tunnel.Code
	onlyAtTheEntry bool // the exit never heard of the stream
	only2          bool
}

const (
	normal       = framecodec.CodeNormal
	cancelled    = framecodec.CodeCancelled
	targetClosed = framecodec.CodeTargetClosed
	timedOut     = framecodec.CodeTimeout
	byAdmin      = framecodec.CodeClosedByAdmin
	internal     = framecodec.CodeInternal
	refused      = framecodec.CodeRefused
)

// endings is the table cause -> code of streams, on each side.
var endings = []ending{
	{cause: "both sides finish", act: func(p *duo) { p.open(); p.entry.finish(); p.exit.finish() }},
	{cause: "the entry's socket is reset", act: func(p *duo) { p.open(); p.entry.reset() },
		entry2: cancelled, exit2: cancelled, entry1: cancelled, exit1: cancelled},
	{cause: "the target resets", act: func(p *duo) { p.open(); p.exit.reset() },
		entry2: targetClosed, exit2: targetClosed, entry1: internal, exit1: targetClosed},
	{cause: "the target resets while we write to it", act: func(p *duo) {
		p.open()
		p.exit.read(func() { p.exit.broken = errHandReset })
		p.entry.send([]byte("x"))
	}, entry2: targetClosed, exit2: targetClosed, entry1: internal, exit1: targetClosed},
	{cause: "the target vanishes", act: func(p *duo) { p.open(); p.exit.change(func() { p.exit.broken = syscall.ETIMEDOUT }) },
		entry2: timedOut, exit2: timedOut, entry1: timedOut, exit1: timedOut},
	{cause: "reset behind a half close", act: func(p *duo) {
		p.open()
		p.entry.finish()
		synctest.Wait()
		p.entry.reset()
	}, entry2: cancelled, exit2: cancelled, entry1: cancelled, exit1: cancelled},
	{cause: "an administrator at the entry", act: func(p *duo) { p.open().Reset(byAdmin, "") },
		entry2: byAdmin, exit2: byAdmin, entry1: byAdmin, exit1: byAdmin},
	{cause: "a new policy at the exit", act: func(p *duo) { p.open(); p.in.Stream().Reset(framecodec.CodePolicyChanged, "") },
		entry2: framecodec.CodePolicyChanged, exit2: framecodec.CodePolicyChanged, entry1: byAdmin, exit1: framecodec.CodePolicyChanged},
	{cause: "refused by policy", act: func(p *duo) { p.refuse = framecodec.CodeNotAllowed; p.openRefused() },
		entry2: framecodec.CodeNotAllowed, exit2: framecodec.CodeNotAllowed, entry1: refused, exit1: framecodec.CodeNotAllowed},
	{cause: "unknown target", act: func(p *duo) { p.refuse = framecodec.CodeUnknownTarget; p.openRefused() },
		entry2: framecodec.CodeUnknownTarget, exit2: framecodec.CodeUnknownTarget, entry1: framecodec.CodeUnknownTarget, exit1: framecodec.CodeUnknownTarget},
	{cause: "unresolved name", act: func(p *duo) { p.refuse = framecodec.CodeResolveFailed; p.openRefused() },
		entry2: framecodec.CodeResolveFailed, exit2: framecodec.CodeResolveFailed, entry1: framecodec.CodeResolveFailed, exit1: framecodec.CodeResolveFailed},
	{cause: "the dial times out", act: func(p *duo) { p.refuse = timedOut; p.openRefused() },
		entry2: timedOut, exit2: timedOut, entry1: timedOut, exit1: timedOut},
	{cause: "the opener gives up", act: func(p *duo) { p.openGivenUp(context.WithCancel(context.Background())) },
		entry2: cancelled, exit2: cancelled, entry1: cancelled, exit1: cancelled},
	{cause: "the opener's time is over", act: func(p *duo) { p.openGivenUp(context.WithTimeout(context.Background(), time.Minute)) },
		entry2: timedOut, exit2: timedOut, entry1: timedOut, exit1: timedOut},
	{cause: "as many streams as may be", change: func(_, g *tunnel.Config) { g.MaxStreams = 1 },
		act: func(p *duo) {
			p.pending = true
			p.background()
			p.openRefused()
			p.in.Refuse(framecodec.CodeRefused, "")
		},
		entry2: framecodec.CodeTooManyStreams, exit2: framecodec.CodeTooManyStreams, entry1: refused, exit1: framecodec.CodeTooManyStreams},
	{cause: "memory is over budget", change: func(_, g *tunnel.Config) {
		process := tunnel.NewBudget(nil, 2<<20)
		process.Force(3 << 20)
		g.Budget = tunnel.NewBudget(process, 64<<20)
	}, act: (*duo).openRefused,
		entry2: framecodec.CodeOutOfMemoryBudget, exit2: framecodec.CodeOutOfMemoryBudget, entry1: refused, exit1: framecodec.CodeOutOfMemoryBudget},
	{cause: "the gateway drains", act: func(p *duo) { p.gateway.GoAway(framecodec.CodeDraining, time.Second); p.openRefused() },
		onlyAtTheEntry: true, entry2: framecodec.CodeDraining, entry1: framecodec.CodeTunnelClosed},
	{cause: "the gateway closes the tunnel", act: func(p *duo) { p.open(); p.gateway.Close(byAdmin, "enough") },
		entry2: byAdmin, exit2: byAdmin, entry1: byAdmin, exit1: byAdmin},
	{cause: "the client closes the tunnel", act: func(p *duo) { p.open(); p.client.Close(normal, "") },
		entry2: framecodec.CodeTunnelClosed, exit2: framecodec.CodeTunnelClosed, entry1: framecodec.CodeTunnelClosed, exit1: framecodec.CodeTunnelClosed},
	{cause: "the carrier dies", act: func(p *duo) { p.open(); _ = p.wire.Close(0) },
		entry2: framecodec.CodeTunnelLost, exit2: framecodec.CodeTunnelLost, entry1: framecodec.CodeTunnelLost, exit1: framecodec.CodeTunnelLost},
	{cause: "the carrier dies while the target is dialled", act: func(p *duo) { p.pending = true; p.background(); _ = p.wire.Close(0) },
		entry2: framecodec.CodeTunnelLost, exit2: framecodec.CodeTunnelLost, entry1: framecodec.CodeTunnelLost, exit1: framecodec.CodeTunnelLost},
	{cause: "nothing moves", change: func(_, g *tunnel.Config) { g.IdleTimeout = time.Minute },
		act:    func(p *duo) { p.open(); time.Sleep(time.Minute + 2*time.Second) },
		entry2: framecodec.CodeIdleTimeout, exit2: framecodec.CodeIdleTimeout, entry1: timedOut, exit1: framecodec.CodeIdleTimeout},
	{cause: "the target takes nothing for timeouts.write", change: func(_, g *tunnel.Config) { g.WriteTimeout = time.Minute },
		act: func(p *duo) {
			p.exit.stuck = true
			p.open()
			p.entry.send(make([]byte, 2<<20)) // in dialect 1 more than may be queued
			time.Sleep(time.Minute + 2*time.Second)
		},
		entry2: framecodec.CodeSlowConsumer, exit2: framecodec.CodeSlowConsumer, entry1: timedOut, exit1: framecodec.CodeSlowConsumer},
	{cause: "the exit breaks the protocol", only2: true,
		act: func(p *duo) {
			p.open()
			p.wire.receive(framecodec.AppendFrame(nil, 1, 99, []byte("x")))
		},
		entry2: framecodec.CodeProtocolError, exit2: framecodec.CodeProtocolError},
	{cause: "a session's goroutine panics", act: func(p *duo) { p.open(); p.exit.change(func() { p.exit.panics = true }) },
		// Only its carrier's end tells the other side: the one that panicked says nothing more.
		entry2: framecodec.CodeTunnelLost, exit2: internal, entry1: framecodec.CodeTunnelLost, exit1: internal},
}

func (p *duo) openRefused() {
	p.t.Helper()
	_, err := p.client.Open(context.Background(), duoTarget, p.entry)
	if err == nil {
		p.t.Error("the stream was opened")
	}
}

// openGivenUp opens a stream that is never answered, and gives up.
func (p *duo) openGivenUp(ctx context.Context, cancel context.CancelFunc) {
	p.t.Helper()
	p.pending = true
	go func() {
		time.Sleep(time.Hour)
		cancel()
	}()
	if _, err := p.client.Open(ctx, duoTarget, p.entry); err == nil {
		p.t.Error("the stream was opened")
	}
	synctest.Wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cancelled != 1 {
		p.t.Errorf("the dial was cancelled %d times", p.cancelled)
	}
	time.Sleep(2 * time.Hour)
}

// background opens a stream that the exit does not answer yet.
func (p *duo) background() {
	go func() {
		if _, err := p.client.Open(context.Background(), duoTarget, new(handEnd)); err == nil {
			p.t.Error("the stream was opened")
		}
	}()
	synctest.Wait()
}

func TestEnds(t *testing.T) {
	for _, e := range endings {
		for _, d := range []tunnel.Dialect{tunnel.Dialect1, tunnel.Dialect2} {
			if e.only2 && d == tunnel.Dialect1 {
				continue
			}
			entry, exit := e.entry2, e.exit2
			if d == tunnel.Dialect1 {
				entry, exit = e.entry1, e.exit1
			}
			t.Run(e.cause+", dialect "+string('0'+rune(d)), func(t *testing.T) {
				inDuo(t, d, e.change, func(p *duo) {
					e.act(p)
					time.Sleep(time.Second)
					synctest.Wait()
					p.mu.Lock()
					defer p.mu.Unlock()
					if got := p.ends[0]; len(got) == 0 || got[0] != entry {
						t.Errorf("at the entry %v, want %v", got, entry)
					}
					if got := p.ends[1]; !e.onlyAtTheEntry && (len(got) == 0 || got[0] != exit) {
						t.Errorf("at the exit %v, want %v", got, exit)
					}
				})
			})
		}
	}
}
