package culvert

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/caddyserver/certmagic"
	"go.uber.org/zap"

	"github.com/culvertgate/culvert/internal/faultpoint"
)

// What has to survive a restart, and to hold for all gateways that share it, is in
// Caddy's storage: who is kept out, how many bytes each identity had today, how
// often a ticket was used. Storage may be a slow service, so nothing but the requests
// of who shows a ticket waits for it, and the end of a tunnel that was never made, which
// gives its ticket's use back: the rest is looked at by one goroutine of the hub.
const (
	ledgerPrefix  = "webrtc_tunnel/"
	ledgerEvery   = 30 * time.Second // how often gateways that share storage hear of each other
	ledgerTimeout = 10 * time.Second // for one look
	pruneEvery    = time.Hour
)

// ledger is the hub's part in storage. All methods are safe for concurrent use.
type ledger struct {
	hub    *hub
	blocks blockList
	usage  usageTable
	due    chan struct{} // one token: what was counted should be saved
}

// storage is Caddy's, of the newest configuration; nil: none is attached.
func (l *ledger) storage() certmagic.Storage {
	if env := l.hub.current(); env != nil {
		return env.storage
	}
	return nil
}

var errNoStorage = errors.New("no configuration is attached")

// load reads a record into v; without one v stays as it is.
func (l *ledger) load(ctx context.Context, key string, v any) error {
	storage := l.storage()
	if storage == nil {
		return errNoStorage
	}
	raw, err := storage.Load(ctx, ledgerPrefix+key)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("reading %s from storage: %w", key, err)
	}
	if err := json.Unmarshal(raw, v); err != nil {
		return fmt.Errorf("%s in storage: %w", key, err)
	}
	return nil
}

// update changes a record under the storage's lock: v is filled, change decides
// what becomes of it, and it is written back unless that returns an error. stored, unless
// it is nil, is called while the lock is still held: so what memory learns of the record
// comes in the order of the changes.
func (l *ledger) update(ctx context.Context, key string, v any, change func() error, stored func()) (err error) {
	storage := l.storage()
	if storage == nil {
		return errNoStorage
	}
	lock := ledgerPrefix + key
	if err := storage.Lock(ctx, lock); err != nil {
		return fmt.Errorf("locking %s in storage: %w", key, err)
	}
	defer func() {
		// The lock is given back also when the caller's time is over.
		if unlockErr := storage.Unlock(context.WithoutCancel(ctx), lock); unlockErr != nil && err == nil {
			err = fmt.Errorf("unlocking %s in storage: %w", key, unlockErr)
		}
	}()
	if err := l.load(ctx, key, v); err != nil {
		return err
	}
	if err := change(); err != nil {
		return err
	}
	raw, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if err := storage.Store(ctx, ledgerPrefix+key, raw); err != nil {
		return fmt.Errorf("writing %s to storage: %w", key, err)
	}
	if stored != nil {
		stored()
	}
	return nil
}

// run is the goroutine that keeps memory and storage together, until the hub ends.
func (l *ledger) run(stop <-chan struct{}) {
	defer l.hub.wg.Done()
	ticker := time.NewTicker(ledgerEvery)
	defer ticker.Stop()
	var pruned time.Time
	for {
		select {
		case <-stop:
			return
		case <-ticker.C:
		case <-l.due:
		}
		l.turn(&pruned)
	}
}

// turn is one look; a panic is that look's.
func (l *ledger) turn(pruned *time.Time) {
	defer l.hub.recoverTask()
	env := l.hub.current()
	if env == nil || len(env.endpoints) == 0 {
		return
	}
	faultpoint.Here(faultpoint.Ledger)
	l.look(env)
	if time.Since(*pruned) >= pruneEvery {
		*pruned = time.Now()
		l.prune()
	}
}

// hurry has the ledger look soon.
func (l *ledger) hurry() {
	select {
	case l.due <- struct{}{}:
	default:
	}
}

// look brings memory and storage together once.
func (l *ledger) look(env *environment) {
	if env.storage == nil {
		return // a Caddy always has one
	}
	defer l.hub.recoverEntry()
	ctx, cancel := context.WithTimeout(context.Background(), ledgerTimeout)
	defer cancel()
	err := errors.Join(l.readBlocks(ctx), l.saveUsage(ctx), l.checkTickets(ctx))
	if err == nil {
		return
	}
	if suppressed, ok := l.hub.warnings.allow("storage"); ok {
		env.logger.Error("Caddy's storage: blocks, quotas and tickets are as this process knows them", zap.Error(err), zap.Int("suppressed_before", suppressed))
	}
}

// prune removes records that nobody needs any more.
func (l *ledger) prune() {
	storage := l.storage()
	if storage == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), ledgerTimeout)
	defer cancel()
	l.pruneUsage(ctx, storage)
	l.pruneTickets(ctx, storage)
}
