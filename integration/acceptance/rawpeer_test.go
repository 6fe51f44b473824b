package acceptance

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/pion/logging"
	"github.com/pion/webrtc/v4"
)

// from returns an HTTP client with an address of this machine as its own.
func from(t testing.TB, address string) *http.Client {
	dialer := &net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(address), 0))}
	transport := &http.Transport{DialContext: dialer.DialContext, MaxIdleConnsPerHost: 256}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: patience}
}

// post sends an offer and returns status and body of the answer.
func post(c *http.Client, url, sdp string) (status int, answer string, err error) {
	resp, err := c.Post(url, "application/sdp", strings.NewReader(sdp))
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(body), err
}

// offerOf writes an offer as browsers make it, with these credentials.
func offerOf(ice webrtc.ICEParameters, fingerprint string) string {
	return strings.Join([]string{
		"v=0", "o=- 4611731400430051336 2 IN IP4 127.0.0.1", "s=-", "t=0 0", "a=group:BUNDLE 0",
		"m=application 9 UDP/DTLS/SCTP webrtc-datachannel", "c=IN IP4 0.0.0.0",
		"a=ice-ufrag:" + ice.UsernameFragment, "a=ice-pwd:" + ice.Password, "a=ice-options:trickle",
		"a=fingerprint:sha-256 " + fingerprint, "a=setup:actpass", "a=mid:0",
		"a=sctp-port:5000", "a=max-message-size:65536", "",
	}, "\r\n")
}

// anyFingerprint is well-formed and nobody's.
var anyFingerprint = strings.TrimSuffix(strings.Repeat("AB:", 32), ":")

// anyOffer is an offer whose sender never does anything more.
func anyOffer() string {
	return offerOf(webrtc.ICEParameters{UsernameFragment: rand.Text()[:8], Password: rand.Text()}, anyFingerprint)
}

// rawPeer is a peer that goes a part of the way to a tunnel, with nothing of
// ours in it.
type rawPeer struct {
	api      *webrtc.API
	gatherer *webrtc.ICEGatherer
	ice      *webrtc.ICETransport
	dtls     *webrtc.DTLSTransport
}

func newRawAPI() *webrtc.API {
	quiet := logging.NewDefaultLoggerFactory()
	quiet.DefaultLogLevel = logging.LogLevelDisabled
	var settings webrtc.SettingEngine
	settings.LoggerFactory = quiet
	settings.SetIncludeLoopbackCandidate(true)
	settings.SetIPFilter(func(ip net.IP) bool { return ip.IsLoopback() && ip.To4() != nil })
	return webrtc.NewAPI(webrtc.WithSettingEngine(settings))
}

// startRawPeer offers from a client and connects ICE with the gateway at udp;
// with dtls, also DTLS. Close it.
func startRawPeer(ctx context.Context, c *http.Client, url string, udp netip.AddrPort, withDTLS bool) (*rawPeer, error) {
	p := &rawPeer{api: newRawAPI()}
	err := p.connect(ctx, c, url, udp, withDTLS)
	if err != nil {
		return nil, errors.Join(err, p.close())
	}
	return p, nil
}

func (p *rawPeer) connect(ctx context.Context, c *http.Client, url string, udp netip.AddrPort, withDTLS bool) (err error) {
	if p.gatherer, err = p.api.NewICEGatherer(webrtc.ICEGatherOptions{}); err != nil {
		return err
	}
	p.ice = p.api.NewICETransport(p.gatherer)
	if p.dtls, err = p.api.NewDTLSTransport(p.ice, nil); err != nil {
		return err
	}
	gathered := make(chan struct{})
	p.gatherer.OnLocalCandidate(func(found *webrtc.ICECandidate) {
		if found == nil {
			close(gathered)
		}
	})
	if err := p.gatherer.Gather(); err != nil {
		return err
	}
	<-gathered
	mine, err := p.gatherer.GetLocalParameters()
	if err != nil {
		return err
	}
	own, err := p.dtls.GetLocalParameters()
	if err != nil {
		return err
	}
	status, answer, err := post(c, url, offerOf(mine, own.Fingerprints[0].Value))
	if err != nil || status != http.StatusCreated {
		return fmt.Errorf("offer: %d %s %w", status, answer, err)
	}
	return p.follow(ctx, answer, udp, withDTLS)
}

