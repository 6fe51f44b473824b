package gateway

import (
	"context"
	"errors"
	"fmt"
	"net"
	"testing"
	"time"

	"github.com/culvertgate/culvert/framecodec"
	"github.com/culvertgate/culvert/tunnel"
	"github.com/culvertgate/culvert/tunnel/policy"
)

func udp(host string, port uint16) tunnel.Target {
	return tunnel.Target{Kind: tunnel.KindUDP, Host: host, Port: port}
}

func flow(name string) tunnel.Target {
	return tunnel.Target{Kind: tunnel.KindNamedDatagram, Host: name}
}

// packetOffice is an office whose UDP addresses all lead to one echo server.
func packetOffice(t *testing.T, options ...option) *office {
	t.Helper()
	server, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 65535)
		for {
			n, from, err := server.ReadFromUDP(buf)
			if err != nil {
				return
			}
			_, _ = server.WriteToUDP(buf[:n], from)
		}
	}()
	t.Cleanup(func() {
		_ = server.Close()
		<-done
	})
	var o *office
	connect := func(e *ExitConfig, _ *tunnel.Config) {
		e.Connect = func(ctx context.Context, a policy.Address, control policy.Control) (net.Conn, error) {
			if !a.UDP {
				return o.connect(ctx, a, control)
			}
			if err := control(a.Network(), a.String(), nil); err != nil {
				return nil, err
			}
			var d net.Dialer
			return d.DialContext(ctx, "udp", server.LocalAddr().String())
		}
	}
	o = open(t, flowRules(), append([]option{connect}, options...)...)
	return o
}

func flowRules(denials ...string) policy.Config {
	cfg := rules("tcp/10.0.0.0/8:22", "udp/10.0.0.0/8:53", "udp/*.example:53 private")
	cfg.Targets = append(cfg.Targets, policy.NamedTarget{Name: "dns", Addresses: []string{"udp/10.0.0.53:53"}})
	for _, text := range denials {
		cfg.Dynamic.Rules = append(cfg.Dynamic.Rules, policy.Rule{Text: text, Deny: true})
	}
	return cfg
}

// asking is the client's end of a flow: it sends one datagram and takes what
// comes back.
type asking struct {
	question []byte // until it is read; of the session
	answers  chan string
	ended    chan tunnel.Code
}

func newAsking(question string) *asking {
	return &asking{[]byte(question), make(chan string, 8), make(chan tunnel.Code, 1)}
}

func (a *asking) Bind(r tunnel.Readiness) { go r.Readable() }

func (a *asking) TryRead(p []byte) (int, error) {
	if a.question == nil {
		return 0, tunnel.ErrWouldBlock
	}
	n := copy(p, a.question)
	a.question = nil
	return n, nil
}

func (a *asking) TryWrite(p []byte) (int, error) {
	a.answers <- string(p)
	return len(p), nil
}

func (a *asking) CloseWrite() error { return nil }

func (a *asking) Close(code tunnel.Code) {
	select {
	case a.ended <- code:
	default:
	}
}

func (a *asking) wait(t *testing.T, want string) {
	t.Helper()
	select {
	case got := <-a.answers:
		if got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	case code := <-a.ended:
		t.Errorf("ended with %v, want %q", code, want)
	case <-time.After(10 * time.Second):
		t.Errorf("no answer, want %q", want)
	}
}

// ask opens a flow.
func (o *office) ask(target tunnel.Target, a *asking) (*tunnel.Stream, error) {
	ctx, cancel := context.WithTimeout(o.t.Context(), 30*time.Second)
	defer cancel()
	return o.client.Open(ctx, target, a)
}

// Flows open as streams do, to UDP addresses.
func TestFlows(t *testing.T) {
	o := packetOffice(t)
	for _, target := range []tunnel.Target{flow("dns"), udp("10.0.0.9", 53), udp("::ffff:10.0.0.9", 53), udp("good.example", 53)} {
		a := newAsking("hello " + target.String())
		st, err := o.ask(target, a)
		if err != nil {
			t.Errorf("%v: %v", target, err)
			continue
		}
		a.wait(t, "hello "+target.String())
		st.Reset(framecodec.CodeCancelled, "")
	}
}

// The policy's refusals are those of streams; the wrong kind of a name is no
// target.
func TestFlowRefusals(t *testing.T) {
	o := packetOffice(t)
	for _, tt := range []struct {
		target tunnel.Target
		want   tunnel.Code
		rule   string
	}{
		{flow("echo"), framecodec.CodeUnknownTarget, "targets"},
		{named("dns"), framecodec.CodeUnknownTarget, "targets"},
		{flow(""), framecodec.CodeUnknownTarget, "targets"},
		{udp("10.0.0.9", 22), framecodec.CodeNotAllowed, "addresses.private"},
		{tcp("10.0.0.9", 53), framecodec.CodeNotAllowed, "addresses.private"},
		{udp("127.0.0.1", 53), framecodec.CodeNotAllowed, "addresses.loopback"},
		{udp("missing.example", 53), framecodec.CodeResolveFailed, ""},
	} {
		before := len(o.deniedBy())
		_, err := o.ask(tt.target, newAsking("x"))
		var known *tunnel.Error
		if !errors.As(err, &known) || known.Code != tt.want || known.Text != policy.ClientText(tt.want) {
			t.Errorf("%v: the client is told %v, want %v", tt.target, err, tt.want)
		}
		if told := fmt.Sprint(o.deniedBy()[before:]); told != fmt.Sprintf("[%s]", tt.rule) {
			t.Errorf("%v: denied by %v, want %q", tt.target, told, tt.rule)
		}
	}
}

