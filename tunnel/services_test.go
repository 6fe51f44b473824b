package tunnel_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/culvertgate/culvert/framecodec"
	"github.com/culvertgate/culvert/tunnel"
)

// reversePair is a flowPair whose client takes streams that the gateway opens.
type reversePair struct {
	*flowPair
	served   chan net.Conn // streams of the gateway, at the client
	refusing func(kind tunnel.Kind, name string) (tunnel.Code, string)

	mu        sync.Mutex
	withdrawn []string // guarded by mu
}

func newReversePair(t *testing.T, change func(client, gateway *tunnel.Config)) *reversePair {
	t.Helper()
	p := &reversePair{served: make(chan net.Conn, 1024), refusing: func(tunnel.Kind, string) (tunnel.Code, string) { return 0, "" }}
	p.flowPair = newFlowPair(t, func(client, gateway *tunnel.Config) {
		client.Accept = func(in *tunnel.Incoming) {
			if in.Target().Datagrams() {
				conn, ep := newDatagramConn()
				if in.Attach(ep, "") == nil {
					p.served <- conn
				}
				return
			}
			conn, ep := newConn()
			if in.Attach(ep, "192.0.2.7:22") == nil {
				p.served <- conn
			}
		}
		gateway.Exposed = func(kind tunnel.Kind, name string) (tunnel.Code, string) {
			if code, text := p.refusing(kind, name); code != 0 {
				return code, text
			}
			return 0, "client:bob/" + name
		}
		gateway.Withdrawn = func(name string) {
			p.mu.Lock()
			defer p.mu.Unlock()
			p.withdrawn = append(p.withdrawn, name)
		}
		if change != nil {
			change(client, gateway)
		}
	})
	return p
}

func (p *reversePair) tookBack() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.withdrawn)
}

func (p *reversePair) expose(t *testing.T, name string) *tunnel.Service {
	t.Helper()
	s, err := exposeBy(t, p.client, tunnel.KindNamed, name)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func exposeBy(t *testing.T, s *tunnel.Session, kind tunnel.Kind, name string) (*tunnel.Service, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	return s.Expose(ctx, kind, name)
}

// reverse opens a stream of the gateway to a service.
func (p *reversePair) reverse(t *testing.T, name string) (gateway, client net.Conn) {
	t.Helper()
	conn, ep := newConn()
	if err := openBy(t, p.gateway, tunnel.Target{Kind: tunnel.KindNamed, Host: name}, ep); err != nil {
		t.Fatal(err)
	}
	return conn, <-p.served
}

func openBy(t *testing.T, s *tunnel.Session, target tunnel.Target, ep tunnel.Endpoint) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	_, err := s.Open(ctx, target, ep)
	return err
}

func echo(c net.Conn) {
	_, _ = io.Copy(c, c)
	_ = c.(*tunnel.Conn).CloseWrite()
}

// exchangeAll writes data and wants the same back.
func exchangeAll(c net.Conn, data []byte) error {
	go func() {
		_, _ = c.Write(data)
		_ = c.(*tunnel.Conn).CloseWrite()
	}()
	got, err := io.ReadAll(c)
	if err == nil && !bytes.Equal(got, data) {
		err = fmt.Errorf("%d bytes of %d came back, or others", len(got), len(data))
	}
	return err
}

func TestReverseStreams(t *testing.T) {
	p := newReversePair(t, nil)
	service := p.expose(t, "sshd")
	if service.Name() != "sshd" || service.Text() != "client:bob/sshd" {
		t.Errorf("the service is %q, %q", service.Name(), service.Text())
	}
	data := randomBytes(700_000)
	const each = 12
	results := make(chan error, 2*each)
	for range each {
		a, b := p.reverse(t, "sshd")
		c, ep := newConn()
		if err := openBy(t, p.client, tunnel.Target{Kind: tunnel.KindNamed, Host: "x"}, ep); err != nil {
			t.Fatal(err)
		}
		go echo(b)
		go echo(<-p.accepted)
		go func() { results <- exchangeAll(a, data) }()
		go func() { results <- exchangeAll(c, data) }()
	}
	numbers := map[bool][]uint32{}
	p.gateway.EachStream(func(st *tunnel.Stream) { numbers[st.Entry()] = append(numbers[st.Entry()], st.ID()) })
	for entry, list := range numbers {
		for _, n := range list {
			if (n&1 == 0) != entry || p.gateway.Stream(n) == nil && p.gateway.Stats().Streams == 2*each {
				t.Errorf("stream %d, opened by the gateway: %v", n, entry)
			}
		}
	}
	for range 2 * each {
		if err := <-results; err != nil {
			t.Error(err)
		}
	}
	waitFor(t, func() bool { return p.client.Stats().Streams+p.gateway.Stats().Streams == 0 })
}

