package rtc

import (
	"bytes"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/culvertgate/culvert/tunnel/udp"
)

// cable is a UDP path between a client and a gateway that can be cut. The
// gateway sees one address of it for all clients, so it is for one client.
type cable struct {
	front     *net.UDPConn                // towards the client
	back      atomic.Pointer[net.UDPConn] // towards the gateway
	gateway   netip.AddrPort
	client    atomic.Pointer[netip.AddrPort]
	check     atomic.Pointer[[]byte] // the client's last one
	cut, mute atomic.Bool            // nothing passes; only STUN does
	moveTo    func(port int)         // has the gateway see another port from now on, as a NAT does that has forgotten; 0: a new one
	wg        sync.WaitGroup
}

func newCable(t *testing.T, gateway netip.AddrPort) *cable {
	t.Helper()
	open := func(port int) *net.UDPConn {
		c, err := net.ListenUDP("udp4", &net.UDPAddr{IP: home, Port: port})
		if err != nil {
			t.Fatal(err)
		}
		_ = c.SetReadBuffer(4 << 20)
		return c
	}
	c := &cable{front: open(0), gateway: gateway}
	c.moveTo = func(port int) {
		back := open(port)
		if old := c.back.Swap(back); old != nil {
			_ = old.Close()
		}
		c.wg.Go(func() {
			pump(back, func(p []byte, _ netip.AddrPort) {
				if to := c.client.Load(); to != nil && c.passes(p) {
					_, _ = c.front.WriteToUDPAddrPort(p, *to)
				}
			})
		})
	}
	c.moveTo(0)
	c.wg.Go(func() {
		pump(c.front, func(p []byte, from netip.AddrPort) {
			c.client.Store(&from)
			if udp.IsSTUN(p) && p[0] == 0 && p[1] == 1 { // a binding request
				check := bytes.Clone(p)
				c.check.Store(&check)
			}
			if c.passes(p) {
				_, _ = c.back.Load().WriteToUDPAddrPort(p, c.gateway)
			}
		})
	})
	t.Cleanup(func() {
		_ = c.front.Close()
		_ = c.back.Load().Close()
		c.wg.Wait()
	})
	return c
}

// rebind has the gateway see a new port.
func (c *cable) rebind() { c.moveTo(0) }

// port is what the gateway sees now.
func (c *cable) port() int { return c.back.Load().LocalAddr().(*net.UDPAddr).Port }

func (c *cable) passes(p []byte) bool {
	return !c.cut.Load() && (udp.IsSTUN(p) || !c.mute.Load())
}

func pump(conn *net.UDPConn, f func([]byte, netip.AddrPort)) {
	buf := make([]byte, 4096)
	for {
		n, from, err := conn.ReadFromUDPAddrPort(buf)
		if err != nil {
			return
		}
		f(buf[:n], from)
	}
}

// route has text, an answer or fragment, lead through the cable.
func (c *cable) route(text string) string {
	front := c.front.LocalAddr().(*net.UDPAddr).Port
	return strings.ReplaceAll(text, " "+strconv.Itoa(int(c.gateway.Port()))+" typ host", " "+strconv.Itoa(front)+" typ host")
}
