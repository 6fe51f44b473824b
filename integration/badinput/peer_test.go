package badinput

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pion/ice/v4"
	"github.com/pion/interceptor"
	"github.com/pion/webrtc/v4"

	"github.com/culvertgate/culvert/framecodec"
)

// peer is a client of plain pion, which can do what ours never would.
type peer struct {
	t        *testing.T
	w        *world
	who      string
	place    place
	id       string // public, as the admin API and the log call the tunnel
	pc       *webrtc.PeerConnection
	mux      ice.UDPMux
	channels []*dataChannel
	once     sync.Once
}

// connect makes a peer connection with channels, of which none is waited for.
// change is done to the offer on its way; nil: nothing. The peer ends with the
// test, and the gateway's part of it as well.
func (w *world) connect(t *testing.T, who string, change func(string) string, channels ...channel) *peer {
	t.Helper()
	p := &peer{t: t, w: w, who: who}
	socket, err := w.net.ListenPacket("udp4", "127.0.0.1:0")
	check(t, err)
	p.mux = webrtc.NewICEUDPMux(nil, socket)
	t.Cleanup(p.close)
	var se webrtc.SettingEngine
	se.SetICEUDPMux(p.mux)
	se.SetIncludeLoopbackCandidate(true)
	se.SetICEMulticastDNSMode(ice.MulticastDNSModeDisabled)
	se.SetSCTPMaxMessageSize(1 << 20)
	api := webrtc.NewAPI(webrtc.WithSettingEngine(se), webrtc.WithMediaEngine(&webrtc.MediaEngine{}), webrtc.WithInterceptorRegistry(&interceptor.Registry{}))
	p.pc, err = api.NewPeerConnection(webrtc.Configuration{})
	check(t, err)
	for _, c := range channels {
		p.add(c)
	}
	made, err := p.pc.CreateOffer(nil)
	check(t, err)
	gathered := webrtc.GatheringCompletePromise(p.pc)
	check(t, p.pc.SetLocalDescription(made))
	<-gathered
	text := p.pc.LocalDescription().SDP
	if change != nil {
		text = change(text)
	}
	p.post(text)
	return p
}

// post has the gateway answer, which may not be with its own largest message:
// one that is too large is to be sent.
func (p *peer) post(offer string) {
	p.t.Helper()
	a, err := p.w.send(near, p.who, "POST /tunnel", sdp, offer)
	check(p.t, err)
	if a.status != http.StatusCreated {
		p.t.Fatalf("the offer was answered %d %s", a.status, a.body)
	}
	p.place = place{a.header.Get("Location"), a.header.Get("ETag")}
	text := strings.Replace(a.body, "a=max-message-size:65536", "a=max-message-size:1048576", 1)
	if text == a.body {
		p.t.Errorf("the answer does not bound messages to 65,536 bytes:\n%s", text)
	}
	check(p.t, p.pc.SetRemoteDescription(webrtc.SessionDescription{Type: webrtc.SDPTypeAnswer, SDP: text}))
	status, err := p.status()
	check(p.t, err)
	p.id = status.ID
	if p.id == "" || strings.Contains(p.place.path, p.id) {
		p.t.Errorf("the public id %q is in the session's URL", p.id)
	}
}

// status is what the owner is told of the session.
type status struct {
	ID          string
	RawChannels []struct{ Target, Code string } `json:"raw_channels"`
}

func (p *peer) status() (status, error) {
	var s status
	a, err := p.w.send(near, p.who, "GET "+p.place.path+"/status", "", "")
	if err == nil && a.status != http.StatusOK {
		err = fmt.Errorf("status of the session: %d %s", a.status, a.body)
	}
	if err != nil {
		return s, err
	}
	return s, json.Unmarshal([]byte(a.body), &s)
}

// close ends both sides. The session may be over at the gateway.
func (p *peer) close() {
	p.once.Do(func() {
		if p.place.path != "" {
			if _, err := p.w.send(near, p.who, "DELETE "+p.place.path, "", ""); err != nil {
				p.t.Error(err)
			}
		}
		var errs []error
		if p.pc != nil {
			errs = append(errs, p.pc.GracefulClose())
		}
		if err := errors.Join(append(errs, p.mux.Close())...); err != nil {
			p.t.Error(err)
		}
	})
}

