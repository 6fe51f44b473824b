package twonets

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pion/webrtc/v4"

	"github.com/culvertgate/culvert/framecodec"
	"github.com/culvertgate/culvert/internal/faultpoint"
	"github.com/culvertgate/culvert/internal/testkit"
)

// manyTunnels is for those who make one after another: a tunnel counts until all of it
// is released.
const manyTunnels = "limits {\n\t\t\ttunnels_per_identity 64\n\t\t}"

// nuisance is a tunnel that does something bad, and one that does the same number
// of things of the same size properly: what the bad one costs its neighbours is
// held against that.
type nuisance struct {
	name      string
	bad, good func(f *trial) (once func() error)
	rate      int // times a second that once is called; 0: it is called by nobody
}

var nuisances = []nuisance{
	{"garbage on the UDP port", garbageSender, frameSender, 5000},
	{"opens of unknown targets", openFlood, frameSender, 2000},
	{"garbage in frames, and again from the beginning", garbageConnector, properConnector, 8},
	{"panics, and again from the beginning", panickingRaw, properRaw, 8},
	{"a target that does not read", stalledTarget, idlePeer, 0},
	{"a peer that does not read", stalledPeer, idlePeer, 0},
}

// TestNeighbours times requests of one tunnel while another one is a nuisance.
// With CULVERT_FAULTS=1 it takes 100,000 samples for each and holds the bound.
func TestNeighbours(t *testing.T) {
	samples, slice, bound := 4_000, 200*time.Millisecond, 10.0 // others are tested beside it
	if os.Getenv("CULVERT_FAULTS") != "" {
		samples, slice, bound = 100_000, time.Second, 1.5
	}
	w := newWorld(t, options{binary: faultyBinary(t), timeouts: faultTimeouts, endpoint: manyTunnels})
	f := &trial{world: w, t: t, target: w.serveNumbered(tcpTarget)}
	f.check(f.works(patience))
	table := &strings.Builder{}
	fmt.Fprintf(table, `
## What a bad neighbour costs

Requests of 64 bytes and their answers through one tunnel, four at a time, %d for each line, taken in turns of %v beside
a tunnel that is a nuisance, and beside one that does as many things of the same size properly. The p99 may be 1.5 times as high.

`, samples, slice)
	fmt.Fprintf(table, "| the other tunnel | p50 beside it | beside a proper one | p99 beside it | beside a proper one | ratio of p99 |\n|---|---|---|---|---|---|\n")
	quiet := f.sample(samples/2, slice, func(context.Context) {})
	fmt.Fprintf(table, "| there is none | %v | | %v | | |\n", at(quiet, 50), at(quiet, 99))
	for _, n := range nuisances {
		t.Run(n.name, func(t *testing.T) {
			f := &trial{world: w, t: t, target: f.target}
			var bad, good []time.Duration
			var ratio float64
			// A ratio of two tails is noise when somebody else uses the machine: who passes
			// once is not a nuisance.
			for range 3 {
				bad, good = f.compare(n, samples, slice)
				if ratio = float64(at(bad, 99)) / float64(at(good, 99)); ratio <= bound {
					break
				}
				t.Logf("p99 %v beside it, %v beside a proper one: again", at(bad, 99), at(good, 99))
			}
			fmt.Fprintf(table, "| %s | %v | %v | %v | %v | %.2f |\n", n.name, at(bad, 50), at(good, 50), at(bad, 99), at(good, 99), ratio)
			if ratio > bound {
				t.Errorf("the p99 is %.2f times that beside a proper tunnel, at most %.1f", ratio, bound)
			}
		})
	}
	t.Log("\n" + table.String())
	if path := os.Getenv("CULVERT_NEIGHBOURS_TABLE"); path != "" {
		f.check(os.WriteFile(path, []byte(table.String()), 0o644))
	}
}

