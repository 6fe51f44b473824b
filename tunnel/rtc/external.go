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

	mu      sync.Mutex
	found   []netip.Addr
	at      time.Time
	running bool
}

// parseExternal reads an address, address:port, name or name:port.
func parseExternal(text string) (*external, error) {
	e := &external{}
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

// addresses returns where the peers find us. Only the first use of a name waits
// for its look-up; wg counts the later ones.
func (e *external) addresses(ctx context.Context, wg *sync.WaitGroup, port uint16, now time.Time) []netip.AddrPort {
	if e.port != 0 {
		port = e.port
	}
	if e.name == "" {
		return []netip.AddrPort{netip.AddrPortFrom(e.addr, port)}
	}
	e.mu.Lock()
	found, stale := e.found, e.at.IsZero() || now.Sub(e.at) > lookupAgain
	start := stale && !e.running
	e.running = e.running || start
	e.mu.Unlock()
	switch {
	case start && found == nil:
		found = e.lookup(ctx, now)
	case start:
		wg.Go(func() { e.lookup(context.WithoutCancel(ctx), now) })
	}
	out := make([]netip.AddrPort, 0, len(found))
	for _, a := range found {
		out = append(out, netip.AddrPortFrom(a, port))
	}
	return out
}

// lookup keeps the old addresses when it fails.
func (e *external) lookup(ctx context.Context, now time.Time) []netip.Addr {
	ctx, cancel := context.WithTimeout(ctx, lookupTimeout)
	defer cancel()
	list, err := net.DefaultResolver.LookupNetIP(ctx, "ip", e.name)
	e.mu.Lock()
	defer e.mu.Unlock()
	e.running = false
	if err != nil || len(list) == 0 {
		return e.found
	}
	for i := range list {
		list[i] = list[i].Unmap()
	}
	e.found, e.at = list, now
	return list
}
