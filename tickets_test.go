package culvert

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/caddyserver/certmagic"
)

// lateStorage has tickets, and loses its patience with the last of them.
type lateStorage struct {
	certmagic.Storage
	tickets, loaded int
	giveUp          context.CancelFunc
}

func (s *lateStorage) List(context.Context, string, bool) ([]string, error) {
	return make([]string, s.tickets), nil
}

func (s *lateStorage) Load(ctx context.Context, _ string) ([]byte, error) {
	if s.loaded++; s.loaded == s.tickets {
		s.giveUp()
		return nil, ctx.Err()
	}
	return fmt.Appendf(nil, `{"id":"%d"}`, s.loaded), nil
}

// TestTicketsOutOfTime: a list that was cut short is an error, also where only the
// last ticket is missing.
func TestTicketsOutOfTime(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	h := new(hub)
	h.newest.Store(&environment{storage: &lateStorage{tickets: 3, giveUp: cancel}})
	l := ledger{hub: h}
	if list, err := l.tickets(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("%d tickets, %v", len(list), err)
	}
}
