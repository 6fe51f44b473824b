package twonets

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/culvertgate/culvert/internal/faultpoint"
	"github.com/culvertgate/culvert/internal/testkit"
)

// panicRow has a goroutine panic, in one of the processes.
type panicRow struct {
	side  string // "gateway" or "client"
	point faultpoint.Point
	// cause has something come to that point, besides the streams that flow; nil:
	// those do. It is called until the point has panicked, and its errors are not
	// looked at: they may be what the panic does.
	cause func(*trial)
	slow  bool // the point is come to every half minute
	alone bool // no stream flows: one would be in the way of the cause
}

func (r panicRow) name() string {
	return fmt.Sprintf("a panic in the %s: %s", r.side, r.point)
}

var panicRows = []panicRow{
	{side: "gateway", point: faultpoint.SessionReceiver},
	{side: "gateway", point: faultpoint.SessionSender},
	{side: "gateway", point: faultpoint.SessionClock},
	{side: "gateway", point: faultpoint.DatagramReceive, cause: causeDatagram},
	{side: "gateway", point: faultpoint.DatagramSend, cause: causeDatagram},
	{side: "gateway", point: faultpoint.Reactor},
	{side: "gateway", point: faultpoint.GatewayOpen, cause: causeOpen},
	{side: "gateway", point: faultpoint.GatewayTunnel, cause: causeTunnel, alone: true},
	{side: "gateway", point: faultpoint.GatewayChannel, cause: causeTunnel, alone: true},
	{side: "gateway", point: faultpoint.GatewayRaw, cause: causeRaw},
	{side: "gateway", point: faultpoint.Mux},
	{side: "gateway", point: faultpoint.Peer, cause: causeTunnel, alone: true},
	{side: "gateway", point: faultpoint.HubClock},
	{side: "gateway", point: faultpoint.Ledger, slow: true},
	{side: "client", point: faultpoint.SessionReceiver},
	{side: "client", point: faultpoint.SessionSender},
	{side: "client", point: faultpoint.SessionClock},
	{side: "client", point: faultpoint.DatagramReceive, cause: causeDatagram},
	{side: "client", point: faultpoint.DatagramSend, cause: causeDatagram},
	{side: "client", point: faultpoint.Reactor},
	{side: "client", point: faultpoint.Mux},
	{side: "client", point: faultpoint.Peer, cause: causeTunnel, alone: true},
	{side: "client", point: faultpoint.HubClock},
	{side: "client", point: faultpoint.EntryStream, cause: causeOpen},
	{side: "client", point: faultpoint.EntryDatagrams, cause: causeDatagram},
	{side: "client", point: faultpoint.Association, cause: causeAssociation},
	{side: "client", point: faultpoint.ClientKeep, cause: causeTunnel, alone: true},
	{side: "client", point: faultpoint.ClientSignal, cause: causeTunnel, alone: true},
}

func init() {
	for _, r := range panicRows {
		faultRows = append(faultRows, faultRow{name: r.name(), world: brokenWorld, slow: r.slow, do: r.do})
	}
}

// do arms the point, has something come to it, and looks at what became of the
// stream that flowed.
func (r panicRow) do(f *trial) {
	var x *through
	if !r.alone {
		x = f.running()
	}
	process := f.gateway
	if r.side == "client" {
		process = f.client
	}
	fired := f.fired(process, r.point)
	f.armed(process, r.point)
	began := time.Now()
	for f.fired(process, r.point) == fired {
		if time.Since(began) > 2*patience {
			f.t.Fatalf("nothing has come to %s", r.point)
		}
		if r.cause != nil {
			r.cause(f)
		}
		time.Sleep(20 * time.Millisecond) // the point's own pace
	}
	happened := time.Now()
	f.midway()
	f.check(f.works(patience))
	f.seen.recovery = time.Since(happened)
	f.seen.application = "goes on"
	if x == nil {
		return
	}
	// Whatever ends it has ended it by now, or will when it carries something.
	if testkit.WaitFor(time.Second, func() error {
		if x.up.ended.Load() == nil || x.down.ended.Load() == nil {
			return errors.New("it lives")
		}
		return nil
	}) == nil {
		f.seen.application = f.broken(x, patience)
		return
	}
	f.unharmed(x)
}

// armed has the next goroutine that comes to a point panic.
func (f *trial) armed(c *testkit.Caddy, point faultpoint.Point) {
	f.t.Helper()
	ctx, cancel := context.WithTimeout(f.t.Context(), patience)
	defer cancel()
	status, text, err := c.Do(ctx, http.MethodPost, "/webrtc_tunnel_faults/panics/"+string(point), "", "")
	f.check(err)
	if status != http.StatusNoContent {
		f.t.Fatalf("arming %s: %d %s", point, status, text)
	}
}

// fired is how often a point has panicked.
func (f *trial) fired(c *testkit.Caddy, point faultpoint.Point) int {
	f.t.Helper()
	ctx, cancel := context.WithTimeout(f.t.Context(), patience)
	defer cancel()
	text, err := c.Get(ctx, "/webrtc_tunnel_faults/panics/"+string(point))
	n := 0
	f.check(err, json.Unmarshal([]byte(text), &n))
	return n
}

