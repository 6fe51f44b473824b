package testkit

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"github.com/pion/logging"
	"github.com/pion/webrtc/v4"

	"github.com/culvertgate/culvert/framecodec"
)

// rawPeer is a plain peer connection with one data channel whose frames are
// written and read by the test: what the wheel does on the wire is seen without
// any of our engine in between.
type rawPeer struct {
	t       *testing.T
	pc      *webrtc.PeerConnection
	opened  chan *webrtc.DataChannel
	arrived chan framecodec.Frame
	channel *webrtc.DataChannel
}

func newRawPeer(t *testing.T, n *Namespace) *rawPeer {
	t.Helper()
	socket := must[net.PacketConn](t)(n.ListenPacket("udp", n.Addr().String()+":0"))
	quiet := logging.NewDefaultLoggerFactory()
	quiet.DefaultLogLevel = logging.LogLevelDisabled
	var settings webrtc.SettingEngine
	settings.LoggerFactory = quiet
	mux := webrtc.NewICEUDPMux(quiet.NewLogger("mux"), socket)
	settings.SetICEUDPMux(mux)
	p := &rawPeer{t: t, opened: make(chan *webrtc.DataChannel, 1), arrived: make(chan framecodec.Frame, 1000)}
	p.pc = must[*webrtc.PeerConnection](t)(webrtc.NewAPI(webrtc.WithSettingEngine(settings)).NewPeerConnection(webrtc.Configuration{}))
	t.Cleanup(func() {
		if err := errors.Join(p.pc.GracefulClose(), mux.Close()); err != nil {
			t.Error(err)
		}
		_ = socket.Close() // the mux has closed it
	})
	return p
}

// attach reads the frames of a channel; a message of the wheel holds one.
func (p *rawPeer) attach(d *webrtc.DataChannel) {
	d.OnMessage(func(m webrtc.DataChannelMessage) {
		f, size, err := framecodec.ParseFrame(m.Data, 1<<20)
		if err != nil || size != len(m.Data) {
			p.t.Errorf("message of %d bytes is not one frame: %d, %v", len(m.Data), size, err)
			return
		}
		p.arrived <- f
	})
	d.OnOpen(func() { p.opened <- d })
}

// describe sets the local description and returns it with all candidates.
func (p *rawPeer) describe(d webrtc.SessionDescription, err error) string {
	p.t.Helper()
	if err != nil {
		p.t.Fatal(err)
	}
	gathered := webrtc.GatheringCompletePromise(p.pc)
	if err := p.pc.SetLocalDescription(d); err != nil {
		p.t.Fatal(err)
	}
	<-gathered
	return p.pc.LocalDescription().SDP
}

func (p *rawPeer) remote(kind webrtc.SDPType, sdp string) {
	p.t.Helper()
	if err := p.pc.SetRemoteDescription(webrtc.SessionDescription{Type: kind, SDP: sdp}); err != nil {
		p.t.Fatal(err)
	}
}

func (p *rawPeer) waitOpen(ctx context.Context) {
	p.t.Helper()
	select {
	case p.channel = <-p.opened:
	case <-ctx.Done():
		p.t.Fatal("the data channel does not open")
	}
}

func (p *rawPeer) send(frame []byte) {
	p.t.Helper()
	if err := p.channel.Send(frame); err != nil {
		p.t.Fatal(err)
	}
}

// control returns the next control message that is not a Ping, and answers
// Pings; a data frame before it is an error.
func (p *rawPeer) control(ctx context.Context, want framecodec.Message) []byte {
	p.t.Helper()
	for {
		f := p.next(ctx)
		if f.Conn != 0 {
			p.t.Fatalf("data of connection %d instead of %v", f.Conn, want)
		}
		m, rest, err := framecodec.ParseControl(f.Payload)
		if err != nil {
			p.t.Fatal(err)
		}
		if m == framecodec.MsgPing {
			ping, err := framecodec.ParsePing(rest)
			if err != nil {
				p.t.Fatal(err)
			}
			p.send(ping.Pong().AppendFrame(nil, 0))
			continue
		}
		if m != want {
			p.t.Fatalf("got %v, want %v", m, want)
		}
		return rest
	}
}

// data returns n bytes of data frames of connection 1.
func (p *rawPeer) data(ctx context.Context, n int) []byte {
	p.t.Helper()
	var got []byte
	for len(got) < n {
		f := p.next(ctx)
		if f.Conn != 1 {
			p.t.Fatalf("frame of connection %d among the data: %x", f.Conn, f.Payload)
		}
		if len(f.Payload) > 8192 {
			p.t.Errorf("data frame of %d bytes; the wheel reads 8 KiB at most", len(f.Payload))
		}
		got = append(got, f.Payload...)
	}
	return got
}

