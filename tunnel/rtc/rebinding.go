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
// heard, once the selected one has been silent for two keep-alives and the client
// has answered a check on the new one (its answer shows that it knows the password
// and is reached there: a request that somebody repeats from elsewhere moves nothing).
//
// The agent calls from its own goroutine; selected from another.
type rebinding struct {
	silence time.Duration

	mu      sync.Mutex
	address string        // of the remote candidate that is selected; guarded by mu
	port    int           // guarded by mu
	since   time.Time     // when it was selected; guarded by mu
	remote  ice.Candidate // the same candidate, once its checks were heard; guarded by mu
}

// selected is told of each pair that the agent selects.
func (r *rebinding) selected(pair *webrtc.ICECandidatePair) {
	if pair == nil || pair.Remote == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if address, port := pair.Remote.Address, int(pair.Remote.Port); address != r.address || port != r.port {
		r.address, r.port, r.since, r.remote = address, port, time.Now(), nil
	}
}

// heard is told of each check of the client whose integrity is right, and says
// whether its pair is to be taken.
func (r *rebinding) heard(_ *stun.Message, _, remote ice.Candidate, pair *ice.CandidatePair) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if remote.Address() == r.address && remote.Port() == r.port {
		r.remote = remote
		return false
	}
	last := r.since
	if r.remote != nil && r.remote.LastReceived().After(last) {
		last = r.remote.LastReceived() // whatever came: data, checks, answers to ours
	}
	if last.IsZero() || pair.ResponsesReceived() == 0 || time.Since(last) < r.silence {
		return false
	}
	r.address, r.port, r.since, r.remote = remote.Address(), remote.Port(), time.Now(), remote
	return true
}
