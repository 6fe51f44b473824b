package culvert

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/dustin/go-humanize"
	"golang.org/x/time/rate"

	"github.com/culvertgate/culvert/framecodec"
	"github.com/culvertgate/culvert/tunnel"
)

// maxForwarded is how many flows all forwards of datagrams of a command have at a
// time: a quarter of the streams that a tunnel may have by default, so that clients of
// one forward leave room for the others, and for connections.
const maxForwarded = 1024

// datagramForward is a local UDP socket and a flow for each address that sends to
// it. One goroutine reads the socket and waits for no flow. It ends with stop.
type datagramForward struct {
	console *console
	socket  *net.UDPConn
	target  tunnel.Target
	room    flowRoom                  // of all forwards of the command
	flows   flowTable[netip.AddrPort] // by client
	wg      sync.WaitGroup
	refused rate.Sometimes // a client may send for ever, from one port after the other
	full    rate.Sometimes
}

// listenDatagrams opens the socket of a forward, which shares room with others;
// serve serves it.
func listenDatagrams(console *console, f forward, room flowRoom) (*datagramForward, error) {
	socket, err := f.listenUDP()
	if err != nil {
		return nil, err
	}
	return &datagramForward{
		console: console, socket: socket, target: f.target, room: room,
		refused: rate.Sometimes{First: 3, Interval: 10 * time.Second}, full: rate.Sometimes{Interval: time.Minute},
	}, nil
}

// serve begins to carry datagrams, with flows of o.
func (d *datagramForward) serve(o opener) {
	d.flows = flowTable[netip.AddrPort]{
		room: d.room,
		open: func(ctx context.Context, target tunnel.Target, ep tunnel.Endpoint) error {
			ctx, cancel := context.WithTimeout(ctx, openTime)
			defer cancel()
			_, err := o.OpenEndpoint(ctx, target, ep)
			return err
		},
		failed: d.failed,
		guard:  func(f func()) { f() }, // a panic ends the command, as any other of its goroutines'
	}
	d.flows.init()
	d.wg.Go(d.receive)
}

// receive reads the socket until it is closed, and hands each datagram to its flow.
func (d *datagramForward) receive() {
	for buf := make([]byte, 65536); ; { // more than fits: what is cut off would go unnoticed
		n, from, err := d.socket.ReadFromUDPAddrPort(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil { // an ICMP error of an earlier answer (Windows), or no memory: there is more to read
			pause(d.flows.ctx, time.Millisecond)
			continue
		}
		if conn := d.flow(from); conn != nil {
			_, _ = conn.Write(buf[:n]) // a flow that has ended: the loss of one datagram
		}
	}
}

// flow returns the flow of a client, opening one if there is none and room for it.
func (d *datagramForward) flow(from netip.AddrPort) *tunnel.DatagramConn {
	if conn := d.flows.find(from); conn != nil {
		return conn
	}
	conn := d.flows.add(from, d.target, func(p []byte) { _, _ = d.socket.WriteToUDPAddrPort(p, from) })
	if conn == nil && d.flows.ctx.Err() == nil {
		d.full.Do(func() {
			d.console.say("udp/%s: %s clients of forwards have flows, which is the most: datagrams of others are dropped until one ends (--udp-idle says when)",
				d.socket.LocalAddr(), humanize.Comma(maxForwarded))
		})
	}
	return conn
}

func (d *datagramForward) failed(from netip.AddrPort, target tunnel.Target, err error) {
	if tunnel.CodeOf(err) == framecodec.CodeCancelled {
		return
	}
	d.refused.Do(func() {
		d.console.say("udp/%s: no flow to %s: %v", netip.AddrPortFrom(from.Addr().Unmap(), from.Port()), target, err)
	})
}

// stop ends the flows and closes the socket. Nobody can tell whether a flow has
// finished, so none is waited for. It may be called again, and without serve.
func (d *datagramForward) stop() {
	_ = d.socket.Close()
	if d.flows.cancel != nil {
		d.flows.close()
	}
	d.wg.Wait()
}