func (p *rawPeer) next(ctx context.Context) framecodec.Frame {
	p.t.Helper()
	select {
	case f := <-p.arrived:
		return f
	case <-ctx.Done():
		p.t.Fatal("no further frame")
		return framecodec.Frame{}
	}
}

func TestWheelListensForARawPeer(t *testing.T) {
	n := NewNamespace(t)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	peer := newRawPeer(t, n)
	peer.pc.OnDataChannel(peer.attach)
	wheel := StartWheel(t, n)
	tube, offer, err := wheel.Listen(ctx, TubeSettings{Listen: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	peer.remote(webrtc.SDPTypeOffer, offer)
	if err := tube.Accept(ctx, peer.describe(peer.pc.CreateAnswer(nil))); err != nil {
		t.Fatal(err)
	}
	peer.waitOpen(ctx)
	if peer.channel.Protocol() != "" || !peer.channel.Ordered() {
		t.Errorf("channel: protocol %q, ordered %v", peer.channel.Protocol(), peer.channel.Ordered())
	}
	if err := tube.Ready(ctx); err != nil {
		t.Fatal(err)
	}

	c := must[*net.TCPConn](t)(dialTCPIn(ctx, n, tube.ListenAddr))
	defer c.Close()
	open, err := framecodec.ParseOpenConnection(peer.control(ctx, framecodec.MsgOpenConnection))
	if err != nil || open.Conn != 1 || open.HasTarget {
		t.Fatalf("open: %+v, %v", open, err)
	}
	peer.send(framecodec.ConnectionOpened{Conn: 1}.AppendFrame(nil, 0))

	up, down := PayloadBytes(4, 50_000), PayloadBytes(5, 50_000)
	if _, err := c.Write(up); err != nil {
		t.Fatal(err)
	}
	if got := peer.data(ctx, len(up)); !bytes.Equal(got, up) {
		t.Error("bytes up differ")
	}
	for rest := down; len(rest) > 0; rest = rest[min(8192, len(rest)):] {
		peer.send(framecodec.AppendFrame(nil, 1, 0, rest[:min(8192, len(rest))]))
	}
	peer.send(framecodec.SendEOF{Conn: 1}.AppendFrame(nil, 0))
	if err := c.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(c); err != nil || !bytes.Equal(got, down) {
		t.Errorf("%d bytes down, %v; want %d and the end", len(got), err, len(down))
	}
	if err := c.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if eof, err := framecodec.ParseSendEOF(peer.control(ctx, framecodec.MsgSendEOF)); err != nil || eof.Conn != 1 {
		t.Errorf("end of the client: %+v, %v", eof, err)
	}
}

func TestWheelDialsForARawPeer(t *testing.T) {
	n := NewNamespace(t)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	target := must[net.Listener](t)(n.Listen("tcp", "127.0.0.1:0"))
	defer target.Close()
	go echoOnce(target)

	peer := newRawPeer(t, n)
	peer.attach(must[*webrtc.DataChannel](t)(peer.pc.CreateDataChannel("conversation", nil)))
	wheel := StartWheel(t, n)
	tube, answer, err := wheel.Dial(ctx, TubeSettings{Target: target.Addr().String()}, peer.describe(peer.pc.CreateOffer(nil)))
	if err != nil {
		t.Fatal(err)
	}
	peer.remote(webrtc.SDPTypeAnswer, answer)
	peer.waitOpen(ctx)
	if err := tube.Ready(ctx); err != nil {
		t.Fatal(err)
	}

	peer.send(framecodec.OpenConnection{Conn: 1}.AppendFrame(nil, 0))
	if opened, err := framecodec.ParseConnectionOpened(peer.control(ctx, framecodec.MsgConnectionOpened)); err != nil || opened.Conn != 1 {
		t.Fatalf("opened: %+v, %v", opened, err)
	}
	want := PayloadBytes(6, 8000)
	peer.send(framecodec.AppendFrame(nil, 1, 0, want))
	if got := peer.data(ctx, len(want)); !bytes.Equal(got, want) {
		t.Error("echo differs")
	}
	peer.send(framecodec.SendEOF{Conn: 1}.AppendFrame(nil, 0))
	end, err := framecodec.ParseCloseConnection(peer.control(ctx, framecodec.MsgCloseConnection))
	if err != nil || end.Conn != 1 || end.Reason != framecodec.ReasonConnectionLost {
		t.Errorf("end of the target: %+v, %v; the wheel says connection lost at every end", end, err)
	}
}

func dialTCPIn(ctx context.Context, n *Namespace, address string) (*net.TCPConn, error) {
	c, err := n.DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	return c.(*net.TCPConn), nil
}
