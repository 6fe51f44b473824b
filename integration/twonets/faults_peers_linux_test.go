package twonets

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/pion/dtls/v3"
	"github.com/pion/dtls/v3/pkg/crypto/selfsign"
	dtlsnet "github.com/pion/dtls/v3/pkg/net"
	"github.com/pion/ice/v4"
	"github.com/pion/interceptor"
	"github.com/pion/logging"
	"github.com/pion/webrtc/v4"

	"github.com/culvertgate/culvert/framecodec"
	"github.com/culvertgate/culvert/internal/testkit"
)

// stranger is a client of plain pion, which can do what ours never would.
type stranger struct {
	pc       *webrtc.PeerConnection
	channel  *webrtc.DataChannel
	opened   chan struct{}
	closed   chan struct{}
	messages chan []byte
	mu       sync.Mutex
	word     uint64 // of the next control frame; guarded by mu
	close    func()
}

// quietLogs are pion's when it is meant to fail.
func quietLogs() *logging.DefaultLoggerFactory {
	quiet := logging.NewDefaultLoggerFactory()
	quiet.DefaultLogLevel = logging.LogLevelDisabled
	return quiet
}

// stranger connects one with an ordered channel of a protocol; what it gets goes
// to messages, and waits there.
func (f *trial) stranger(protocol string) *stranger {
	f.t.Helper()
	socket, err := f.near.ListenPacket("udp4", netip.AddrPortFrom(f.cable.Near(), 0).String())
	f.check(err)
	mux := webrtc.NewICEUDPMux(quietLogs().NewLogger("mux"), socket)
	var se webrtc.SettingEngine
	se.LoggerFactory = quietLogs()
	se.SetICEUDPMux(mux)
	se.SetICEMulticastDNSMode(ice.MulticastDNSModeDisabled)
	api := webrtc.NewAPI(webrtc.WithSettingEngine(se), webrtc.WithMediaEngine(&webrtc.MediaEngine{}), webrtc.WithInterceptorRegistry(&interceptor.Registry{}))
	s := &stranger{opened: make(chan struct{}), closed: make(chan struct{}), messages: make(chan []byte)}
	s.pc, err = api.NewPeerConnection(webrtc.Configuration{})
	f.check(err)
	over := make(chan struct{})
	s.close = sync.OnceFunc(func() {
		close(over)
		_ = s.pc.GracefulClose()
		_ = mux.Close()
	})
	f.t.Cleanup(s.close)
	s.channel, err = s.pc.CreateDataChannel("stranger", &webrtc.DataChannelInit{Protocol: &protocol})
	f.check(err)
	s.channel.OnOpen(func() { close(s.opened) })
	s.channel.OnClose(sync.OnceFunc(func() { close(s.closed) }))
	s.channel.OnMessage(func(m webrtc.DataChannelMessage) {
		select {
		case s.messages <- m.Data:
		case <-over:
		}
	})
	offer, err := s.pc.CreateOffer(nil)
	f.check(err)
	gathered := webrtc.GatheringCompletePromise(s.pc)
	f.check(s.pc.SetLocalDescription(offer))
	<-gathered
	answer := f.answerTo(s.pc.LocalDescription().SDP)
	f.check(s.pc.SetRemoteDescription(webrtc.SessionDescription{Type: webrtc.SDPTypeAnswer, SDP: answer}))
	select {
	case <-s.opened:
	case <-time.After(patience):
		f.t.Fatal("a stranger's channel does not open")
	}
	return s
}

// answerTo has the gateway answer an offer.
func (f *trial) answerTo(offer string) string {
	f.t.Helper()
	client := f.offering()
	defer client.CloseIdleConnections() // the gateway holds nothing for them
	status, answer, err := client.post(f.url(), offer)
	f.check(err)
	if status != http.StatusCreated {
		f.t.Fatalf("the offer was answered %d %s", status, answer)
	}
	return answer
}

// control sends a control frame.
func (s *stranger) control(m interface {
	AppendFrame(b []byte, word uint64) []byte
}) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.word++
	return s.channel.Send(m.AppendFrame(nil, s.word-1))
}

