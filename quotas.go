package culvert

import (
	"context"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/caddyserver/certmagic"

	"github.com/culvertgate/culvert/framecodec"
	"github.com/culvertgate/culvert/tunnel"
)

// usageTable counts the bytes of identities on this day (UTC). The zero value is
// empty and ready; all methods are safe for concurrent use.
type usageTable struct {
	mu    sync.Mutex
	day   string               // guarded by mu
	known string               // day of what was read from storage; guarded by mu
	m     map[clientKey]*usage // guarded by mu
}

type usage struct {
	bytes   uint64 // of the day, by all gateways as far as known
	unsaved uint64 // of those, what storage does not know yet
}

// usageRecord is what storage has of one identity.
type usageRecord struct {
	Endpoint string `json:"endpoint"`
	Identity string `json:"identity,omitempty"`
	Client   string `json:"client,omitempty"` // of an anonymous one
	Bytes    uint64 `json:"bytes"`
}

func dayOf(now time.Time) string { return now.UTC().Format(time.DateOnly) }

func usageKey(day string) string { return "usage/" + day + ".json" }

// add counts bytes of an identity and returns how many it has had today.
func (t *usageTable) add(k clientKey, n uint64, now time.Time) uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.turnLocked(now)
	u := t.m[k]
	if u == nil {
		u = new(usage)
		t.m[k] = u
	}
	u.bytes += n
	u.unsaved += n
	return u.bytes
}

// turnLocked begins a new day.
func (t *usageTable) turnLocked(now time.Time) {
	if day := dayOf(now); t.day != day || t.m == nil {
		t.day, t.m = day, map[clientKey]*usage{}
	}
}

// exhausted reports whether an identity has had limit bytes today; 0: no limit.
func (t *usageTable) exhausted(k clientKey, limit int64) bool {
	if limit <= 0 {
		return false
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.turnLocked(time.Now())
	u := t.m[k]
	return u != nil && u.bytes >= uint64(limit)
}

// take returns what is to be saved; it counts as saved until giveBack.
func (t *usageTable) take(now time.Time) (day string, unsaved map[clientKey]uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.turnLocked(now)
	unsaved = map[clientKey]uint64{}
	for k, u := range t.m {
		if u.unsaved > 0 {
			unsaved[k] = u.unsaved
			u.unsaved = 0
		}
	}
	return t.day, unsaved
}

// giveBack is take undone.
func (t *usageTable) giveBack(day string, unsaved map[clientKey]uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.day != day {
		return
	}
	for k, n := range unsaved {
		t.m[k].unsaved += n
	}
}

// set takes over the totals of storage.
func (t *usageTable) set(day string, totals map[clientKey]uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.day != day {
		return
	}
	t.known = day
	for k, n := range totals {
		u := t.m[k]
		if u == nil {
			u = new(usage)
			t.m[k] = u
		}
		u.bytes = n + u.unsaved
	}
}

// read reports whether storage's totals of today have been seen.
func (t *usageTable) read(now time.Time) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.known == dayOf(now)
}

// hasQuotas reports whether an endpoint counts bytes.
func (env *environment) hasQuotas() bool {
	for _, s := range env.endpoints {
		if s.limits.BytesPerDay > 0 {
			return true
		}
	}
	return false
}

// saveUsage adds to storage's totals what this process has counted, and reads what
// other gateways have.
func (l *ledger) saveUsage(ctx context.Context) error {
	now := time.Now()
	day, unsaved := l.usage.take(now)
	env := l.hub.current()
	if env == nil || len(unsaved) == 0 && !env.hasQuotas() {
		return nil
	}
	var records []usageRecord
	totals := map[clientKey]uint64{}
	sum := func() {
		for _, r := range records {
			totals[r.key()] += r.Bytes
		}
	}
	if len(unsaved) == 0 {
		if err := l.load(ctx, usageKey(day), &records); err != nil {
			return err
		}
		sum()
		l.usage.set(day, totals)
		return nil
	}
	err := l.update(ctx, usageKey(day), &records, func() error {
		sum()
		for k, n := range unsaved {
			totals[k] += n
		}
		records = records[:0]
		for k, n := range totals {
			records = append(records, k.record(n))
		}
		return nil
	}, nil)
	if err != nil {
		l.usage.giveBack(day, unsaved)
		return err
	}
	l.usage.set(day, totals)
	return nil
}

func (r usageRecord) key() clientKey {
	prefix, _ := netip.ParsePrefix(r.Client) // the zero value is that of an identity
	return clientKey{endpoint: r.Endpoint, identity: r.Identity, prefix: prefix}
}

func (k clientKey) record(bytes uint64) usageRecord {
	r := usageRecord{Endpoint: k.endpoint, Identity: k.identity, Bytes: bytes}
	if k.prefix.IsValid() {
		r.Client = k.prefix.String()
	}
	return r
}

// pruneUsage removes the days before yesterday.
func (l *ledger) pruneUsage(ctx context.Context, storage certmagic.Storage) {
	keys, err := storage.List(ctx, ledgerPrefix+"usage", false)
	if err != nil {
		return // there is none
	}
	for _, key := range keys {
		day := strings.TrimSuffix(key[strings.LastIndexByte(key, '/')+1:], ".json")
		if day < dayOf(time.Now().AddDate(0, 0, -1)) {
			_ = storage.Delete(ctx, key) // the next time, then
		}
	}
}

// countUsage is called by the clock: it counts what tunnels have carried since the
// last time, and ends the streams of who has used up a quota.
func (h *hub) countUsage(now time.Time) {
	env := h.current()
	if env == nil {
		return
	}
	quotas := env.hasQuotas()
	for _, t := range h.tunnels.all() {
		s := env.endpoints[t.endpoint]
		if s == nil {
			continue
		}
		n := t.uncounted()
		if s.limits.BytesPerDay <= 0 || n == 0 {
			continue
		}
		if h.ledger.usage.add(t.owner, n, now) >= uint64(s.limits.BytesPerDay) {
			t.endStreams(framecodec.CodeQuotaExceeded, "the bytes of this day are used up")
		}
	}
	if quotas && !h.ledger.usage.read(now) {
		h.ledger.hurry()
	}
}

// settle counts the last bytes of a tunnel that ends.
func (h *hub) settle(t *gatewayTunnel) {
	s := h.endpoint(t.endpoint)
	if s == nil || s.limits.BytesPerDay <= 0 {
		return
	}
	if n := t.uncounted(); n > 0 { // else each handshake in vain would be remembered until midnight
		h.ledger.usage.add(t.owner, n, time.Now())
	}
}

// uncounted returns the payload bytes, both directions together, since the last
// call.
func (t *gatewayTunnel) uncounted() uint64 {
	raw := t.exit.RawStats()
	total := raw.BytesIn + raw.BytesOut
	if s := t.currentSession(); s != nil {
		stats := s.Stats()
		total += stats.BytesIn + stats.BytesOut
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if total <= t.counted { // somebody who asked meanwhile has seen more
		return 0
	}
	n := total - t.counted
	t.counted = total
	return n
}

// endStreams ends all streams and raw channels of the tunnel, which stays.
func (t *gatewayTunnel) endStreams(code tunnel.Code, text string) {
	if s := t.currentSession(); s != nil {
		s.EachStream(func(st *tunnel.Stream) { st.Reset(code, text) })
	}
	for _, r := range t.exit.Raws() {
		r.Close(code)
	}
}
