package rtc

import (
	"context"
	"time"

	"github.com/pion/ice/v4"
	"github.com/pion/interceptor"
	"github.com/pion/webrtc/v4"

	"github.com/culvertgate/culvert/tunnel/udp"
)

// newAPI makes pion's API for peer connections over m: no codecs and no
// interceptors (which cost a quarter of a peer connection's memory and three
// quarters of its idle time), detached channels, nothing of mDNS and TCP.
func newAPI(m *mux, net network, log *loggers, ice_ Timeouts, connect time.Duration) (*webrtc.API, error) {
	var se webrtc.SettingEngine
	se.LoggerFactory = log
	se.SetNet(net)
	se.SetICEUDPMux(m)
	se.SetICETimeouts(ice_.Disconnected, ice_.Failed, ice_.Keepalive)
	se.SetICEMulticastDNSMode(ice.MulticastDNSModeDisabled)
	se.SetNetworkTypes([]webrtc.NetworkType{webrtc.NetworkTypeUDP4, webrtc.NetworkTypeUDP6})
	se.DisableActiveTCP(true)
	se.DetachDataChannels()
	se.EnableSCTPZeroChecksum(true)
	se.SetSCTPMaxReceiveBufferSize(udp.DefaultBuffer) // more than the socket's buffer would lose bursts
	se.SetSCTPMaxMessageSize(MaxMessage)
	se.SetSCTPRTOMax(3 * time.Second)
	se.SetDTLSReplayProtectionWindow(1024)
	se.SetDTLSConnectContextMaker(func() (context.Context, func()) {
		return context.WithTimeout(context.Background(), connect)
	})
	// The answering side is the DTLS client: it never serves a ClientHello.
	if err := se.SetAnsweringDTLSRole(webrtc.DTLSRoleClient); err != nil {
		return nil, err
	}
	return webrtc.NewAPI(
		webrtc.WithSettingEngine(se),
		webrtc.WithMediaEngine(&webrtc.MediaEngine{}),
		webrtc.WithInterceptorRegistry(&interceptor.Registry{}),
	), nil
}
