package testkit

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// CableConfig says what a Cable is in the beginning.
type CableConfig struct {
	Path   Path   // of both directions
	Return *Path  // of the direction from the other end to the first; nil: Path
	MTU    int    // of the interfaces; 0: 1500
	Seed   uint64 // of all that is random
}

// Cable joins two namespaces by interfaces whose packets, IPv4 and IPv6, pass
// this process: late, not all, in another order, as its Paths say and while they
// change. It keeps time to about 0.1 ms on a machine that is not busy.
//
// Ends are named near (the namespace whose OpenCable it was) and far. All
// methods are safe for concurrent use.
//
// Goroutines: one a direction, each with a thread of its own, until Close.
type Cable struct {
	name      string
	near, far cableEnd
	there     *cableDirection // near to far
	back      *cableDirection // far to near
	nat       translator

	closing  sync.Once
	closeErr error
}

// cableEnd is an interface.
type cableEnd struct {
	in     *Namespace
	device *os.File
	v4, v6 netip.Addr
}

// cableDirection is a line with a clock and devices.
type cableDirection struct {
	mu      sync.Mutex
	line    *line // guarded by mu
	begin   time.Time
	wake    *os.File // something has changed
	stopped atomic.Bool
	done    chan struct{}
	err     error // why it ended before Close; read after done
}

var cables atomic.Uint32

// OpenCable joins n, the near end, to far. Between the same two there may be
// several.
func (n *Namespace) OpenCable(far *Namespace, cfg CableConfig) (*Cable, error) {
	number := cables.Add(1)
	if number > 0xff {
		return nil, errors.New("one process lays at most 255 cables")
	}
	if cfg.MTU == 0 {
		cfg.MTU = 1500
	}
	c := &Cable{name: fmt.Sprintf("cable%d", number)}
	end := func(in *Namespace, host byte) cableEnd {
		v6 := [16]byte{0: 0xfd, 1: 0xcb, 2: 0x20, 3: 0x60, 5: byte(number), 15: host}
		return cableEnd{in: in, v4: netip.AddrFrom4([4]byte{10, 206, byte(number), host}), v6: netip.AddrFrom16(v6)}
	}
	c.near, c.far = end(n, 1), end(far, 2)
	for _, e := range []*cableEnd{&c.near, &c.far} {
		if err := e.open(c.name, cfg.MTU); err != nil {
			return nil, errors.Join(fmt.Errorf("laying a cable: %w", err), c.closeDevices())
		}
	}
	there, back := cfg.Path, cfg.Path
	if cfg.Return != nil {
		back = *cfg.Return
	}
	var errs [2]error
	out, in := newLine(cfg.Seed, 0), newLine(cfg.Seed, 1)
	out.nat, in.nat, in.inward = &c.nat, &c.nat, true
	c.there, errs[0] = startDirection(out, there, c.near.device, c.far.device, cfg.MTU)
	c.back, errs[1] = startDirection(in, back, c.far.device, c.near.device, cfg.MTU)
	if err := errors.Join(errs[:]...); err != nil {
		return nil, errors.Join(fmt.Errorf("laying a cable: %w", err), c.Close())
	}
	return c, nil
}

// NewCable is OpenCable for a test. That it worked to the end is checked.
func NewCable(t testing.TB, near, far *Namespace, cfg CableConfig) *Cable {
	t.Helper()
	c, err := near.OpenCable(far, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			there, back := c.Packets()
			t.Logf("%s: there %+v, back %+v", c.name, there, back)
		}
	})
	return c
}

// open makes the interface.
func (e *cableEnd) open(name string, mtu int) error {
	err := e.in.Do(func() (err error) {
		if e.device, err = openTUN(name); err != nil {
			return err
		}
		// The kernel is not to ask for routers: packets that nobody sent would use
		// the random numbers of those that are tested.
		return os.WriteFile("/proc/sys/net/ipv6/conf/"+name+"/accept_ra", []byte("0"), 0o644)
	})
	if err != nil {
		return err
	}
	steps := []string{
		fmt.Sprintf("link set %s addrgenmode none mtu %d txqueuelen 10000 up", name, mtu),
		fmt.Sprintf("addr add %s/24 dev %s", e.v4, name),
	}
	if mtu >= 1280 { // else there is no IPv6
		steps = append(steps, fmt.Sprintf("addr add %s/64 dev %s nodad", e.v6, name))
	}
	for _, args := range steps {
		if err := e.in.ip(args); err != nil {
			return err
		}
	}
	return nil
}

