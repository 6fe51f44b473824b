package rtc

import (
	"net"
	"strings"
	"testing"
	"time"

	"github.com/pion/turn/v5"
	"github.com/pion/webrtc/v4"
	"go.uber.org/zap"

	"github.com/culvertgate/culvert/framecodec"
)

// turnServer is a TURN server of ours on loopback, for the user u with the
// password p.
func turnServer(t *testing.T) string {
	t.Helper()
	conn, err := net.ListenPacket("udp4", anyPort)
	if err != nil {
		t.Fatal(err)
	}
	server, err := turn.NewServer(turn.ServerConfig{
		Realm:         "test",
		LoggerFactory: newLoggers(func() *zap.Logger { return zap.NewNop() }),
		AuthHandler: func(a *turn.RequestAttributes) (string, []byte, bool) {
			return a.Username, turn.GenerateAuthKey(a.Username, a.Realm, "p"), a.Username == "u"
		},
		PacketConnConfigs: []turn.PacketConnConfig{{
			PacketConn:            conn,
			RelayAddressGenerator: &turn.RelayAddressGeneratorStatic{RelayAddress: home, Address: home.String()},
			PermissionHandler:     func(net.Addr, net.IP) bool { return true },
		}},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Close() })
	return conn.LocalAddr().String()
}

// TestRelay: a client that has nothing but a TURN server reaches a gateway that
// knows of no candidate of it.
func TestRelay(t *testing.T) {
	checkLeaks(t)
	g, d := testGateway(t, Options{}), testDialer(DialerConfig{GatherWait: 5 * time.Second})
	servers := []ICEServer{{URLs: []string{"turn:" + turnServer(t) + "?transport=udp"}, Username: "u", Credential: "p"}}
	client, server := newEnd(), newEnd()
	p, err := d.newPeer(t.Context(), servers, client.handler())
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close(framecodec.CodeNormal)
	if err := p.pc.SetConfiguration(webrtc.Configuration{ICEServers: iceServers(servers), ICETransportPolicy: webrtc.ICETransportPolicyRelay}); err != nil {
		t.Fatal(err)
	}
	offer, err := d.offer(t.Context(), p, []ChannelSpec{{}})
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(offer, "typ relay") || !strings.Contains(offer, "a=end-of-candidates") {
		t.Errorf("the offer is\n%s", offer)
	}
	_, answer, err := g.Answer(t.Context(), offer, server.handler())
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Accept(answer); err != nil {
		t.Fatal(err)
	}
	pair := &pair{clientChannel: client.channel(t), serverChannel: server.channel(t)}
	through(t, pair, "over a relay")
	if s := p.Stats(); !strings.HasPrefix(s.CandidatePair, "relay ") {
		t.Errorf("the pair is %q", s.CandidatePair)
	}
}

// TestLateCandidates: a server that does not answer holds an offer up no longer
// than GatherWait; what is found afterwards, and the end, is told.
func TestLateCandidates(t *testing.T) {
	checkLeaks(t)
	real, err := net.ListenPacket("udp4", anyPort)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = real.Close() }()
	d := testDialer(DialerConfig{GatherWait: 50 * time.Millisecond})
	e := newEnd()
	start := time.Now()
	p, offer, err := d.Offer(t.Context(), []ChannelSpec{{}}, []ICEServer{{URLs: []string{"stun:" + real.LocalAddr().String()}}}, e.handler())
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close(framecodec.CodeNormal)
	if took := time.Since(start); took > 2*time.Second {
		t.Errorf("the offer took %v", took)
	}
	if strings.Contains(offer, "end-of-candidates") || !strings.Contains(offer, "typ host") {
		t.Errorf("the offer is\n%s", offer)
	}
	// Answer the STUN request now, late.
	buf := make([]byte, 1500)
	_ = real.SetDeadline(time.Now().Add(5 * time.Second))
	n, from, err := real.ReadFrom(buf)
	if err != nil {
		t.Fatal(err)
	}
	reply := append([]byte{1, 1, 0, 12}, buf[4:20]...)
	reply = append(reply, 0, 0x20, 0, 8, 0, 1, 0x21^0x12, 0x12^0x34, 203^0x21, 0x12, 113^0xa4, 7^0x42) // XOR-MAPPED-ADDRESS 203.0.113.7
	if _, err := real.WriteTo(reply, from); err != nil || n < 20 {
		t.Fatal(err)
	}
	var lines []string
	for len(lines) == 0 || lines[len(lines)-1] != "" {
		select {
		case line := <-e.late:
			lines = append(lines, line)
		case <-time.After(10 * time.Second):
			t.Fatalf("told only %q", lines)
		}
	}
	if len(lines) != 2 || !strings.Contains(lines[0], "203.0.113.7") || !strings.Contains(lines[0], "typ srflx") {
		t.Errorf("told %q", lines)
	}
	f, err := p.CandidateFragment(lines...)
	if err != nil || f.Ufrag == "" || f.Mid == "" || len(f.Candidates) != 1 || !f.EndOfCandidates {
		t.Errorf("fragment %+v, %v", f, err)
	}
	if !strings.Contains(offer, "a=ice-ufrag:"+f.Ufrag) {
		t.Error("the fragment bears another ufrag than the offer")
	}
}
