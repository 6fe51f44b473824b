package rtc

import (
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pion/ice/v4"
	"github.com/pion/webrtc/v4"
)

// TestRebinding: a client whose NAT gives it another port is followed there, again
// and again.
func TestRebinding(t *testing.T) {
	c, p := watchful(t)
	for range 3 {
		c.rebind()
		start := time.Now()
		through(t, p, "after the change")
		// Two keep-alives of silence, the next check, and SCTP's next attempt.
		if d := time.Since(start); d > 5*time.Second {
			t.Errorf("the client is followed after %v", d)
		}
	}
	if p.server.Err() != nil || p.client.Err() != nil {
		t.Errorf("ended: %v, %v", p.server.Err(), p.client.Err())
	}
}

// TestRebindingBack: a client is followed to where it was before, too, as when its
// router falls back to another line for a while. The gateway has had its proof of
// that address long ago, and pion sends no check there again by itself.
func TestRebindingBack(t *testing.T) {
	c, p := watchful(t)
	first := c.port()
	c.rebind()
	through(t, p, "after the change")
	c.moveTo(first)
	start := time.Now()
	through(t, p, "after the change back")
	if d := time.Since(start); d > 5*time.Second {
		t.Errorf("the client is followed after %v", d)
	}
}

// repeater sends a client's checks from elsewhere.
type repeater struct {
	*net.UDPConn
	c     *cable
	heard bool // the gateway answers
}

// newRepeater returns a repeater at a port, 0: a new one.
func newRepeater(t *testing.T, c *cable, port int) *repeater {
	t.Helper()
	conn, err := net.DialUDP("udp4", &net.UDPAddr{IP: home, Port: port}, net.UDPAddrFromAddrPort(c.gateway))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return &repeater{UDPConn: conn, c: c}
}

func (r *repeater) repeat() error {
	if _, err := r.Write(*r.c.check.Load()); err != nil {
		return err
	}
	_ = r.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	n, err := r.Read(make([]byte, 2048))
	r.heard = r.heard || err == nil && n > 0
	return nil
}

// gatewaysPair is the remote candidate that the gateway sends to.
func gatewaysPair(t *testing.T, p *pair) string {
	t.Helper()
	selected, err := p.server.pc.SCTP().Transport().ICETransport().GetSelectedCandidatePair()
	if err != nil || selected == nil {
		t.Fatalf("no pair: %v", err)
	}
	return selected.Remote.String()
}

// TestRebindingIsNotForOthers: whoever repeats a client's checks from elsewhere,
// while the client is away, moves nothing: the answers to the gateway's own checks
// do not come from there.
func TestRebindingIsNotForOthers(t *testing.T) {
	c, p := watchful(t)
	before := gatewaysPair(t, p)
	stranger := newRepeater(t, c, 0)
	c.cut.Store(true)
	for range 20 { // ten keep-alives of silence
		if err := stranger.repeat(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(50 * time.Millisecond) // of silence
	}
	if !stranger.heard {
		t.Error("the gateway did not even answer: nothing was tried")
	}
	if now := gatewaysPair(t, p); now != before {
		t.Errorf("the gateway went to %s from %s", now, before)
	}
	c.cut.Store(false)
	through(t, p, "after it")
}

// TestRebindingIsNotHeld: whoever repeats a client's checks from where the client
// once was, which the gateway has a proof of, does not keep the tunnel there.
func TestRebindingIsNotHeld(t *testing.T) {
	c, p := watchful(t)
	left := c.port()
	c.rebind()
	through(t, p, "after the change")
	here := gatewaysPair(t, p)
	stranger := newRepeater(t, c, left)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	halt := sync.OnceFunc(func() { close(stop); wg.Wait() })
	defer halt()
	c.cut.Store(true)
	wg.Go(func() {
		for {
			select {
			case <-stop:
				return
			case <-time.After(20 * time.Millisecond):
			}
			if err := stranger.repeat(); err != nil {
				t.Error(err)
				return
			}
		}
	})
	time.Sleep(time.Second) // ten keep-alives of silence
	c.cut.Store(false)
	for start := time.Now(); gatewaysPair(t, p) != here; time.Sleep(10 * time.Millisecond) {
		if time.Since(start) > 5*time.Second {
			t.Fatal("the client is not followed to where it is")
		}
	}
	through(t, p, "beside the repeated checks")
	if now := gatewaysPair(t, p); now != here {
		t.Errorf("the gateway went to %s from %s, where the client is", now, here)
	}
	halt()
	if !stranger.heard {
		t.Error("the gateway did not even answer: nothing was tried")
	}
}

// heardCandidate is a remote candidate of which something came.
type heardCandidate struct {
	ice.Candidate
	last time.Time
}

func (c *heardCandidate) LastReceived() time.Time { return c.last }

// TestRebindingRule holds the rule by itself: how long the selected pair must have
// been silent, or have answered nothing, before the pair on which the client is
// heard is taken.
func TestRebindingRule(t *testing.T) {
	const silence = 4 * time.Second
	for _, c := range []struct {
		name     string
		heard    bool          // something comes from the selected candidate all the time
		answered time.Duration // until then it answers checks
		proof    bool          // the other one has answered a check
		taken    time.Duration // the other one is; 0: never
	}{
		{name: "silent", proof: true, taken: silence},
		{name: "silent, nobody answers", taken: 0},
		{name: "silent from some time on", answered: 10 * time.Second, proof: true, taken: 14 * time.Second},
		{name: "alive", heard: true, answered: time.Hour, proof: true, taken: 0},
		{name: "heard, but answers nothing", heard: true, proof: true, taken: 2 * silence},
		{name: "heard, but answers no more", heard: true, answered: 10 * time.Second, proof: true, taken: 10*time.Second + 2*silence},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				candidate := func(port int) *heardCandidate {
					made, err := ice.NewCandidatePeerReflexive(&ice.CandidatePeerReflexiveConfig{Network: "udp4", Address: "192.0.2.1", Port: port, Component: 1})
					if err != nil {
						t.Fatal(err)
					}
					return &heardCandidate{Candidate: made}
				}
				here, old, other := candidate(1), candidate(2), candidate(3)
				selected, elsewhere := &ice.CandidatePair{Local: here, Remote: old}, &ice.CandidatePair{Local: here, Remote: other}
				if c.proof {
					elsewhere.UpdateRoundTripTime(time.Millisecond) // counts an answer
				}
				r := &rebinding{silence: silence}
				check := func(pair *ice.CandidatePair) bool { return r.heard(nil, here, pair.Remote, pair) }
				time.Sleep(time.Hour)
				if check(elsewhere) {
					t.Fatal("taken before any pair is selected")
				}
				r.selected(&webrtc.ICECandidatePair{Remote: &webrtc.ICECandidate{Address: "192.0.2.1", Port: 2}})
				start := time.Now()
				if check(selected) {
					t.Fatal("the selected one is taken again")
				}
				for time.Since(start) < time.Minute {
					at := time.Since(start)
					if at <= c.answered {
						selected.UpdateRoundTripTime(time.Millisecond)
					}
					if c.heard || at <= c.answered {
						old.last = time.Now()
						_ = check(selected)
					}
					if check(elsewhere) {
						if at != c.taken {
							t.Errorf("taken after %v, want %v", at, c.taken)
						}
						if check(elsewhere) {
							t.Error("taken twice")
						}
						return
					}
					time.Sleep(100 * time.Millisecond)
				}
				if c.taken != 0 {
					t.Error("not taken")
				}
			})
		})
	}
}
