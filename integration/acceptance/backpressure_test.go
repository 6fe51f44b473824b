package acceptance

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/culvertgate/culvert/internal/testkit"
)

const (
	bulkStreams = 64
	bulkSize    = 2 << 20  // of each and run
	bulkPairs   = 9        // runs with and without the stalled stream, interleaved: 63 x 2 MiB x 9 > 1 GiB with it, at each end
	stalledSize = 24 << 20 // of the one that is not read: more than all windows and buffers on its way
	bulkSlack   = 1.20
	bulkMemory  = 200_000_000 // bytes, the largest resident size of a process
)

// TestMustShow3StalledReader has one reader of 64 that does not read, at the
// client's end (the target sends) and at the target's end (the client sends).
func TestMustShow3StalledReader(t *testing.T) {
	for _, tc := range []struct {
		name string
		turn func(stream) (from, to *net.TCPConn)
	}{
		{"at the client", func(s stream) (from, to *net.TCPConn) { return s.far, s.near }},
		{"at the target", func(s stream) (from, to *net.TCPConn) { return s.near, s.far }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := startPair(t, setup{quiet: true})
			b := &bulk{pair: p, target: startTarget(t, p.net), turn: tc.turn}
			b.run(t, false) // the first one also makes the tunnel and the windows grow
			ratios := b.pairs(t, bulkPairs)
			if median(ratios) > bulkSlack {
				// The machine may have been busy with something else: as many again, and
				// all of them count.
				ratios = append(ratios, b.pairs(t, bulkPairs)...)
			}
			t.Logf("median of %d pairs: %.2f times as long", len(ratios), median(ratios))
			if ratio := median(ratios); ratio > bulkSlack {
				t.Errorf("the stalled stream makes the others take %.2f times as long, at most %.2f", ratio, bulkSlack)
			}
			for name, c := range map[string]*testkit.Caddy{"gateway": p.gateway, "client": p.client} {
				u := must[testkit.Usage](t)(c.Usage())
				t.Logf("%s: %d MB at most", name, u.Memory.Peak/1e6)
				if u.Memory.Peak >= bulkMemory {
					t.Errorf("%s: largest resident size %d bytes", name, u.Memory.Peak)
				}
			}
		})
	}
}

// bulk moves much over many streams at once.
type bulk struct {
	pair   *pair
	target *target
	turn   func(stream) (from, to *net.TCPConn)
}

// pairs returns, for each pair of runs one behind the other, how many times as
// long the one with the stalled stream took.
func (b *bulk) pairs(t *testing.T, n int) []float64 {
	var ratios []float64
	for i := range n {
		stall := i%2 == 0 // which of the two is first
		with, without := b.run(t, stall), b.run(t, !stall)
		if !stall {
			with, without = without, with
		}
		t.Logf("63 streams: %v with the stalled one, %v without", with.Round(time.Millisecond), without.Round(time.Millisecond))
		ratios = append(ratios, float64(with)/float64(without))
	}
	return ratios
}

// median of an odd number of values; of an even one the lower of the two in the
// middle.
func median[T cmp.Ordered](values []T) T {
	sorted := slices.Sorted(slices.Values(values))
	return sorted[(len(sorted)-1)/2]
}

// run returns how long all but the stalled stream took. The stalled one is held
// to be blocked when they are through; then it is read, and must be whole.
func (b *bulk) run(t *testing.T, stall bool) time.Duration {
	streams := make([]stream, bulkStreams-1)
	for i := range streams {
		streams[i] = b.open(t)
		defer streams[i].close()
	}
	var blocked *stalled
	if stall {
		s := b.open(t)
		defer s.close()
		blocked = stallOne(b.turn(s))
		testkit.Eventually(t, patience, blocked.isBlocked) // what fills the buffers is no part of the measurement
		t.Logf("the stalled stream took %d bytes", blocked.written.Load())
	}
	start := time.Now()
	results := make(chan error, len(streams))
	for i, s := range streams {
		from, to := b.turn(s)
		go func() { results <- transfer(from, to, i, bulkSize) }()
	}
	var all error
	for range streams {
		all = errors.Join(all, <-results)
	}
	took := time.Since(start)
	if stall {
		all = errors.Join(all, blocked.finish())
	}
	check(t, all)
	return took
}

func (b *bulk) open(t *testing.T) stream {
	t.Helper()
	s, err := b.pair.open(b.target, entryPort)
	check(t, err)
	deadline := time.Now().Add(3 * time.Minute)
	check(t, s.near.SetDeadline(deadline), s.far.SetDeadline(deadline))
	return s
}

// stalled is a stream that nobody reads.
type stalled struct {
	to      *net.TCPConn
	written atomic.Int64
	result  chan error
	sum     string // behind result
}

// stallOne starts to send into a stream.
func stallOne(from, to *net.TCPConn) *stalled {
	s := &stalled{to: to, result: make(chan error, 1)}
	go func() {
		sum, err := send(from, 99, stalledSize, func(n int) { s.written.Store(int64(n)) })
		s.sum = sum
		s.result <- errors.Join(err, from.CloseWrite())
	}()
	return s
}

// isBlocked reports an error unless the sender has begun and does not get on.
func (s *stalled) isBlocked() error {
	if n := s.written.Load(); n == 0 || n >= stalledSize {
		return fmt.Errorf("%d bytes were taken of the stream that nobody reads", n)
	}
	if err := unchanged(200*time.Millisecond, s.written.Load); err != nil {
		return fmt.Errorf("the sender to the stream that nobody reads is not blocked: %w", err)
	}
	return nil
}

// finish makes sure that the sender is blocked, and then reads everything.
func (s *stalled) finish() error {
	if err := s.isBlocked(); err != nil {
		return err
	}
	return receive(s.to, stalledSize, func() (string, error) {
		err := <-s.result
		return s.sum, err
	})
}