func TestReverseFlows(t *testing.T) {
	p := newReversePair(t, nil)
	if _, err := exposeBy(t, p.client, tunnel.KindNamedDatagram, "dns"); err != nil {
		t.Fatal(err)
	}
	conn, ep := newDatagramConn()
	if err := openBy(t, p.gateway, tunnel.Target{Kind: tunnel.KindNamedDatagram, Host: "dns"}, ep); err != nil {
		t.Fatal(err)
	}
	served := <-p.served
	for _, way := range [][2]net.Conn{{conn, served}, {served, conn}} {
		if _, err := way[0].Write([]byte("a datagram")); err != nil {
			t.Fatal(err)
		}
		if got := receive(t, way[1]); string(got) != "a datagram" {
			t.Errorf("%q came", got)
		}
	}
	_ = conn.Close()
	if code := ended(t, served); code != framecodec.CodeCancelled {
		t.Errorf("the flow ended with %v", code)
	}
}

// TestReverseLimit: what the gateway may open at a client is bounded as the other
// way round, each side's streams for themselves.
func TestReverseLimit(t *testing.T) {
	p := newReversePair(t, func(client, _ *tunnel.Config) { client.MaxStreams = 2 })
	p.expose(t, "x")
	for range 2 {
		p.reverse(t, "x")
		_, ep := newConn()
		if err := openBy(t, p.client, tunnel.Target{Kind: tunnel.KindNamed, Host: "x"}, ep); err != nil {
			t.Fatal("the client's own streams count:", err)
		}
	}
	_, ep := newConn()
	err := openBy(t, p.gateway, tunnel.Target{Kind: tunnel.KindNamed, Host: "x"}, ep)
	if code := tunnel.CodeOf(err); code != framecodec.CodeTooManyStreams {
		t.Errorf("the third one: %v", err)
	}
}

func TestExposeIsAnswered(t *testing.T) {
	p := newReversePair(t, nil)
	p.refusing = func(_ tunnel.Kind, name string) (tunnel.Code, string) {
		if name == "secret" {
			return framecodec.CodeNotAllowed, "not allowed"
		}
		return 0, ""
	}
	p.expose(t, "web")
	for name, test := range map[string]struct {
		kind tunnel.Kind
		name string
		want tunnel.Code
	}{
		"refused by the gateway": {tunnel.KindNamed, "secret", framecodec.CodeNotAllowed},
		"a second time":          {tunnel.KindNamed, "web", framecodec.CodeConflict},
		"a name that cannot be":  {tunnel.KindNamed, "Web", framecodec.CodeUnknownTarget},
		"an empty name":          {tunnel.KindNamed, "", framecodec.CodeUnknownTarget},
		"a long name":            {tunnel.KindNamed, strings.Repeat("x", 64), framecodec.CodeUnknownTarget},
		"a kind that cannot be":  {tunnel.KindTCP, "tcp", framecodec.CodeUnknownTarget},
	} {
		if _, err := exposeBy(t, p.client, test.kind, test.name); tunnel.CodeOf(err) != test.want {
			t.Errorf("%s: %v, want %v", name, err, test.want)
		}
	}
	if _, err := exposeBy(t, p.gateway, tunnel.KindNamed, "web"); tunnel.CodeOf(err) != framecodec.CodeNotAllowed {
		t.Errorf("a gateway exposes something: %v", err)
	}
	for i := 1; ; i++ { // web is one of them, what was refused is none
		_, err := exposeBy(t, p.client, tunnel.KindNamed, fmt.Sprintf("s%d", i))
		if err == nil && i < tunnel.MaxServices {
			continue
		}
		if tunnel.CodeOf(err) != framecodec.CodeOverloaded || i != tunnel.MaxServices {
			t.Errorf("service %d: %v", i, err)
		}
		break
	}
}

