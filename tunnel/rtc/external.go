package rtc

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"
)

const (
	lookupAgain   = time.Minute     // age at which a looked-up external address is looked up again
	lookupTimeout = 3 * time.Second // of one look-up
)

// resolver looks up a name, as net.Resolver.LookupNetIP does.
type resolver func(ctx context.Context, network, host string) ([]netip.Addr, error)

// external is one `external_address`: a literal, or a name that is looked up at
// the start, when an answer needs it, and again, beside the answers, every
// minute. It outlives a change of the options that names it again.
type external struct {
	text string     // as configured
	addr netip.Addr // valid for a literal
	name string
	port uint16 // 0: that of the socket

	resolve resolver // of the system, but in tests
	log     func() *zap.Logger

	mu      sync.Mutex
	found   []netip.Addr
	at      time.Time
	running chan struct{} // closed at the end of the look-up in progress, nil if there is none
	failure error         // of the last look-up, nil if it found something
}

// CheckExternalAddress reports what is wrong with an address, address:port, name
// or name:port. Nothing is looked up.
func CheckExternalAddress(text string) error {
	_, err := parseExternal(text)
	return err
}

// parseExternal reads an address, address:port, name or name:port.
func parseExternal(text string) (*external, error) {
	e := &external{text: text, resolve: net.DefaultResolver.LookupNetIP, log: orNop(nil)}
	host := strings.Trim(text, "[]")
	if _, err := netip.ParseAddr(host); err != nil {
		host = text
		if h, port, err := net.SplitHostPort(text); err == nil {
			host = h
			n, err := strconv.ParseUint(port, 10, 16)
			if err != nil || n == 0 {
				return nil, fmt.Errorf("external_address %q: the port is a number from 1 to 65535", text)
			}
			e.port = uint16(n)
		}
	}
	var err error
	if e.addr, err = netip.ParseAddr(host); err != nil {
		e.name = host
		return e, checkName(text, host)
	}
	e.addr = e.addr.Unmap()
	if e.addr.IsUnspecified() || e.addr.IsMulticast() || e.addr.Zone() != "" {
		return nil, fmt.Errorf("external_address %q cannot be reached by anybody", text)
	}
	return e, nil
}

// checkName refuses what no look-up can find (RFC 1035 section 2.3.4), and what
// was meant to be an address: no top-level domain is a number (RFC 3696 section 2).
func checkName(text, name string) error {
	labels := strings.Split(strings.TrimSuffix(name, "."), ".")
	for _, label := range labels {
		if label == "" || len(label) > 63 || len(name) > 254 || strings.Trim(strings.ToLower(label), "abcdefghijklmnopqrstuvwxyz0123456789-_") != "" {
			return fmt.Errorf("external_address %q is neither an address nor a name", text)
		}
	}
	if strings.Trim(labels[len(labels)-1], "0123456789") == "" {
		return fmt.Errorf("external_address %q is no name, since it ends in a number, and no address: one of IPv4 has four numbers from 0 to 255", text)
	}
	return nil
}

// addresses returns where the peers find us. While nothing is known of a name
// it waits for the look-up, which spawn runs beside it.
func (e *external) addresses(ctx context.Context, spawn func(func()) bool, port uint16, now time.Time) []netip.AddrPort {
	if e.port != 0 {
		port = e.port
	}
	if e.name == "" {
		return []netip.AddrPort{netip.AddrPortFrom(e.addr, port)}
	}
	found := e.current(ctx, spawn, now)
	out := make([]netip.AddrPort, 0, len(found))
	for _, a := range found {
		out = append(out, netip.AddrPortFrom(a, port))
	}
	return out
}

// current returns what the name is known to stand for.
func (e *external) current(ctx context.Context, spawn func(func()) bool, now time.Time) []netip.Addr {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.startLocked(ctx, spawn, now)
	if e.found != nil || e.running == nil {
		return e.found
	}
	running := e.running
	e.mu.Unlock()
	select {
	case <-running:
	case <-ctx.Done():
	}
	e.mu.Lock()
	return e.found
}

// begin looks a name up that is not known yet, beside the caller, so that the
// log tells of a wrong one before the first offer.
func (e *external) begin(spawn func(func()) bool, now time.Time) {
	if e.name == "" {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.startLocked(context.Background(), spawn, now)
}

// startLocked starts a look-up if it is time for one and none runs.
func (e *external) startLocked(ctx context.Context, spawn func(func()) bool, now time.Time) {
	if stale := e.at.IsZero() || now.Sub(e.at) > lookupAgain; !stale || e.running != nil {
		return
	}
	done := make(chan struct{})
	if spawn(func() { e.lookup(context.WithoutCancel(ctx), now, done) }) {
		e.running = done
	}
}

// lookup keeps the old addresses when it fails.
func (e *external) lookup(ctx context.Context, now time.Time, done chan struct{}) {
	defer close(done)
	ctx, cancel := context.WithTimeout(ctx, lookupTimeout)
	defer cancel()
	list, err := e.resolve(ctx, "ip", e.name)
	if err == nil && len(list) == 0 {
		err = errors.New("the name has no address")
	}
	for i := range list {
		list[i] = list[i].Unmap()
	}
	e.tell(err, list, e.store(err, list, now))
}

// store keeps what a look-up has found and returns how the one before it ended.
func (e *external) store(err error, list []netip.Addr, now time.Time) (before error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	before = e.failure
	e.running, e.failure = nil, err
	if err == nil {
		e.found, e.at = list, now
	}
	return before
}

// tell logs the first failure of several, and the first success behind them.
func (e *external) tell(err error, found []netip.Addr, before error) {
	name := zap.String("name", e.name)
	switch {
	case err != nil && before == nil:
		e.log().Warn("the name in external_address can't be looked up: until it can, answers show the addresses found before, if there are any",
			name, zap.Error(err), zap.String("what_to_do", "correct external_address, or the DNS that this machine asks; it is tried again with the next offer"))
	case err == nil && before != nil:
		e.log().Info("the name in external_address is found again", name, zap.Stringers("addresses", found))
	}
}

// missing says why nothing is known of the name; nil if something is.
func (e *external) missing() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	switch {
	case e.name == "" || e.found != nil:
		return nil
	case e.failure != nil:
		return fmt.Errorf("looking up external_address %q: %w", e.name, e.failure)
	default:
		return fmt.Errorf("external_address %q is not looked up yet", e.name)
	}
}
