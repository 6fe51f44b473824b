package culvert

import (
	"time"

	"github.com/culvertgate/culvert/tunnel"
	"github.com/culvertgate/culvert/tunnel/gateway"
)

// tunnelInfo is a tunnel as the admin API and its owner see it. It holds no
// secret.
type tunnelInfo struct {
	ID            string    `json:"id"`
	Side          string    `json:"side"`
	Remote        string    `json:"remote,omitempty"`   // at a client
	Endpoint      string    `json:"endpoint,omitempty"` // at a gateway
	Identity      string    `json:"identity"`
	ClientIP      string    `json:"client_ip,omitempty"`
	Carrier       string    `json:"carrier"`
	CandidatePair string    `json:"candidate_pair,omitempty"`
	Dialect       int       `json:"dialect,omitempty"`
	State         string    `json:"state"`
	Since         time.Time `json:"since"`
	Expires       time.Time `json:"expires,omitzero"`
	Streams       int       `json:"streams"`
	BytesIn       uint64    `json:"bytes_in"`
	BytesOut      uint64    `json:"bytes_out"`
	RTT           float64   `json:"rtt_ms"`
	Buffered      int64     `json:"buffered"`
}

// The states of a tunnel.
const (
	stateConnecting = "connecting"
	stateOpen       = "open"
	stateClosing    = "closing"
)

// tunnelDetail is a tunnel with its streams.
type tunnelDetail struct {
	tunnelInfo
	StreamList []streamInfo `json:"stream_list"`
	// RawChannels are those that run and the last ones that ended: their code
	// stands nowhere else.
	RawChannels []gateway.RawInfo `json:"raw_channels,omitempty"`
}

// streamInfo is a stream as the admin API and its owner see it.
type streamInfo struct {
	tunnel.StreamInfo
	AgeMS  int64 `json:"age_ms"`
	IdleMS int64 `json:"idle_ms"`
}

// info returns a snapshot.
func (t *gatewayTunnel) info() tunnelInfo {
	t.mu.Lock()
	session, peer, connected, closing := t.session, t.peer, t.connected, t.isClosing
	t.mu.Unlock()
	i := tunnelInfo{
		ID: t.id, Side: sideGateway, Endpoint: t.endpoint, Identity: t.identity, ClientIP: t.clientIP.String(),
		Carrier: carrierWebRTC, State: stateConnecting, Since: t.since, Expires: t.expiry(),
	}
	switch {
	case closing:
		i.State = stateClosing
	case connected:
		i.State = stateOpen
	}
	if peer != nil {
		i.CandidatePair = peer.Stats().CandidatePair
	}
	i.addSession(session)
	raw := t.exit.RawStats()
	i.Streams += raw.Open
	i.BytesIn += raw.BytesIn
	i.BytesOut += raw.BytesOut
	return i
}

// addSession fills in what the session counts.
func (i *tunnelInfo) addSession(s *tunnel.Session) {
	if s == nil {
		return
	}
	stats := s.Stats()
	i.Dialect = int(s.Dialect())
	i.Streams, i.BytesIn, i.BytesOut, i.Buffered = stats.Streams, stats.BytesIn, stats.BytesOut, stats.Queued
	i.RTT = float64(stats.RTT) / float64(time.Millisecond)
}

// detail returns a snapshot with the streams.
func (t *gatewayTunnel) detail() tunnelDetail {
	return tunnelDetail{t.info(), streamList(t.currentSession()), t.exit.RawInfos()}
}

func (t *gatewayTunnel) rawChannel(id string) *gateway.Raw { return t.exit.RawByID(id) }

func streamList(s *tunnel.Session) []streamInfo {
	list := []streamInfo{}
	if s == nil {
		return list
	}
	for _, i := range s.Streams() {
		list = append(list, streamInfo{i, i.Age.Milliseconds(), i.Idle.Milliseconds()})
	}
	return list
}

// anyTunnel is a tunnel of either side, as the admin API needs it.
type anyTunnel interface {
	info() tunnelInfo
	detail() tunnelDetail
	currentSession() *tunnel.Session
	rawChannel(id string) *gateway.Raw // nil: none with that id
	close(code tunnel.Code, text string)
}

// anyTunnels returns the hub's tunnels of both sides, those of the gateway first.
func (h *hub) anyTunnels() []anyTunnel {
	var list []anyTunnel
	for _, t := range h.tunnels.all() {
		list = append(list, t)
	}
	for _, p := range h.remotes.all() {
		for _, t := range p.tunnels() {
			list = append(list, t)
		}
	}
	return list
}

// health returns why no new tunnel can be had, and what is not as it should be.
func (h *hub) health() (unavailable, degraded []string) {
	env := h.current()
	if env == nil {
		return []string{"not started"}, nil
	}
	h.mu.Lock()
	open := h.net.socket != nil
	h.mu.Unlock()
	if !open && len(env.endpoints) > 0 {
		unavailable = append(unavailable, "the UDP socket is not open")
	}
	if h.draining.Load() {
		unavailable = append(unavailable, "draining")
	}
	if limit := h.memory.Limit(); limit > 0 && h.memory.Used() > limit-leastMemory {
		unavailable = append(unavailable, "the memory budget is used up")
	}
	for _, p := range h.remotes.all() {
		if err := p.err(); err != nil {
			degraded = append(degraded, "remote "+p.spec.name+": "+err.Error())
		}
		for _, t := range p.tunnels() {
			if names := t.notPublished(); names != "" {
				degraded = append(degraded, "remote "+p.spec.name+": the gateway does not take the service "+names)
			}
		}
	}
	return unavailable, append(degraded, h.brokenTargets()...)
}
