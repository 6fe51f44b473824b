package rtc

import (
	"strings"
	"testing"
	"time"

	"github.com/pion/webrtc/v4"

	"github.com/culvertgate/culvert/framecodec"
)

// TestPlainPeer: a peer connection of pion's defaults, which like a browser
// names no candidates but .local ones and reads by callback, talks to the
// gateway; the gateway says nothing before it does.
func TestPlainPeer(t *testing.T) {
	checkLeaks(t)
	g := testGateway(t, Options{})
	var se webrtc.SettingEngine
	se.SetIncludeLoopbackCandidate(true)
	pc, err := webrtc.NewAPI(webrtc.WithSettingEngine(se)).NewPeerConnection(webrtc.Configuration{})
	if err != nil {
		t.Fatal(err)
	}
	closed := false
	defer func() {
		if !closed {
			_ = pc.GracefulClose()
		}
	}()
	protocol := "culvert.2"
	dc, err := pc.CreateDataChannel("page", &webrtc.DataChannelInit{Protocol: &protocol})
	if err != nil {
		t.Fatal(err)
	}
	opened, messages := make(chan struct{}), make(chan string, 10)
	dc.OnOpen(func() { close(opened) })
	dc.OnMessage(func(m webrtc.DataChannelMessage) { messages <- string(m.Data) })
	made, err := pc.CreateOffer(nil)
	if err != nil {
		t.Fatal(err)
	}
	gathered := webrtc.GatheringCompletePromise(pc)
	if err := pc.SetLocalDescription(made); err != nil {
		t.Fatal(err)
	}
	<-gathered
	var offer strings.Builder
	for line := range strings.Lines(pc.LocalDescription().SDP) {
		if !strings.HasPrefix(line, "a=candidate") {
			offer.WriteString(line)
		}
	}
	offer.WriteString("a=candidate:1 1 udp 2113937151 5e0b6b43-0c23-4f13-9f2a-7f2f2d0c0f3a.local 50000 typ host\r\n")
	e := newEnd()
	_, answer, err := g.Answer(t.Context(), offer.String(), e.handler())
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(answer, "a=setup:active\r\n") || !strings.Contains(answer, "a=max-message-size:65536\r\n") || !strings.Contains(answer, "a=end-of-candidates\r\n") {
		t.Errorf("the answer is\n%s", answer)
	}
	if err := pc.SetRemoteDescription(webrtc.SessionDescription{Type: webrtc.SDPTypeAnswer, SDP: answer}); err != nil {
		t.Fatal(err)
	}
	select {
	case <-opened:
	case <-time.After(10 * time.Second):
		t.Fatal("the channel did not open")
	}
	c := e.channel(t)
	if c.MaxMessage() != MaxMessage || c.Protocol() != protocol {
		t.Errorf("max %d, protocol %q", c.MaxMessage(), c.Protocol())
	}
	if err := dc.SendText("text from a page"); err != nil {
		t.Fatal(err)
	}
	if got := read(t, c); got != "text from a page" {
		t.Errorf("read %q", got)
	}
	if len(messages) > 0 {
		t.Errorf("the gateway spoke first: %q", <-messages)
	}
	write(t, c, "bytes for the page")
	select {
	case m := <-messages:
		if m != "bytes for the page" {
			t.Errorf("the page read %q", m)
		}
	case <-time.After(5 * time.Second):
		t.Error("the page read nothing")
	}
	closed = true
	_ = pc.GracefulClose()
	e.waitEnd(t, 5*time.Second, framecodec.CodeTunnelClosed)
}
