package culvert

import (
	"net/netip"
	"sync"
	"time"
)

// clientKey is who a limit is counted for: one identity of one endpoint, or one
// address.
type clientKey struct {
	endpoint string
	identity string
	prefix   netip.Prefix // of an address: /32, IPv6 /64
}

// addressKey is the key of an address, whatever endpoint it asks: an IPv6
// client owns its /64.
func addressKey(ip netip.Addr) clientKey {
	ip = ip.Unmap().WithZone("")
	bits := 32
	if ip.Is6() {
		bits = 64
	}
	p, err := ip.Prefix(bits)
	if err != nil {
		return clientKey{} // an address that is not known: all such share a key
	}
	return clientKey{prefix: p}
}

// identityKey is the key of an identity; the anonymous are told apart by address.
func identityKey(endpoint, identity string, ip netip.Addr) clientKey {
	if identity == "" {
		k := addressKey(ip)
		k.endpoint = endpoint
		return k
	}
	return clientKey{endpoint: endpoint, identity: identity}
}

// handshake is an offer whose data channel is not open yet.
type handshake struct {
	keys  [2]clientKey
	since time.Time
	evict func() // ends it; called without the table's lock
}

// handshakes bounds the offers in flight. The zero value is empty and ready;
// all methods are safe for concurrent use.
type handshakes struct {
	mu       sync.Mutex
	inFlight []*handshake      // oldest first; guarded by mu
	perKey   map[clientKey]int // guarded by mu
}

// add admits an offer, or says that its client has perClient in flight already.
// When total are in flight, the oldest of the busiest client goes for it: it is
// returned and the caller ends it.
func (t *handshakes) add(h *handshake, total, perClient int) (evicted *handshake, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.perKey == nil {
		t.perKey = map[clientKey]int{}
	}
	for _, k := range h.keys {
		if t.perKey[k] >= perClient {
			return nil, false
		}
	}
	if len(t.inFlight) >= total {
		evicted = t.busiestLocked()
		t.removeLocked(evicted)
	}
	t.inFlight = append(t.inFlight, h)
	for _, k := range h.keys {
		t.perKey[k]++
	}
	return evicted, true
}

// remove forgets a handshake that is over; a second call does nothing.
func (t *handshakes) remove(h *handshake) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.removeLocked(h)
}

// busiestLocked returns the oldest handshake of the client that has most. There
// is at least one in flight.
func (t *handshakes) busiestLocked() *handshake {
	best, most := t.inFlight[0], 0
	for _, h := range t.inFlight {
		if n := max(t.perKey[h.keys[0]], t.perKey[h.keys[1]]); n > most {
			best, most = h, n
		}
	}
	return best
}

func (t *handshakes) removeLocked(h *handshake) {
	for i, other := range t.inFlight {
		if other != h {
			continue
		}
		t.inFlight = append(t.inFlight[:i], t.inFlight[i+1:]...)
		for _, k := range h.keys {
			if t.perKey[k]--; t.perKey[k] == 0 {
				delete(t.perKey, k)
			}
		}
		return
	}
}
