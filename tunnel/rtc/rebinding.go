package rtc

import (
	"sync"
	"time"

	"github.com/pion/ice/v4"
	"github.com/pion/stun/v4"
	"github.com/pion/webrtc/v4"
)

// rebinding follows a client whose address has changed in the middle of a tunnel
// without its knowing, as when its NAT has forgotten it: its checks, which it sends
// on the pair that it has nominated, come from another address from then on. RFC
// 8445 leaves pairs to the controlling side, which has nothing to nominate here:
// for it nothing has changed. So this side takes the pair on which the client is
// heard, once the selected one is silent and the client has answered a check on
// the new one (its answer shows that it knows the password and is reached there: a
// request that somebody repeats from elsewhere moves nothing).
//
// That answer may be old: pion checks a pair no more once it is valid, so an address
// that the client has been at before gives no newer one until it is selected. Then
// it is checked with every keep-alive, and must answer: a pair on which no answer
// comes is silent, too, whatever else somebody repeats there.
//
// The agent calls from its own goroutine; selected from another.
type rebinding struct {
	silence time.Duration // two keep-alives

	mu      sync.Mutex
	address string             // of the remote candidate that is selected; guarded by mu
	port    int                // guarded by mu
	since   time.Time          // when it was selected; guarded by mu
	pair    *ice.CandidatePair // of the same candidate, once its checks were heard; guarded by mu
}

// selected is told of each pair that the agent selects.
func (r *rebinding) selected(pair *webrtc.ICECandidatePair) {
	if pair == nil || pair.Remote == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if address, port := pair.Remote.Address, int(pair.Remote.Port); address != r.address || port != r.port {
		r.address, r.port, r.since, r.pair = address, port, time.Now(), nil
	}
}

// heard is told of each check of the client whose integrity is right, and says
// whether its pair is to be taken.
func (r *rebinding) heard(_ *stun.Message, _, remote ice.Candidate, pair *ice.CandidatePair) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if remote.Address() == r.address && remote.Port() == r.port {
		// There is a pair for each address of ours: the one that is answered counts.
		if r.pair == nil || !pair.LastResponseReceivedAt().Before(r.pair.LastResponseReceivedAt()) {
			r.pair = pair
		}
		return false
	}
	if r.since.IsZero() || pair.ResponsesReceived() == 0 || !r.silentLocked() {
		return false
	}
	r.address, r.port, r.since, r.pair = remote.Address(), remote.Port(), time.Now(), pair
	return true
}

// silentLocked reports whether nothing came on the selected pair for two keep-alives,
// or no answer for four: a few may be lost where data comes.
func (r *rebinding) silentLocked() bool {
	came, answered := time.Since(r.since), time.Since(r.since)
	if r.pair != nil {
		came = min(came, time.Since(r.pair.Remote.LastReceived())) // data, checks, answers to ours
		answered = min(answered, time.Since(r.pair.LastResponseReceivedAt()))
	}
	return came >= r.silence || answered >= 2*r.silence
}