// compare samples beside the bad tunnel and beside the good one in turns.
func (f *trial) compare(n nuisance, samples int, slice time.Duration) (bad, good []time.Duration) {
	f.t.Helper()
	bads, goods := n.bad(f), n.good(f)
	run := func(once func() error) func(context.Context) {
		return func(ctx context.Context) {
			if n.rate > 0 {
				if err := pace(ctx, n.rate, once); err != nil {
					f.t.Errorf("%s: %v", n.name, err)
				}
			}
		}
	}
	for len(bad) < samples/2 || len(good) < samples/2 {
		if f.t.Failed() {
			break
		}
		bad = append(bad, f.sample(0, slice, run(bads))...)
		good = append(good, f.sample(0, slice, run(goods))...)
	}
	return bad, good
}

// pace calls once so many times a second until the context ends.
func pace(ctx context.Context, rate int, once func() error) error {
	began, done := time.Now(), 0
	for ctx.Err() == nil {
		due := int(time.Since(began).Seconds() * float64(rate))
		for ; done < due && ctx.Err() == nil; done++ {
			if err := once(); err != nil {
				return err
			}
		}
		select {
		case <-time.After(time.Millisecond):
		case <-ctx.Done():
		}
	}
	return nil
}

// requestStreams is how many streams ask at a time.
const requestStreams = 4

// sample times requests while beside runs: for a slice, or until there are so many.
func (f *trial) sample(atLeast int, slice time.Duration, beside func(context.Context)) []time.Duration {
	f.t.Helper()
	ctx, cancel := context.WithCancel(f.t.Context())
	defer cancel()
	var wg, other sync.WaitGroup
	other.Go(func() { beside(ctx) })
	var mu sync.Mutex
	var all []time.Duration
	var count atomic.Int64
	end := time.Now().Add(slice)
	for range requestStreams {
		x := f.asking()
		wg.Go(func() {
			var mine []time.Duration
			buf := make([]byte, 64)
			for time.Now().Before(end) || count.Load() < int64(atLeast) {
				began := time.Now()
				if _, err := x.near.Write(buf); err != nil {
					f.t.Error(err)
					break
				}
				if _, err := io.ReadFull(x.near, buf); err != nil {
					f.t.Error(err)
					break
				}
				mine = append(mine, time.Since(began))
				count.Add(1)
			}
			mu.Lock()
			all = append(all, mine...)
			mu.Unlock()
			x.drop()
		})
	}
	wg.Wait()
	cancel()
	other.Wait()
	return all
}

// asking is a stream whose target answers.
func (f *trial) asking() *through {
	f.t.Helper()
	x, err := f.open(patience)
	f.check(err)
	_ = x.near.SetDeadline(time.Now().Add(2 * patience))
	x.wg.Go(func() { _, _ = io.Copy(x.far, x.far) })
	return x
}

// at is a percentile.
func at(list []time.Duration, p int) time.Duration {
	if len(list) == 0 {
		return 0
	}
	slices.Sort(list)
	return list[len(list)*p/100].Round(10 * time.Microsecond)
}

const nuisanceSize = 150

func garbageSender(f *trial) func() error {
	c, err := f.near.DialContext(f.t.Context(), "udp", netip.AddrPortFrom(f.cable.Far(), gatewayUDP).String())
	f.check(err)
	f.t.Cleanup(func() { _ = c.Close() })
	buf := make([]byte, nuisanceSize+60) // what DTLS, SCTP and a frame add
	_, _ = rand.Read(buf)
	return func() error {
		_, _ = c.Write(buf) // ICMP may tell of earlier ones
		return nil
	}
}

// drained reads and forgets what the gateway says, but answers its pings.
func (f *trial) drained(s *stranger) *stranger {
	go func() {
		for {
			select {
			case m := <-s.messages:
				if s.channel.Protocol() != "culvert.2" {
					continue
				}
				if err := s.pong(m); err != nil && s.channel.ReadyState() == webrtc.DataChannelStateOpen {
					f.t.Errorf("what the gateway said: %v", err)
				}
			case <-s.closed:
				return
			case <-f.t.Context().Done():
				return
			}
		}
	}()
	return s
}

