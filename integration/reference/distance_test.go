package reference

import (
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"sync"
	"testing"
	"time"

	"github.com/culvertgate/culvert/internal/testkit"
)

// delay is how long a packet takes from one end of a distance to the other.
const delay = 2 * time.Millisecond

// distance is a stretch of network between the wheel and our gateway. The
// reference loses an answer that arrives before it has noted down its own
// question: its client then waits for ever. That needs an answer within some
// 100 microseconds, which only peers on one machine give.
type distance struct {
	addr    netip.AddrPort // what the wheel sends to
	near    *net.UDPConn   // faces the wheel
	far     *net.UDPConn   // faces the gateway
	gateway netip.AddrPort
	running sync.WaitGroup

	mu    sync.Mutex
	wheel netip.AddrPort // where the wheel's last packet came from; guarded by mu
}

// packet is one on its way.
type packet struct {
	data []byte
	due  time.Time
}

// startDistance puts a distance in front of a gateway's UDP address until the
// test ends.
func startDistance(t testing.TB, n *testkit.Namespace, gateway netip.AddrPort) *distance {
	t.Helper()
	listen := func() *net.UDPConn {
		c := must[net.PacketConn](t)(n.ListenPacket("udp4", netip.AddrPortFrom(n.Addr(), 0).String())).(*net.UDPConn)
		check(t, c.SetReadBuffer(1<<20))
		return c
	}
	d := &distance{near: listen(), far: listen(), gateway: gateway}
	d.addr = d.near.LocalAddr().(*net.UDPAddr).AddrPort()
	d.carry(d.near, func(from netip.AddrPort) { d.setWheel(from) }, d.far, func() netip.AddrPort { return gateway })
	d.carry(d.far, func(netip.AddrPort) {}, d.near, d.wheelAddr)
	t.Cleanup(func() {
		check(t, d.near.Close(), d.far.Close())
		d.running.Wait()
	})
	return d
}

// carry moves packets one way until its sockets are closed.
func (d *distance) carry(in *net.UDPConn, heard func(netip.AddrPort), out *net.UDPConn, to func() netip.AddrPort) {
	way := make(chan packet, 4096)
	d.running.Go(func() {
		defer close(way)
		buf := make([]byte, 2048)
		for {
			n, from, err := in.ReadFromUDPAddrPort(buf)
			if err != nil {
				return
			}
			heard(from)
			way <- packet{append([]byte(nil), buf[:n]...), time.Now().Add(delay)}
		}
	})
	d.running.Go(func() {
		for p := range way {
			time.Sleep(time.Until(p.due))
			_, _ = out.WriteToUDPAddrPort(p.data, to()) // as lossy as UDP is
		}
	})
}

func (d *distance) setWheel(from netip.AddrPort) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.wheel = from
}

func (d *distance) wheelAddr() netip.AddrPort {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.wheel
}

// candidateLine is a candidate of a session description.
var candidateLine = regexp.MustCompile(`a=candidate:.*\r\n`)

// hideOffer takes the wheel's addresses out, so that the gateway answers only
// what comes over the distance.
func (d *distance) hideOffer(sdp string) string { return candidateLine.ReplaceAllString(sdp, "") }

// moveAnswer puts the distance's address in place of the gateway's.
func (d *distance) moveAnswer(sdp string) string {
	here := fmt.Sprintf("a=candidate:1 1 udp 2130706431 %s %d typ host\r\n", d.addr.Addr(), d.addr.Port())
	first := true
	return candidateLine.ReplaceAllStringFunc(sdp, func(string) string {
		if !first {
			return ""
		}
		first = false
		return here
	})
}
