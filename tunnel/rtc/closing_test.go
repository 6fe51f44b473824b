package rtc

import (
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/pion/webrtc/v4"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/culvertgate/culvert/framecodec"
)

// closeOf returns what is closed when p.Close has returned.
func closeOf(p *Peer) <-chan struct{} {
	closed := make(chan struct{})
	go func() {
		defer close(closed)
		p.Close(framecodec.CodeNormal)
	}()
	return closed
}

// onICEConnected has f called, once, in the ICE agent's own goroutine before
// the peer hears that ICE is connected.
func onICEConnected(p *Peer, f func()) {
	p.pc.SCTP().Transport().ICETransport().OnConnectionStateChange(func(state webrtc.ICETransportState) {
		if state == webrtc.ICETransportStateConnected {
			f()
		}
	})
}

// released checks that a peer which is being closed lets go of everything.
func released(t *testing.T, p *Peer, closed <-chan struct{}) {
	t.Helper()
	<-closed // bounded by itself
	select {
	case <-p.released:
	default:
		t.Error("Close gave up waiting for the peer to be released")
	}
}

// halfway exchanges descriptions over a cable that lets only STUN pass, so that
// ICE connects and DTLS does not. prepare is called before ICE can connect.
func halfway(t *testing.T, prepare func(*pair)) *pair {
	t.Helper()
	patient := 5 * time.Minute
	g := testGateway(t, Options{ConnectTimeout: patient})
	c := newCable(t, g.socket.AddrPort())
	c.mute.Store(true)
	p := &pair{clientEnd: newEnd(), serverEnd: newEnd()}
	var offer, answer string
	var err error
	if p.client, offer, err = testDialer(DialerConfig{ConnectTimeout: patient}).Offer(t.Context(), []ChannelSpec{{}}, nil, p.clientEnd.handler()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.client.Close(framecodec.CodeNormal) })
	if p.server, answer, err = g.Answer(t.Context(), offer, p.serverEnd.handler()); err != nil {
		t.Fatal(err)
	}
	prepare(p)
	if err = p.client.Accept(c.route(answer)); err != nil {
		t.Fatal(err)
	}
	return p
}

func (p *pair) side(name string) *Peer {
	if name == "client" {
		return p.client
	}
	return p.server
}

// TestCloseInHandshake: the DTLS handshake ends with its peer, and not only when
// pion has closed what it reads from. Here pion cannot: the ICE agent's closing
// waits for a report that is being heard until the handshake is over.
func TestCloseInHandshake(t *testing.T) {
	for _, side := range []string{"client", "gateway"} {
		t.Run(side, func(t *testing.T) {
			checkLeaks(t)
			began, over := make(chan struct{}), make(chan struct{})
			p := halfway(t, func(p *pair) {
				p.side(side).pc.SCTP().Transport().OnStateChange(func(state webrtc.DTLSTransportState) {
					switch state {
					case webrtc.DTLSTransportStateConnecting:
						close(began)
					case webrtc.DTLSTransportStateFailed:
						close(over)
					default:
					}
				})
				onICEConnected(p.side(side), func() {
					select {
					case <-over:
					case <-time.After(20 * time.Second):
						t.Error("the DTLS handshake goes on without its peer")
					}
				})
			})
			select {
			case <-began:
			case <-time.After(10 * time.Second):
				t.Fatal("DTLS did not begin")
			}
			released(t, p.side(side), closeOf(p.side(side)))
		})
	}
}

// TestCloseWhileConnecting: a peer that is closed in the moment in which ICE
// connects is released. pion's closing then holds a lock and waits for the
// report to be heard, so nothing that needs the lock may be asked there; what
// the owner asks in OnPath is no different.
func TestCloseWhileConnecting(t *testing.T) {
	for _, side := range []string{"client", "gateway"} {
		t.Run(side, func(t *testing.T) {
			checkLeaks(t)
			closing := make(chan (<-chan struct{}), 1)
			p := halfway(t, func(p *pair) {
				onICEConnected(p.side(side), func() {
					closing <- closeOf(p.side(side))
					for deadline := time.Now().Add(10 * time.Second); !strings.Contains(stacks(), "(*handlerNotifier).Close("); time.Sleep(2 * time.Millisecond) {
						if time.Now().After(deadline) {
							t.Error("pion does not wait for the agent's reports")
							return
						}
					}
				})
			})
			select {
			case closed := <-closing:
				released(t, p.side(side), closed)
			case <-time.After(10 * time.Second):
				t.Fatal("ICE did not connect")
			}
		})
	}
}

func stacks() string {
	buf := make([]byte, 1<<20)
	return string(buf[:runtime.Stack(buf, true)])
}

// TestReleaseHangs: Close does not wait for ever, and says so.
func TestReleaseHangs(t *testing.T) {
	checkLeaks(t)
	core, logs := observer.New(zap.WarnLevel)
	hold := make(chan struct{})
	d := NewDialer(DialerConfig{Logger: func() *zap.Logger { return zap.New(core) }, Loopback: true, ListenAddress: anyPort})
	p, _, err := d.Offer(t.Context(), []ChannelSpec{{}}, nil, Handler{OnClosed: func(*Peer, error) { <-hold }})
	if err != nil {
		t.Fatal(err)
	}
	p.Close(framecodec.CodeNormal)
	if n := logs.FilterMessageSnippet("not released").Len(); n != 1 {
		t.Errorf("%d warnings", n)
	}
	close(hold)
	p.Close(framecodec.CodeNormal)
	if n := logs.FilterMessageSnippet("not released").Len(); n != 1 {
		t.Errorf("%d warnings when it is released", n)
	}
}

// TestAskInOnPath: the owner may ask anything in OnPath, also while the peer is
// being closed.
func TestAskInOnPath(t *testing.T) {
	checkLeaks(t)
	g, d := testGateway(t, Options{}), testDialer(DialerConfig{})
	asking := make(chan struct{})
	client, offer, err := d.Offer(t.Context(), []ChannelSpec{{}}, nil, Handler{OnPath: func(p *Peer, _ bool) {
		close(asking)
		transport := p.pc.SCTP().Transport().ICETransport()
		for { // until pion has closed the agent
			if pair, err := transport.GetSelectedCandidatePair(); pair == nil || err != nil {
				return
			}
			runtime.Gosched()
		}
	}})
	if err != nil {
		t.Fatal(err)
	}
	_, answer, err := g.Answer(t.Context(), offer, Handler{})
	if err != nil {
		t.Fatal(err)
	}
	if err := client.Accept(answer); err != nil {
		t.Fatal(err)
	}
	<-asking
	released(t, client, closeOf(client))
}
