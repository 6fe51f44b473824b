// Package badinput is the table of bad input: what a client, a page or a
// stranger may send to a gateway, the answer that it gets, and the state that is
// left. The rows are in rows_test.go and read as documentation; each is a test
// against a real Caddy process. (Frames that break the protocol are rows of
// package tunnel, because every one of them needs a peer that lies.)
//
// Everything happens in a network namespace of the test's own, with one Caddy
// that is gateway and client: see world_test.go. After each row the gateway's
// admin API must show what the row says, and a session that was there before
// must still carry its stream.
package badinput

import (
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestBadInput runs all rows against one gateway, which afterwards serves a new
// client and holds nothing of what came before.
func TestBadInput(t *testing.T) {
	w := startWorld(t)
	before := w.holding(t)
	t.Run("requests", func(t *testing.T) {
		for _, r := range requests {
			t.Run(r.name, func(t *testing.T) { w.request(t, r) })
		}
		w.logged(t, "signalling refused", "bad_offer")
	})
	t.Run("generated offers", w.generatedOffers)
	t.Run("limits", w.limits)
	t.Run("offers of real peers", func(t *testing.T) {
		for _, r := range offers {
			t.Run(r.name, func(t *testing.T) { w.offer(t, r) })
		}
	})
	t.Run("channels beside a session", func(t *testing.T) {
		for _, r := range besides {
			t.Run(r.name, func(t *testing.T) { w.beside(t, r) })
		}
	})
	t.Run("first channels", func(t *testing.T) {
		for _, r := range firsts {
			t.Run(r.name, func(t *testing.T) {
				t.Parallel() // most wait for timeouts.connect
				w.first(t, r)
			})
		}
		t.Run("a SOCKS client that says nothing more", func(t *testing.T) {
			t.Parallel()
			w.silentSOCKS(t)
		})
	})
	t.Run("a SOCKS client from afar", w.farSOCKS)
	t.Run("hosts", func(t *testing.T) {
		for _, r := range hosts {
			t.Run(r.name, func(t *testing.T) { w.host(t, r) })
		}
		w.logged(t, "stream denied", "not_allowed")
	})
	t.Run("a good client", func(t *testing.T) {
		p := w.connect(t, alice, nil, session)
		if err := p.open(0).echo("still here"); err != nil {
			t.Error(err)
		}
	})
	w.backTo(t, before)
	w.silentLog(t)
}
