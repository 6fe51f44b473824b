package policy

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"time"

	proxyproto "github.com/pires/go-proxyproto"

	"github.com/culvertgate/culvert/framecodec"
	"github.com/culvertgate/culvert/tunnel"
)

// parseProxyProtocol returns the version that a target wants; 0: none.
func parseProxyProtocol(text string, kind tunnel.Kind) (byte, error) {
	switch {
	case text == "":
		return 0, nil
	case text != "v1" && text != "v2":
		return 0, fmt.Errorf("proxy_protocol %q: write v1 or v2", text)
	case isFlow(kind):
		return 0, fmt.Errorf("proxy_protocol %s is for streams: a datagram target has none, take it away", text)
	case text == "v1":
		return 1, nil
	default:
		return 2, nil
	}
}

// announce writes the header of the PROXY protocol to a new connection, within
// the time of ctx. With an error the connection is closed.
func announce(ctx context.Context, c net.Conn, version byte, source netip.Addr, a Address) error {
	header, err := proxyHeader(version, source, a)
	if err != nil {
		_ = c.Close() // nothing was sent
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = c.SetWriteDeadline(time.Unix(1, 0)) }) // closed already is as good
	_, err = c.Write(header)
	switch inTime := stop(); {
	case err == nil && inTime:
		return nil
	case !inTime:
		err = ctx.Err()
	default: // it had accepted, and has reset since
		err = codeError(framecodec.CodeRefused, fmt.Errorf("writing the PROXY header: %w", err))
	}
	_ = c.Close()
	return err
}

// proxyHeader tells who the client is and what was dialled for it. The client's
// port is not known: 0. A unix socket has no address that the header could hold
// beside the client's, so there it is the unspecified one. Without a client's
// address the header says that nothing is known (v1 UNKNOWN, v2 LOCAL).
func proxyHeader(version byte, source netip.Addr, a Address) ([]byte, error) {
	if !source.IsValid() {
		return proxyproto.HeaderProxyFromAddrs(version, nil, nil).Format()
	}
	source = unmap(source)
	to := a.AddrPort()
	if a.Path != "" {
		to = netip.AddrPortFrom(netip.IPv4Unspecified(), 0)
		if source.Is6() {
			to = netip.AddrPortFrom(netip.IPv6Unspecified(), 0)
		}
	}
	from := net.TCPAddrFromAddrPort(netip.AddrPortFrom(source, 0))
	return proxyproto.HeaderProxyFromAddrs(version, from, net.TCPAddrFromAddrPort(to)).Format()
}