func causeOpen(f *trial) {
	if x, err := f.open(2 * time.Second); err == nil {
		x.drop()
	}
}

// causeDatagram asks for a name through the tunnel.
func causeDatagram(f *trial) {
	c, err := f.near.DialContext(f.t.Context(), "udp", fmt.Sprintf("127.0.0.1:%d", dnsPort))
	f.check(err)
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(500 * time.Millisecond))
	_, _ = c.Write(f.query())
	_, _ = c.Read(make([]byte, 512))
}

// query is one for an address.
func (f *trial) query() []byte {
	f.t.Helper()
	m := dnsmessage.Message{Header: dnsmessage.Header{ID: 7}, Questions: []dnsmessage.Question{{
		Name: dnsmessage.MustNewName("any.lan.example."), Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET,
	}}}
	query, err := m.Pack()
	f.check(err)
	return query
}

// causeTunnel ends the client's tunnel and has it make another.
func causeTunnel(f *trial) {
	ctx, cancel := context.WithTimeout(f.t.Context(), patience)
	defer cancel()
	text, err := f.client.Get(ctx, "/webrtc_tunnel/tunnels")
	var list []tunnelInfo
	f.check(err, json.Unmarshal([]byte(text), &list))
	for _, t := range list {
		_, _, err := f.client.Do(ctx, http.MethodDelete, "/webrtc_tunnel/tunnels/"+t.ID, "", "")
		f.check(err)
	}
	causeOpen(f)
}

func causeRaw(f *trial) {
	s := f.stranger("raw:tcp")
	f.closes(s)
	s.close()
}

// causeAssociation sends a datagram through a SOCKS5 association (RFC 1928
// section 7).
func causeAssociation(f *trial) {
	control := f.dialNear(socksEntry)
	defer control.Close()
	_ = control.SetDeadline(time.Now().Add(2 * time.Second))
	var reply [10]byte
	if _, err := control.Write([]byte{5, 1, 0}); err != nil {
		return
	}
	if _, err := io.ReadFull(control, reply[:2]); err != nil {
		return
	}
	if _, err := control.Write([]byte{5, 3, 0, 1, 0, 0, 0, 0, 0, 0}); err != nil {
		return
	}
	if _, err := io.ReadFull(control, reply[:]); err != nil {
		return
	}
	at := netip.AddrPortFrom(netip.AddrFrom4([4]byte(reply[4:])), uint16(reply[8])<<8|uint16(reply[9]))
	c, err := f.near.DialContext(f.t.Context(), "udp", at.String())
	f.check(err)
	defer c.Close()
	header := []byte{0, 0, 0, 1}
	header = append(header, f.host.AsSlice()...)
	_, _ = c.Write(append(append(header, 0, dnsPort), f.query()...))
	_ = c.SetReadDeadline(time.Now().Add(300 * time.Millisecond))
	_, _ = c.Read(make([]byte, 512))
}

// What each panic ends. Who has panicked says internal; a session that has cannot
// be trusted to say a last word, so the other side sees its channel closed.
func init() {
	const (
		session = iota + 1 // the tunnel, without a word
		told               // the tunnel, with one
		stream             // one stream
	)
	ends := map[string]int{
		"gateway session.receiver": session, "gateway session.sender": session, "gateway session.clock": session,
		"gateway datagrams.receive": session, "gateway datagrams.send": session, "gateway gateway.open": told,
		"client session.receiver": session, "client session.sender": session, "client session.clock": session,
		"client datagrams.receive": session, "client datagrams.send": session,
		"gateway reactor": stream, "client reactor": stream,
	}
	for _, r := range panicRows {
		e := expectation{application: "goes on", recovery: 10 * time.Second}
		end := ends[r.side+" "+string(r.point)]
		switch r.point { // where a tunnel, or a raw channel, is not had at the first attempt
		case faultpoint.GatewayTunnel:
			// It depends on how far it was: a stream may have been opened, too.
			e.client, e.gateway = "internal?, tunnel internal?, tunnel tunnel_closed?", "internal?"
		case faultpoint.GatewayChannel:
			e.client, e.gateway = "tunnel tunnel_closed?", "tunnel internal?"
		case faultpoint.Peer: // which event it is, and so how far the tunnel is, is chance
			e.client, e.gateway = "internal?, tunnel internal?", "tunnel_closed?, tunnel tunnel_closed?"
			if r.side == "gateway" {
				e.client, e.gateway = e.gateway, e.client
			}
		case faultpoint.GatewayRaw:
			e.gateway = "internal"
		case faultpoint.ClientKeep:
			e.client = "tunnel internal"
		case faultpoint.ClientSignal: // the tunnel was up, and a stream may have been opened
			e.client, e.gateway = "internal?, tunnel internal?", "internal?"
		default:
		}
		if end != 0 {
			e.application, e.client, e.gateway = sawReset, "internal", "internal"
		}
		switch {
		case end != session:
		case r.side == "gateway":
			e.client = "tunnel_closed"
		default:
			e.gateway = "tunnel_closed"
		}
		expectations[r.name()] = e
	}
}