// What the exit dials is a connected socket, and what the reactor makes of it
// keeps the borders of datagrams.
func TestFlowDialAndAdopt(t *testing.T) {
	o := packetOffice(t)
	for _, target := range []tunnel.Target{flow("dns"), udp("10.0.0.9", 53)} {
		c, at, err := o.exit.dial(t.Context(), o.exit.view(), target)
		if err != nil {
			t.Fatalf("%v: %v", target, err)
		}
		if conn, ok := c.(*net.UDPConn); !ok || conn.RemoteAddr() == nil || !at.UDP {
			t.Errorf("%v: a %T to %s/%v", target, c, at.Network(), at)
		}
		ep, err := o.exit.cfg.Reactor.Adopt(c, nil)
		if err != nil {
			t.Fatal(err)
		}
		ready := make(readable, 1)
		ep.Bind(ready)
		for _, text := range []string{"one", "", "three"} {
			if n, err := ep.TryWrite([]byte(text)); n != len(text) || err != nil {
				t.Fatalf("wrote %d, %v", n, err)
			}
		}
		for _, want := range []string{"one", "", "three"} {
			if got := ready.next(t, ep); got != want {
				t.Errorf("%q, want %q", got, want)
			}
		}
		ep.Close(framecodec.CodeNormal)
	}
}

type readable chan struct{}

func (r readable) Readable() {
	select {
	case r <- struct{}{}:
	default:
	}
}

func (r readable) Writable() {}

func (r readable) next(t *testing.T, ep tunnel.Endpoint) string {
	t.Helper()
	b := make([]byte, 65507)
	for {
		n, err := ep.TryRead(b)
		if err == nil {
			return string(b[:n])
		}
		if !errors.Is(err, tunnel.ErrWouldBlock) {
			t.Fatal(err)
		}
		select {
		case <-r:
		case <-time.After(10 * time.Second):
			t.Fatal("no datagram")
		}
	}
}

// A reload ends the flows that the new policy refuses, and no others.
func TestFlowRecheck(t *testing.T) {
	o := packetOffice(t)
	flows := map[tunnel.Target]*asking{}
	for _, target := range []tunnel.Target{flow("dns"), udp("10.0.1.1", 53), udp("10.0.2.1", 53), udp("good.example", 53)} {
		a := newAsking("before")
		if _, err := o.ask(target, a); err != nil {
			t.Fatalf("%v: %v", target, err)
		}
		a.wait(t, "before")
		flows[target] = a
	}
	if n := o.exit.Recheck(mustPolicy(t, flowRules("tcp/10.0.0.0/8"))); n != 0 {
		t.Errorf("a policy that differs for TCP only ended %d flows", n)
	}
	next := flowRules("10.0.2.0/24", "udp/10.0.0.7")
	next.Targets[2].Addresses = []string{"tcp/10.0.0.53:53"} // dns is a stream target now
	if n := o.exit.Recheck(mustPolicy(t, next)); n != 3 {
		t.Errorf("ended %d flows, want 3", n)
	}
	for target, a := range flows {
		if target == udp("10.0.1.1", 53) {
			if len(a.ended) != 0 {
				t.Errorf("%v ended with %v", target, <-a.ended)
			}
			continue
		}
		select {
		case code := <-a.ended:
			if code != framecodec.CodePolicyChanged {
				t.Errorf("%v ended with %v", target, code)
			}
		case <-time.After(10 * time.Second):
			t.Errorf("%v did not end", target)
		}
	}
}

// A raw channel is the byte stream of a target: a datagram target has none.
func TestRawOfADatagramTarget(t *testing.T) {
	r := openRaw(t)
	r.policy.Store(mustPolicy(t, flowRules()))
	page := r.start("dns")
	if info := r.end(t); info.Code != "unknown_target" || info.Opened {
		t.Errorf("%+v", info)
	}
	if closed, code := page.end(); !closed || code != framecodec.CodeUnknownTarget {
		t.Errorf("closed %v with %v", closed, code)
	}
}

// The offer's target is a stream target too: a name that a reload made a
// datagram target is none for peers that cannot name one.
func TestDefaultOfTheOfferIsAStream(t *testing.T) {
	o := packetOffice(t, func(e *ExitConfig, _ *tunnel.Config) { e.DefaultTarget = "dns" })
	if _, err := o.dial(named("")); tunnel.CodeOf(err) != framecodec.CodeUnknownTarget {
		t.Errorf("%v", err)
	}
}
