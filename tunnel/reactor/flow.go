package reactor

import (
	"errors"
	"fmt"
	"net"
	"slices"

	"github.com/culvertgate/culvert/framecodec"
	"github.com/culvertgate/culvert/tunnel"
)

// flowBuffer is what is asked of the kernel for what a target sends, in bytes,
// which is memory only while it lies there. Linux's default of 208 KiB is 277
// small datagrams: 10,000 a second fill it in 28 ms, which a busy machine may take
// to get round to a socket. Most systems give no more than that to anybody
// (net.core.rmem_max).
const flowBuffer = 512 << 10

// adoptFlow makes the Endpoint of a connected UDP socket.
func (r *Reactor) adoptFlow(c *net.UDPConn, prefix []byte, watch chan struct{}) (tunnel.Endpoint, error) {
	var err error
	switch {
	case c.RemoteAddr() == nil:
		err = errors.New("the socket is not connected: anybody's datagrams would come in")
	case len(prefix) > 0:
		err = errors.New("datagrams have no prefix")
	}
	if err != nil {
		_ = c.Close()
		return nil, fmt.Errorf("adopting %T: %w", c, err)
	}
	_ = c.SetReadBuffer(flowBuffer) // what there is will do
	return r.adoptDatagrams(c, watch)
}

// endOfFlow turns what a connected UDP socket tells of its peer (ICMP) into the
// end of the flow, fit for the client. Other errors stay what they are.
func endOfFlow(err error) error {
	switch {
	case isOneOf(err, peerRefused):
		return &tunnel.Error{Code: framecodec.CodeRefused, Text: "nothing listens at the target", Err: err}
	case isOneOf(err, peerUnreachable):
		return &tunnel.Error{Code: framecodec.CodeUnreachable, Text: "the target cannot be reached", Err: err}
	default:
		return err
	}
}

// toldByPeer reports whether an error is news of the peer and not the call's
// own: datagrams may lie behind it.
func toldByPeer(err error) bool { return isOneOf(err, peerRefused) || isOneOf(err, peerUnreachable) }

// costsOneDatagram reports whether an error of sending concerns this datagram
// only: it is too large for the path, a local firewall dropped it, or the system
// has no room. A network loses datagrams too, so the flow goes on.
func costsOneDatagram(err error) bool { return isTooLarge(err) || isOneOf(err, sendDropped) }

// isTooLarge reports whether a datagram was, this one or one that was sent
// earlier and met a narrow link (ICMP "fragmentation needed").
func isTooLarge(err error) bool { return isOneOf(err, tooLarge) }

func isOneOf(err error, list []error) bool {
	return slices.ContainsFunc(list, func(one error) bool { return errors.Is(err, one) })
}