// frameSender sends frames to a target that takes them.
func frameSender(f *trial) func() error {
	s := f.drained(f.stranger("culvert.2"))
	f.check(s.control(hello))
	a := f.toTarget(s, 1<<20, 8)
	far := f.arrived(a)
	go func() { _, _ = io.Copy(io.Discard, far) }()
	f.t.Cleanup(func() { close(a.over) })
	data, sent := make([]byte, nuisanceSize), uint64(8)
	return func() error {
		frame := framecodec.AppendFrame(nil, 1, sent, data)
		sent += nuisanceSize
		return s.channel.Send(frame)
	}
}

// openFlood opens streams of a target that is not there, one after another.
func openFlood(f *trial) func() error {
	s := f.drained(f.stranger("culvert.2"))
	f.check(s.control(hello))
	name := []byte(strings.Repeat("x", 60))
	next := uint32(1)
	return func() error {
		open := framecodec.Open{Conn: next, Kind: framecodec.KindNamed, Window: 1 << 20, Host: name}
		next += 2
		return s.control(open)
	}
}

// garbageConnector makes a tunnel, says something wrong, and is thrown out.
func garbageConnector(f *trial) func() error {
	return func() error {
		s := f.stranger("culvert.2")
		defer s.close()
		garbage := make([]byte, 100)
		_, _ = rand.Read(garbage)
		garbage[0] |= 0x80
		if err := errors.Join(s.control(hello), s.channel.Send(garbage)); err != nil {
			return err
		}
		if got := f.closes(s); got != "its channel is closed" {
			return errors.New(got)
		}
		return nil
	}
}

// properConnector makes a tunnel and ends it.
func properConnector(f *trial) func() error {
	return func() error {
		s := f.drained(f.stranger("culvert.2"))
		defer s.close()
		return s.control(hello)
	}
}

// panickingRaw makes a tunnel whose raw channel panics, which ends the tunnel.
func panickingRaw(f *trial) func() error {
	return func() error {
		f.armed(f.gateway, faultpoint.GatewayRaw)
		s := f.stranger("raw:tcp")
		defer s.close()
		if got := f.closes(s); got != "its channel is closed" {
			return errors.New(got)
		}
		return nil
	}
}

// properRaw makes a tunnel with a raw channel and ends it. It asks the admin API for
// something as well, as panickingRaw does.
func properRaw(f *trial) func() error {
	return func() error {
		f.fired(f.gateway, faultpoint.GatewayRaw)
		s := f.drained(f.stranger("raw:tcp"))
		defer s.close()
		return s.channel.GracefulClose()
	}
}

func idlePeer(f *trial) func() error {
	s := f.drained(f.stranger("culvert.2"))
	f.check(s.control(hello))
	return nil
}

// stalledTarget fills its window for a target that does not read.
func stalledTarget(f *trial) func() error {
	s := f.drained(f.stranger("culvert.2"))
	f.check(s.control(hello))
	a := f.toTarget(s, 1<<20, 8)
	f.arrived(a)
	f.t.Cleanup(func() { close(a.over) })
	data := make([]byte, 16<<10)
	for sent := 0; sent+len(data) < 200<<10; sent += len(data) { // within the least window
		f.check(s.channel.Send(framecodec.AppendFrame(nil, 1, uint64(8+sent), data)))
	}
	return nil
}

// stalledPeer takes nothing of what its target sends.
func stalledPeer(f *trial) func() error {
	s := f.stranger("culvert.2")
	wide := hello
	wide.StreamWindow, wide.SessionWindow = 1<<30, 1<<40
	f.check(s.control(wide))
	a := f.toTarget(s, 1<<30, 8)
	far := f.arrived(a)
	f.t.Cleanup(func() { close(a.over) })
	_ = far.SetWriteDeadline(time.Now().Add(2 * time.Second))
	_, _ = io.Copy(far, testkit.Payload(6, 1<<30)) // until nothing goes any more
	return nil
}