func TestServiceEnds(t *testing.T) {
	p := newReversePair(t, nil)
	isOver := func(s *tunnel.Service) bool {
		select {
		case <-s.Done():
			return true
		default:
			return false
		}
	}
	// Taken back here: the name is free again.
	first := p.expose(t, "a")
	if isOver(first) || first.Err() != nil {
		t.Error("a service that was accepted is over")
	}
	first.Withdraw()
	first.Withdraw()
	<-first.Done()
	if code := tunnel.CodeOf(first.Err()); code != framecodec.CodeCancelled {
		t.Errorf("withdrawn: %v", first.Err())
	}
	again := p.expose(t, "a")
	if got := p.tookBack(); !slices.Equal(got, []string{"a"}) {
		t.Errorf("the gateway was told of %q", got)
	}
	// Taken back there; a stream that runs goes on.
	conn, served := p.reverse(t, "a")
	p.gateway.Revoke("a", framecodec.CodeNotAllowed, "no longer")
	<-again.Done()
	if code := tunnel.CodeOf(again.Err()); code != framecodec.CodeNotAllowed {
		t.Errorf("revoked: %v", again.Err())
	}
	go echo(served)
	if err := exchangeAll(conn, []byte("still here")); err != nil {
		t.Error(err)
	}
	third := p.expose(t, "a")
	// What crosses: the gateway accepts what the client has given up meanwhile.
	entered, proceed := make(chan struct{}), make(chan struct{})
	p.refusing = func(tunnel.Kind, string) (tunnel.Code, string) {
		close(entered)
		<-proceed
		return 0, ""
	}
	ctx, cancel := context.WithCancel(t.Context())
	result := make(chan error, 1)
	go func() {
		_, err := p.client.Expose(ctx, tunnel.KindNamed, "slow")
		result <- err
	}()
	<-entered
	cancel()
	if err := <-result; tunnel.CodeOf(err) != framecodec.CodeCancelled {
		t.Errorf("given up: %v", err)
	}
	if _, err := exposeBy(t, p.client, tunnel.KindNamed, "slow"); tunnel.CodeOf(err) != framecodec.CodeConflict {
		t.Errorf("before the answer to the first: %v", err)
	}
	close(proceed)
	waitFor(t, func() bool { return slices.Contains(p.tookBack(), "slow") })
	p.refusing = func(tunnel.Kind, string) (tunnel.Code, string) { return 0, "" }
	waitFor(t, func() bool {
		_, err := exposeBy(t, p.client, tunnel.KindNamed, "slow")
		return err == nil
	})
	// The session's end is that of all.
	p.client.Close(framecodec.CodeTunnelClosed, "")
	<-third.Done()
	if code := tunnel.CodeOf(third.Err()); code != framecodec.CodeTunnelClosed {
		t.Errorf("with the session: %v", third.Err())
	}
	if _, err := exposeBy(t, p.client, tunnel.KindNamed, "late"); err == nil {
		t.Error("a session that is over exposes something")
	}
}

// TestReverseNeedsBoth: a side that does not name the feature is asked for nothing.
func TestReverseNeedsBoth(t *testing.T) {
	for name, change := range map[string]func(client, gateway *tunnel.Config){
		"the client serves nothing":     func(client, _ *tunnel.Config) { client.Accept = nil },
		"the gateway takes no services": func(_, gateway *tunnel.Config) { gateway.Exposed = nil },
		"dialect 1 has none":            func(client, gateway *tunnel.Config) { client.Dialect, gateway.Dialect = 1, 1 },
	} {
		t.Run(name, func(t *testing.T) {
			t.Cleanup(func() { goleak.VerifyNone(t) })
			a, b := newWires()
			client := tunnel.Config{Dialect: 2, Role: tunnel.RoleClient, Accept: func(*tunnel.Incoming) {}}
			gateway := tunnel.Config{Dialect: 2, Role: tunnel.RoleGateway, Exposed: func(tunnel.Kind, string) (tunnel.Code, string) { return 0, "" }}
			change(&client, &gateway)
			g, c := tunnel.NewSession(b, gateway), tunnel.NewSession(a, client)
			defer func() { c.Close(0, ""); c.Wait(); g.Wait() }()
			<-g.Ready()
			if _, err := exposeBy(t, c, tunnel.KindNamed, "x"); tunnel.CodeOf(err) != framecodec.CodeNotAllowed {
				t.Errorf("exposing: %v", err)
			}
			_, ep := newConn()
			if err := openBy(t, g, tunnel.Target{Kind: tunnel.KindNamed, Host: "x"}, ep); tunnel.CodeOf(err) != framecodec.CodeNotAllowed {
				t.Errorf("opening: %v", err)
			}
			if g.Err() != nil || c.Err() != nil {
				t.Errorf("a session ended of it: %v, %v", g.Err(), c.Err())
			}
		})
	}
}

// TestReverseNumbersRunOut: the client is told, and makes another tunnel.
func TestReverseNumbersRunOut(t *testing.T) {
	p := newReversePair(t, nil)
	p.expose(t, "x")
	p.gateway.SetLastNumber(4)
	p.reverse(t, "x")
	p.reverse(t, "x")
	_, ep := newConn()
	if err := openBy(t, p.gateway, tunnel.Target{Kind: tunnel.KindNamed, Host: "x"}, ep); tunnel.CodeOf(err) != framecodec.CodeDraining {
		t.Errorf("the third one: %v", err)
	}
	select {
	case <-p.client.Away():
	case <-time.After(10 * time.Second):
		t.Error("the client was not told")
	}
}