// Near returns the IPv4 address of the near end.
func (c *Cable) Near() netip.Addr { return c.near.v4 }

// Far returns the IPv4 address of the far end.
func (c *Cable) Far() netip.Addr { return c.far.v4 }

// Near6 returns the IPv6 address of the near end; with an MTU below 1280 there
// is none.
func (c *Cable) Near6() netip.Addr { return c.near.v6 }

// Far6 returns the IPv6 address of the far end; with an MTU below 1280 there is
// none.
func (c *Cable) Far6() netip.Addr { return c.far.v6 }

// RouteNear sends what the near namespace has for prefix through the cable.
func (c *Cable) RouteNear(prefix netip.Prefix) error {
	return c.near.in.ip("route add " + prefix.String() + " dev " + c.name)
}

// RouteFar sends what the far namespace has for prefix through the cable.
func (c *Cable) RouteFar(prefix netip.Prefix) error {
	return c.far.in.ip("route add " + prefix.String() + " dev " + c.name)
}

// Set changes both directions for the packets that come from now on.
func (c *Cable) Set(p Path) { c.SetEach(p, p) }

// SetEach is Set with a Path of its own for each direction.
func (c *Cable) SetEach(there, back Path) {
	c.there.do(func(l *line) { l.set(there) })
	c.back.do(func(l *line) { l.set(back) })
}

// Cut loses packets in both directions until the next call; Cut(CutNothing)
// heals. What is on its way already arrives.
func (c *Cable) Cut(what Cutting) { c.CutEach(what, what) }

// CutEach is Cut with what is lost in each direction.
func (c *Cable) CutEach(there, back Cutting) {
	c.there.do(func(l *line) { l.cut = there })
	c.back.do(func(l *line) { l.cut = back })
}

// Heal ends a cut.
func (c *Cable) Heal() { c.Cut(CutNothing) }

// Rebind puts the near end behind a NAT for UDP over IPv4, or has the one that it
// is behind forget all it knows, as home routers do when they restart or are short
// of memory: what comes to the old ports is lost, what leaves from now on comes
// from other ones, and from the address that ends with host (in the cable's
// network; 3 to 254).
func (c *Cable) Rebind(host byte) {
	outside := c.near.v4.As4()
	outside[3] = host
	c.nat.rebind(c.near.v4, netip.AddrFrom4(outside))
}

// Packets counts what came from the near end and from the far one.
func (c *Cable) Packets() (there, back Packets) {
	c.there.do(func(l *line) { there = l.counts })
	c.back.do(func(l *line) { back = l.counts })
	return there, back
}

// Close takes the cable away; what is on its way is lost. It reports what has
// gone wrong before.
func (c *Cable) Close() error {
	c.closing.Do(func() {
		c.closeErr = errors.Join(c.there.stop(), c.back.stop(), c.closeDevices())
	})
	return c.closeErr
}

func (c *Cable) closeDevices() error {
	var errs []error
	for _, e := range []cableEnd{c.near, c.far} {
		if e.device != nil {
			errs = append(errs, e.device.Close())
		}
	}
	return errors.Join(errs...)
}

func startDirection(l *line, p Path, from, to *os.File, mtu int) (*cableDirection, error) {
	l.set(p)
	wake, err := openWake()
	if err != nil {
		return nil, err
	}
	d := &cableDirection{line: l, begin: time.Now(), wake: wake, done: make(chan struct{})}
	go func() {
		defer close(d.done)
		d.err = d.pump(from, to, mtu)
	}()
	return d, nil
}

func (d *cableDirection) now() time.Duration { return time.Since(d.begin) }

// do looks at or changes the line.
func (d *cableDirection) do(f func(*line)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	f(d.line)
}

func (d *cableDirection) stop() error {
	if d == nil {
		return nil
	}
	d.stopped.Store(true)
	err := ring(d.wake)
	<-d.done
	return errors.Join(err, d.err, d.wake.Close())
}
