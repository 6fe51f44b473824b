package rtc

import (
	"context"
	"time"

	"github.com/pion/ice/v4"
	"github.com/pion/interceptor"
	"github.com/pion/webrtc/v4"

	"github.com/culvertgate/culvert/tunnel/udp"
)

// minWindow is what may be on its way at least, in bytes: ten packets, what a TCP
// connection begins with (RFC 6928). SCTP's own least is four, and one after a
// time-out (RFC 9260, 7.2.3): with 2 % of loss and 20 ms there and back, datagrams
// at 2 MB/s waited for a window that each loss had halved.
const minWindow = 12_000

// newAPI makes pion's API for peer connections over m: no codecs and no
// interceptors (which cost a quarter of a peer connection's memory and three
// quarters of its idle time), detached channels, nothing of mDNS and TCP.
//
// follow is nil for the controlling side.
//
// Each peer connection has one of its own, for the sake of alive, which ends with
// the peer: its DTLS handshake ends with it too. pion's closing ends a handshake
// only by closing what it reads from, and does not always get there (an endpoint
// that is made just then stays open).
func newAPI(alive context.Context, m *mux, net network, log *loggers, ice_ Timeouts, connect time.Duration, follow *rebinding) *webrtc.API {
	var se webrtc.SettingEngine
	se.LoggerFactory = log
	se.SetNet(net)
	se.SetICEUDPMux(m)
	se.SetICETimeouts(ice_.Disconnected, ice_.Failed, ice_.Keepalive)
	se.SetICEMulticastDNSMode(ice.MulticastDNSModeDisabled)
	se.SetNetworkTypes([]webrtc.NetworkType{webrtc.NetworkTypeUDP4, webrtc.NetworkTypeUDP6})
	se.DisableActiveTCP(true)
	if follow != nil {
		se.SetICEBindingRequestHandler(follow.heard)
	}
	se.DetachDataChannels()
	se.EnableSCTPZeroChecksum(true)
	se.SetSCTPMaxReceiveBufferSize(udp.DefaultBuffer) // more than the socket's buffer would lose bursts
	se.SetSCTPMaxMessageSize(MaxMessage)
	se.SetSCTPRTOMax(3 * time.Second)
	se.SetSCTPMinCwnd(minWindow)
	se.SetDTLSReplayProtectionWindow(1024)
	se.SetDTLSConnectContextMaker(func() (context.Context, func()) {
		return context.WithTimeout(alive, connect)
	})
	// The answering side is the DTLS client: it never serves a ClientHello.
	_ = se.SetAnsweringDTLSRole(webrtc.DTLSRoleClient) // fails for roles that cannot be had only
	return webrtc.NewAPI(
		webrtc.WithSettingEngine(se),
		webrtc.WithMediaEngine(&webrtc.MediaEngine{}),
		webrtc.WithInterceptorRegistry(&interceptor.Registry{}),
	)
}