var fingerprintLine = regexp.MustCompile(`(?m)^a=fingerprint:sha-256 (\S+)`)

// follow does what the answer says.
func (p *rawPeer) follow(ctx context.Context, answer string, udp netip.AddrPort, withDTLS bool) error {
	value := func(line *regexp.Regexp) string {
		if m := line.FindStringSubmatch(answer); m != nil {
			return m[1]
		}
		return ""
	}
	if err := p.ice.AddRemoteCandidate(&webrtc.ICECandidate{
		Foundation: "1", Priority: 1 << 30, Address: udp.Addr().String(), Port: udp.Port(),
		Protocol: webrtc.ICEProtocolUDP, Typ: webrtc.ICECandidateTypeHost, Component: 1,
	}); err != nil {
		return err
	}
	controlling := webrtc.ICERoleControlling
	started := make(chan error, 1)
	go func() {
		err := p.ice.Start(nil, webrtc.ICEParameters{UsernameFragment: value(ufragLine), Password: value(pwdLine)}, &controlling)
		if err == nil && withDTLS {
			err = p.dtls.Start(webrtc.DTLSParameters{
				Role:         webrtc.DTLSRoleClient, // the gateway's: its answer says setup:active
				Fingerprints: []webrtc.DTLSFingerprint{{Algorithm: "sha-256", Value: value(fingerprintLine)}},
			})
		}
		started <- err
	}()
	select {
	case err := <-started:
		return err
	case <-ctx.Done():
		return errors.Join(ctx.Err(), p.close(), <-started)
	}
}

func (p *rawPeer) close() error {
	var errs []error
	if p.dtls != nil {
		errs = append(errs, p.dtls.Stop())
	}
	if p.ice != nil {
		errs = append(errs, p.ice.Stop())
	}
	if p.gatherer != nil {
		errs = append(errs, p.gatherer.Close())
	}
	return errors.Join(errs...)
}

// startSilentPeer goes as far as an open data channel and never says Hello. With
// a nil error close it.
func startSilentPeer(ctx context.Context, c *http.Client, url string) (*webrtc.PeerConnection, error) {
	pc, err := newRawAPI().NewPeerConnection(webrtc.Configuration{})
	if err != nil {
		return nil, err
	}
	if err := offerChannel(ctx, pc, c, url); err != nil {
		return nil, errors.Join(err, pc.GracefulClose())
	}
	return pc, nil
}

func offerChannel(ctx context.Context, pc *webrtc.PeerConnection, c *http.Client, url string) error {
	protocol := "culvert.2"
	channel, err := pc.CreateDataChannel("silent", &webrtc.DataChannelInit{Protocol: &protocol})
	if err != nil {
		return err
	}
	opened := make(chan struct{})
	channel.OnOpen(func() { close(opened) })
	offer, err := pc.CreateOffer(nil)
	if err != nil {
		return err
	}
	gathered := webrtc.GatheringCompletePromise(pc)
	if err := pc.SetLocalDescription(offer); err != nil {
		return err
	}
	<-gathered
	status, answer, err := post(c, url, pc.LocalDescription().SDP)
	if err != nil || status != http.StatusCreated {
		return fmt.Errorf("offer: %d %s %w", status, answer, err)
	}
	if err := pc.SetRemoteDescription(webrtc.SessionDescription{Type: webrtc.SDPTypeAnswer, SDP: answer}); err != nil {
		return err
	}
	select {
	case <-opened:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(patience):
		return errors.New("the channel does not open")
	}
}