// pong answers the pings in a message.
func (s *stranger) pong(message []byte) error {
	for len(message) > 0 {
		frame, n, err := framecodec.ParseFrame(message, framecodec.MaxPayload2)
		if err != nil {
			return err
		}
		message = message[n:]
		if frame.Conn != 0 {
			continue
		}
		kind, data, err := framecodec.ParseControl(frame.Payload)
		if err != nil {
			return err
		}
		if kind != framecodec.MsgPing {
			continue
		}
		ping, err := framecodec.ParsePing(data)
		if err == nil {
			err = s.control(ping.Pong())
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// hello is what a session says first.
var hello = framecodec.Hello{Version: framecodec.Version, MaxPayload: framecodec.MaxPayload2, StreamWindow: 1 << 20, SessionWindow: 1 << 24}

// toTarget opens stream 1 to the client's named target and names its number, in
// frames of so many bytes each.
func (f *trial) toTarget(s *stranger, window uint32, frame int) *arrival {
	f.t.Helper()
	a := &arrival{make(chan *net.TCPConn, 1), make(chan struct{})}
	f.target.mu.Lock()
	f.target.next++
	number := f.target.next
	f.target.waiting[number] = a
	f.target.mu.Unlock()
	f.check(s.control(framecodec.Open{Conn: 1, Kind: framecodec.KindNamed, Window: window, Host: []byte("tcp")}))
	data := binary.BigEndian.AppendUint64(nil, number)
	for i := 0; i < len(data); i += frame {
		f.check(s.channel.Send(framecodec.AppendFrame(nil, 1, uint64(i), data[i:min(i+frame, len(data))])))
	}
	return a
}

// arrived waits for the target's end.
func (f *trial) arrived(a *arrival) *net.TCPConn {
	f.t.Helper()
	select {
	case c := <-a.conn:
		return c
	case <-time.After(patience):
		f.t.Fatal("a stranger's stream does not reach its target")
		return nil
	}
}

// closes waits until the gateway has closed the stranger's channel, and says so.
func (f *trial) closes(s *stranger) string {
	f.t.Helper()
	for {
		select {
		case <-s.messages: // whatever it still says
		case <-s.closed:
			return "its channel is closed"
		case <-time.After(patience):
			return "its channel is open"
		}
	}
}

func silentPeer(f *trial) {
	x := f.running()
	s := f.stranger("culvert.2")
	began := time.Now()
	f.midway()
	f.seen.application = f.closes(s)
	f.seen.recovery = time.Since(began)
	s.close()
	f.unharmed(x)
}

func garbageInFrames(f *trial) {
	x := f.running()
	for round := range 8 {
		s := f.stranger("culvert.2")
		f.check(s.control(hello))
		garbage := make([]byte, 1+round*150)
		_, _ = rand.Read(garbage)
		garbage[0] |= 0x80 // never a stream that it has opened
		began := time.Now()
		for s.channel.ReadyState() == webrtc.DataChannelStateOpen && time.Since(began) < patience {
			if s.channel.Send(garbage) != nil {
				break
			}
			if len(garbage) > 30 { // a frame and more
				break
			}
		}
		if round == 4 {
			f.midway()
		}
		f.seen.application = f.closes(s)
		f.seen.recovery = max(f.seen.recovery, time.Since(began))
		s.close()
	}
	f.unharmed(x)
}

// hugeWindow has a peer grant more than there can be and then take nothing.
func hugeWindow(f *trial) {
	x := f.running()
	s := f.stranger("culvert.2")
	wide := hello
	wide.StreamWindow, wide.SessionWindow = 1<<32-1, 1<<63
	f.check(s.control(wide))
	a := f.toTarget(s, 1<<32-1, 8)
	far := f.arrived(a)
	before := f.memory()
	_ = far.SetWriteDeadline(time.Now().Add(5 * time.Second))
	sent, err := io.Copy(far, testkit.Payload(6, 1<<30))
	if err == nil {
		f.t.Error("a gigabyte was taken for a peer that reads nothing")
	}
	f.midway()
	more := f.memory() - before
	f.note("the target could send %.1f MiB, both processes took %.0f MiB more", float64(sent)/(1<<20), float64(more)/(1<<20))
	if more > 128<<20 {
		f.t.Errorf("memory grew by %d MiB", more>>20)
	}
	f.seen.recovery = x.longest()
	s.close()
	f.seen.application = "target " + endOf(far, patience)
	close(a.over)
	f.unharmed(x)
}

func tinyFrames(f *trial) {
	x := f.running()
	s := f.stranger("culvert.2")
	f.check(s.control(hello))
	a := f.toTarget(s, 1<<20, 1)
	far := f.arrived(a)
	const size = 50_000
	want := testkit.PayloadBytes(9, size)
	got := make(chan error, 1)
	go func() {
		buf := make([]byte, size)
		_ = far.SetReadDeadline(time.Now().Add(patience))
		_, err := io.ReadFull(far, buf)
		if err == nil && !bytes.Equal(buf, want) {
			err = errors.New("other bytes came")
		}
		got <- err
	}()
	go func() { // what the gateway grants and asks
		for {
			select {
			case <-s.messages:
			case <-s.closed:
				return
			case <-time.After(patience):
				return
			}
		}
	}()
	began := time.Now()
	for i, b := range want {
		if i == size/2 {
			f.midway()
		}
		f.check(s.channel.Send(framecodec.AppendFrame(nil, 1, uint64(8+i), []byte{b})))
	}
	f.check(<-got)
	f.note("%.0f frames of one byte a second", size/time.Since(began).Seconds())
	f.seen.recovery = x.longest()
	s.close()
	f.seen.application = "target " + endOf(far, patience)
	close(a.over)
	f.unharmed(x)
}

var (
	ufragLine = regexp.MustCompile(`(?m)^a=ice-ufrag:(\S+)`)
	pwdLine   = regexp.MustCompile(`(?m)^a=ice-pwd:(\S+)`)
)

// garbageInSCTP has a peer whose DTLS is right say nonsense in it.
func garbageInSCTP(f *trial) {
	x := f.running()
	cert, err := selfsign.GenerateSelfSigned()
	f.check(err)
	socket, err := f.near.ListenPacket("udp4", netip.AddrPortFrom(f.cable.Near(), 0).String())
	f.check(err)
	mux := ice.NewUDPMuxDefault(ice.UDPMuxParams{UDPConn: socket, Logger: quietLogs().NewLogger("mux")})
	defer mux.Close()
	agent, err := ice.NewAgentWithOptions(ice.WithNetworkTypes([]ice.NetworkType{ice.NetworkTypeUDP4}),
		ice.WithCandidateTypes([]ice.CandidateType{ice.CandidateTypeHost}), ice.WithUDPMux(mux),
		ice.WithMulticastDNSMode(ice.MulticastDNSModeDisabled), ice.WithLoggerFactory(quietLogs()))
	f.check(err)
	defer agent.Close()
	gathered := make(chan struct{})
	f.check(agent.OnCandidate(func(c ice.Candidate) {
		if c == nil {
			close(gathered)
		}
	}), agent.GatherCandidates())
	<-gathered
	ufrag, pwd, err := agent.GetLocalUserCredentials()
	f.check(err)
	answer := f.answerTo(offerOf(ufrag, pwd, fingerprint(cert)))
	remote, err := ice.NewCandidateHost(&ice.CandidateHostConfig{Network: "udp", Address: f.cable.Far().String(), Port: gatewayUDP, Component: 1})
	f.check(err, agent.AddRemoteCandidate(remote))
	ctx, cancel := context.WithTimeout(f.t.Context(), patience)
	defer cancel()
	path, err := agent.Dial(ctx, ufragLine.FindStringSubmatch(answer)[1], pwdLine.FindStringSubmatch(answer)[1])
	f.check(err)
	conn, err := dtls.ServerWithOptions(dtlsnet.PacketConnFromConn(path), path.RemoteAddr(),
		dtls.WithCertificates(cert), dtls.WithInsecureSkipVerify(true), dtls.WithClientAuth(dtls.RequireAnyClientCert), dtls.WithLoggerFactory(quietLogs()),
		dtls.WithSRTPProtectionProfiles(dtls.SRTP_AES128_CM_HMAC_SHA1_80)) // what pion asks for, needed or not
	f.check(err)
	f.check(conn.HandshakeContext(ctx))
	var said []byte
	began := time.Now()
	for i := range 2000 {
		said = nonsense(said[:0], i)
		if _, err := conn.Write(said); err != nil {
			break
		}
		if i == 1000 {
			f.midway()
		}
	}
	_ = conn.SetReadDeadline(time.Now().Add(patience))
	for buf := make([]byte, 4096); ; {
		if _, err := conn.Read(buf); err != nil { // the gateway's end of DTLS
			f.seen.application = endName(err)
			break
		}
	}
	f.seen.recovery = time.Since(began)
	_ = conn.Close()
	f.unharmed(x)
}

// nonsense is a packet of SCTP (RFC 9260 section 3) that is wrong in one way or
// another: noise; noise behind a right header; a chunk whose length lies.
func nonsense(b []byte, i int) []byte {
	noise := make([]byte, 1+i%1100)
	_, _ = rand.Read(noise)
	if i%3 == 0 {
		return append(b, noise...)
	}
	b = binary.BigEndian.AppendUint16(b, 5000)
	b = binary.BigEndian.AppendUint16(b, 5000)
	b = binary.BigEndian.AppendUint32(b, uint32(i%5)) // tag: 0 is INIT's
	b = binary.BigEndian.AppendUint32(b, 0)           // checksum left out (RFC 9653)
	b = append(b, byte(i%16), byte(i))
	length := uint16(4 + len(noise))
	if i%3 == 2 {
		length = uint16(i * 7919)
	}
	b = binary.BigEndian.AppendUint16(b, length)
	return append(b, noise...)
}

// fingerprint is that of a certificate as SDP says it (RFC 8122).
func fingerprint(cert tls.Certificate) string {
	sum := sha256.Sum256(cert.Certificate[0])
	var hex []string
	for _, x := range sum {
		hex = append(hex, fmt.Sprintf("%02X", x))
	}
	return strings.Join(hex, ":")
}

// garbageOnPort has somebody who is not part of any tunnel send nonsense to the
// gateway's UDP port.
func garbageOnPort(f *trial) {
	x := f.running()
	c, err := f.near.DialContext(f.t.Context(), "udp", netip.AddrPortFrom(f.cable.Far(), gatewayUDP).String())
	f.check(err)
	defer c.Close()
	const datagrams = 20_000
	buf := make([]byte, 1400)
	began := time.Now()
	for i := range datagrams {
		n := i % len(buf)
		_, _ = rand.Read(buf[:n])
		if n > 20 && i%4 == 0 { // looks like STUN
			buf[0], buf[1] = 0, 1
			copy(buf[4:], "\x21\x12\xa4\x42")
		}
		_, _ = c.Write(buf[:n]) // ICMP may tell of earlier ones
		if i == datagrams/2 {
			f.midway()
		}
	}
	f.note("%.0f datagrams a second", datagrams/time.Since(began).Seconds())
	f.seen.recovery = x.longest()
	f.seen.application = "goes on"
	f.unharmed(x)
}

// garbledPath has nonsense come beside half of the packets, from the same address
// and beginning as they do.
func garbledPath(f *trial) {
	there, _ := f.cable.Packets()
	p := clean
	p.Garble = .5
	f.cable.Set(p)
	f.carries(4 << 20)
	f.cable.Set(f.options.cable.Path)
	after, _ := f.cable.Packets()
	f.note("%d packets of nonsense to the gateway", after.Garbled-there.Garbled)
	if after.Garbled == there.Garbled {
		f.t.Error("nothing was garbled")
	}
}