// dataChannel is a channel and what happens to it.
type dataChannel struct {
	*webrtc.DataChannel
	opened, closed chan struct{}
	messages       chan []byte
}

// add opens one more channel.
func (p *peer) add(c channel) *dataChannel {
	p.t.Helper()
	dc, err := p.pc.CreateDataChannel(c.label, c.init())
	check(p.t, err)
	d := &dataChannel{DataChannel: dc, opened: make(chan struct{}), closed: make(chan struct{}), messages: make(chan []byte, 1024)}
	dc.OnOpen(func() { close(d.opened) })
	dc.OnClose(sync.OnceFunc(func() { close(d.closed) }))
	dc.OnMessage(func(m webrtc.DataChannelMessage) { d.messages <- m.Data })
	p.channels = append(p.channels, d)
	return d
}

// isOpen waits for the channel to open.
func (d *dataChannel) isOpen() error { return within(d.opened, "the channel opens") }

// isClosed waits for the channel to be closed by the other side.
func (d *dataChannel) isClosed() error { return within(d.closed, "the channel is closed") }

func within(event <-chan struct{}, what string) error {
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-event:
		return nil
	case <-timer.C:
		return fmt.Errorf("not within %v: %s", patience, what)
	}
}

// stream is stream 1 of a session of dialect 2, by hand, to the echo target.
type stream struct {
	channel *dataChannel
	word    uint64 // of the next control frame
	sent    uint64
	read    []byte // bytes of messages that are not parsed yet
	echoed  []byte
	opened  bool
	ended   error
}

// open says Hello in a channel and opens the stream.
func (p *peer) open(i int) *stream {
	p.t.Helper()
	check(p.t, p.channels[i].isOpen())
	s := &stream{channel: p.channels[i]}
	open := framecodec.Open{Conn: 1, Kind: framecodec.KindNamed, Window: 1 << 20, Host: []byte("echo")}
	s.word++
	check(p.t, s.channel.Send(hello), s.control(open), s.until(func() bool { return s.opened }))
	return s
}

func (s *stream) control(m interface {
	AppendFrame(b []byte, word uint64) []byte
}) error {
	s.word++
	return s.channel.Send(m.AppendFrame(nil, s.word-1))
}

// echo sends text and wants it back.
func (s *stream) echo(text string) error {
	if err := s.channel.Send(framecodec.AppendFrame(nil, 1, s.sent, []byte(text))); err != nil {
		return err
	}
	s.sent += uint64(len(text))
	if err := s.until(func() bool { return len(s.echoed) >= len(text) }); err != nil {
		return err
	}
	got := string(s.echoed)
	s.echoed = nil
	if got != text {
		return fmt.Errorf("sent %q, got %q", text, got)
	}
	return nil
}

// until reads messages until ok holds.
func (s *stream) until(ok func() bool) error {
	timer := time.NewTimer(patience)
	defer timer.Stop()
	for !ok() {
		select {
		case m := <-s.channel.messages:
			s.read = append(s.read, m...)
		case <-s.channel.closed:
			return errors.New("the channel was closed")
		case <-timer.C:
			return fmt.Errorf("nothing came within %v", patience)
		}
		if err := s.parse(); err != nil {
			return err
		}
	}
	return s.ended
}

// parse takes the frames that are complete.
func (s *stream) parse() error {
	for {
		f, n, err := framecodec.ParseFrame(s.read, framecodec.MaxPayload2)
		switch {
		case errors.Is(err, framecodec.ErrShort):
			return nil
		case err != nil:
			return err
		}
		if f.Conn == 1 {
			s.echoed = append(s.echoed, f.Payload...)
		} else if err := s.told(f.Payload); err != nil {
			return err
		}
		s.read = s.read[n:]
	}
}

// told reads a control frame.
func (s *stream) told(payload []byte) error {
	kind, data, err := framecodec.ParseControl(payload)
	if err != nil {
		return err
	}
	switch kind {
	case framecodec.MsgOpened:
		s.opened = true
	case framecodec.MsgPing:
		ping, err := framecodec.ParsePing(data)
		if err != nil {
			return err
		}
		return s.control(ping.Pong())
	case framecodec.MsgReset, framecodec.MsgClose, framecodec.MsgGoAway, framecodec.MsgFinish:
		return fmt.Errorf("the gateway sent %v", kind)
	default: // Hello, and credit that the few bytes of a row never use up
	}
	return nil
}
