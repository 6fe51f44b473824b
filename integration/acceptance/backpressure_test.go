package acceptance

import (
	"errors"
	"fmt"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/culvertgate/culvert/internal/testkit"
)

const (
	bulkStreams = 64
	bulkSize    = 2 << 20  // of each and run
	bulkPairs   = 4        // runs with and without the stalled stream, interleaved: 1 GiB beside it at both ends
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
			var with, without time.Duration
			for i := range bulkPairs {
				stall := i%2 == 0 // which of the two is first
				first, second := b.run(t, stall), b.run(t, !stall)
				if !stall {
					first, second = second, first
				}
				t.Logf("63 streams: %v with the stalled one, %v without", first.Round(time.Millisecond), second.Round(time.Millisecond))
				with, without = with+first, without+second
			}
			ratio := float64(with) / float64(without)
			t.Logf("together %.2f times as long", ratio)
			if ratio > bulkSlack {
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

// run returns how long all but the stalled stream took. The stalled one is held
// to be blocked when they are through; then it is read, and must be whole.
func (b *bulk) run(t *testing.T, stall bool) time.Duration {
	t.Helper()
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
