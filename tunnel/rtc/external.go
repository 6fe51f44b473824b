package rtc

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	lookupAgain   = time.Minute     // age at which a looked-up external address is looked up again
	lookupTimeout = 3 * time.Second // of one look-up
)

// external is one `external_address`: a literal, or a name that is looked up
// when an answer needs it and again, beside the answers, every minute.
type external struct {
	addr netip.Addr // valid for a literal
	name string
	port uint16 // 0: that of the socket

	resolve func(ctx context.Context, network, host string) ([]netip.Addr, error) // of the system, but in tests

	mu      sync.Mutex
	found   []netip.Addr
	at      time.Time
	running chan struct{} // closed at the end of the look-up in progress, nil if there is none
}

// parseExternal reads an address, address:port, name or name:port.
func parseExternal(text string) (*external, error) {
	e := &external{resolve: net.DefaultResolver.LookupNetIP}
	if a, err := netip.ParseAddr(strings.Trim(text, "[]")); err == nil {
		e.addr = a.Unmap()
	} else {
		host := text
		if h, port, err := net.SplitHostPort(text); err == nil {
			host = h
			n, err := strconv.ParseUint(port, 10, 16)
			if err != nil || n == 0 {
				return nil, fmt.Errorf("external_address %q: the port is a number from 1 to 65535", text)
			}
			e.port = uint16(n)
		}
		if a, err := netip.ParseAddr(host); err == nil {
			e.addr = a.Unmap()
		} else if e.name = host; host == "" || strings.ContainsAny(host, "/ :") {
			return nil, fmt.Errorf("external_address %q is neither an address nor a name", text)
		}
	}
	if e.addr.IsUnspecified() || e.addr.IsMulticast() || e.addr.Zone() != "" {
		return nil, fmt.Errorf("external_address %q cannot be reached by anybody", text)
	}
	return e, nil
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
	if stale := e.at.IsZero() || now.Sub(e.at) > lookupAgain; stale && e.running == nil {
		done := make(chan struct{})
		if spawn(func() { e.lookup(context.WithoutCancel(ctx), now, done) }) {
			e.running = done
		}
	}
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

// lookup keeps the old addresses when it fails.
func (e *external) lookup(ctx context.Context, now time.Time, done chan struct{}) {
	defer close(done)
	ctx, cancel := context.WithTimeout(ctx, lookupTimeout)
	defer cancel()
	list, err := e.resolve(ctx, "ip", e.name)
	e.mu.Lock()
	defer e.mu.Unlock()
	e.running = nil
	if err != nil || len(list) == 0 {
		return
	}
	for i := range list {
		list[i] = list[i].Unmap()
	}
	e.found, e.at = list, now
}
