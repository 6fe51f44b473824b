package culvert

import (
	"context"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/culvertgate/culvert/framecodec"
	"github.com/culvertgate/culvert/tunnel"
	"github.com/culvertgate/culvert/tunnel/policy"
)

// identityBlock keeps an identity out of an endpoint.
type identityBlock struct {
	Endpoint string    `json:"endpoint"`
	Identity string    `json:"identity"`
	Until    time.Time `json:"until,omitzero"` // zero: until it is taken back
	Since    time.Time `json:"since"`
}

func (b identityBlock) over(now time.Time) bool { return !b.Until.IsZero() && !now.Before(b.Until) }

// identityAt is an identity at an endpoint.
type identityAt struct{ endpoint, identity string }

// blockList is what is known of blocks: a map that is never changed, so that each
// open looks at it without a lock. The zero value is empty.
type blockList struct {
	list    atomic.Pointer[map[identityAt]identityBlock]
	setting sync.Mutex // of list and changes together
	changes uint64     // that were made here; guarded by setting
}

const blocksKey = "blocks.json"

// blocked reports whether an identity is kept out now.
func (l *blockList) blocked(endpoint, identity string) bool {
	m := l.list.Load()
	if m == nil || len(*m) == 0 || identity == "" {
		return false
	}
	b, ok := (*m)[identityAt{endpoint, identity}]
	return ok && !b.over(time.Now())
}

// changed takes a change over that was made here.
func (l *blockList) changed(list []identityBlock) {
	l.setting.Lock()
	defer l.setting.Unlock()
	l.changes++
	l.setLocked(list)
}

// sofar returns how many changes were made here.
func (l *blockList) sofar() uint64 {
	l.setting.Lock()
	defer l.setting.Unlock()
	return l.changes
}

// read takes over what was read from storage, unless there were changes since sofar: it
// may be older than they are. The next look has them all.
func (l *blockList) read(list []identityBlock, sofar uint64) {
	l.setting.Lock()
	defer l.setting.Unlock()
	if l.changes == sofar {
		l.setLocked(list)
	}
}

func (l *blockList) setLocked(list []identityBlock) {
	m := make(map[identityAt]identityBlock, len(list))
	for _, b := range list {
		m[identityAt{b.Endpoint, b.Identity}] = b
	}
	l.list.Store(&m)
}

// all lists the blocks that hold.
func (l *blockList) all() []identityBlock {
	out := []identityBlock{}
	if m := l.list.Load(); m != nil {
		for _, b := range *m {
			if !b.over(time.Now()) {
				out = append(out, b)
			}
		}
	}
	slices.SortFunc(out, func(a, b identityBlock) int {
		if c := strings.Compare(a.Endpoint, b.Endpoint); c != 0 {
			return c
		}
		return strings.Compare(a.Identity, b.Identity)
	})
	return out
}

// changeBlocks changes the list in storage, and what is known of it here.
func (l *ledger) changeBlocks(ctx context.Context, change func([]identityBlock) []identityBlock) error {
	var list []identityBlock
	return l.update(ctx, blocksKey, &list, func() error {
		list = change(slices.DeleteFunc(list, func(b identityBlock) bool { return b.over(time.Now()) }))
		return nil
	}, func() { l.blocks.changed(list) })
}

// addBlock keeps an identity out and ends its tunnels.
func (l *ledger) addBlock(ctx context.Context, add identityBlock) error {
	err := l.changeBlocks(ctx, func(list []identityBlock) []identityBlock {
		return append(without(list, add.Endpoint, add.Identity), add)
	})
	l.endBlocked()
	return err
}

// removeBlock lets an identity in again; false: it was not kept out.
func (l *ledger) removeBlock(ctx context.Context, endpoint, identity string) (found bool, _ error) {
	err := l.changeBlocks(ctx, func(list []identityBlock) []identityBlock {
		left := without(list, endpoint, identity)
		found = len(left) < len(list)
		return left
	})
	return found, err
}

func without(list []identityBlock, endpoint, identity string) []identityBlock {
	return slices.DeleteFunc(slices.Clone(list), func(b identityBlock) bool { return b.Endpoint == endpoint && b.Identity == identity })
}

// readBlocks takes over what other gateways, or this one before its start, have
// written.
func (l *ledger) readBlocks(ctx context.Context) error {
	var list []identityBlock
	sofar := l.blocks.sofar()
	if err := l.load(ctx, blocksKey, &list); err != nil {
		return err
	}
	l.blocks.read(list, sofar)
	l.endBlocked()
	return nil
}

// endBlocked ends the tunnels of who is kept out.
func (l *ledger) endBlocked() {
	for _, t := range l.hub.tunnels.all() {
		if l.blocks.blocked(t.endpoint, t.identity) {
			t.close(framecodec.CodeClosedByAdmin, closedByAdmin)
		}
	}
}

// gate is what stands before the policy: blocks and quotas. The decision is not
// allowed, or the zero value.
func (h *hub) gate(state *endpointState, identity string, owner clientKey) policy.Decision {
	builtin := func(list, reason string, code tunnel.Code) policy.Decision {
		return policy.Decision{Code: code, Reason: reason, Rule: policy.RuleRef{Endpoint: state.name, List: list, Index: -1}}
	}
	switch {
	case h.ledger.blocks.blocked(state.name, identity):
		return builtin("blocks", "an administrator keeps this identity out (GET /webrtc_tunnel/blocks)", framecodec.CodeNotAllowed)
	case h.ledger.usage.exhausted(owner, state.limits.BytesPerDay):
		return builtin("limits.bytes_per_day", "the identity has used up its bytes of this day (UTC)", framecodec.CodeQuotaExceeded)
	}
	return policy.Decision{Allowed: true}
}
