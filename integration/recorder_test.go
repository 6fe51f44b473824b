package integration

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyevents"
)

func init() { caddy.RegisterModule(new(recorder)) }

// recorder is an event handler that notes what it is told, with the number of
// the configuration that it belongs to, and counts how often it is provisioned.
//
//	events {
//		on tunnel_opened culvert_test 7
//	}
type recorder struct {
	Generation string `json:"generation,omitempty"`
}

// recorded is an event as a recorder was told of it.
type recorded struct {
	generation, name string
	data             map[string]any
}

var (
	provisioned atomic.Int64
	recordMu    sync.Mutex
	record      []recorded // guarded by recordMu
)

func (*recorder) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "events.handlers.culvert_test", New: func() caddy.Module { return new(recorder) }}
}

func (r *recorder) Provision(caddy.Context) error {
	provisioned.Add(1)
	return nil
}

func (r *recorder) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next()
	if !d.AllArgs(&r.Generation) {
		return d.ArgErr()
	}
	return nil
}

func (r *recorder) Handle(_ context.Context, e caddy.Event) error {
	recordMu.Lock()
	defer recordMu.Unlock()
	record = append(record, recorded{r.Generation, e.Name(), e.Data})
	return nil
}

// forget starts a new record.
func forget(t *testing.T) {
	t.Helper()
	recordMu.Lock()
	defer recordMu.Unlock()
	record = nil
}

// events returns the record so far.
func events() []recorded {
	recordMu.Lock()
	defer recordMu.Unlock()
	return slices.Clone(record)
}

// recordedNames are all events; a recorder is provisioned for each.
var recordedNames = []string{"tunnel_opened", "tunnel_closed", "tunnel_rejected", "stream_denied", "breaker_opened", "breaker_closed", "drain_started"}

// on subscribes a recorder of a generation to all events.
func on(generation string) string {
	block := "\tevents {\n"
	for _, name := range recordedNames {
		block += "\t\ton " + name + " culvert_test " + generation + "\n"
	}
	return block + "\t}"
}

var (
	_ caddyevents.Handler   = (*recorder)(nil)
	_ caddyfile.Unmarshaler = (*recorder)(nil)
)
