package gatewaykit

import (
	"context"
	"time"

	"github.com/culvertgate/culvert/framecodec"
	"github.com/culvertgate/culvert/tunnel"
	"github.com/culvertgate/culvert/tunnel/rtc"
	"github.com/culvertgate/culvert/tunnel/signal"
)

// backend is the gateway as its endpoint sees it.
type backend Gateway

var _ signal.Backend = (*backend)(nil)

func (b *backend) find(secret string) (*Session, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := b.sessions[secret]
	if s == nil {
		return nil, &tunnel.Error{Code: framecodec.CodeNotFound, Text: "no such session"}
	}
	return s, nil
}

func (b *backend) Create(ctx context.Context, _ signal.Caller, o signal.Offer) (signal.Session, error) {
	g := (*Gateway)(b)
	s, secret := &Session{etag: signal.NewETag()}, signal.NewSecret()
	peer, answer, err := b.RTC.Answer(ctx, o.SDP, rtc.Handler{
		OnChannel: func(p *rtc.Peer, c *rtc.Channel) { g.open(s, p, c) },
		OnClosed:  func(*rtc.Peer, error) { b.forget(secret) },
	})
	if err != nil {
		return signal.Session{}, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	s.peer = peer
	b.sessions[secret] = s
	b.targets = append(b.targets, o.Target)
	return signal.Session{Secret: secret, ETag: s.etag, Answer: answer, Expires: b.end()}, nil
}

// open makes a tunnel's session; its end is that of the tunnel.
func (g *Gateway) open(s *Session, p *rtc.Peer, c *rtc.Channel) {
	if c.Protocol() == "culvert.2.datagrams" && !c.Ordered() && !c.Reliable() {
		g.mu.Lock() // the client asks for it when it has a session, which may be before we have noted ours
		session := s.Tunnel()
		g.mu.Unlock()
		session.AttachDatagrams(c)
		return
	}
	dialect := tunnel.Dialect2
	if c.Protocol() == "" {
		dialect = tunnel.Dialect1
	}
	g.mu.Lock() // the client may be ready before the next line; Sessions waits for it
	session := tunnel.NewSession(c, tunnel.Config{Dialect: dialect, Role: tunnel.RoleGateway, Accept: g.accept})
	s.session.Store(session)
	g.mu.Unlock()
	g.wg.Go(func() {
		<-session.Done()
		p.Close(framecodec.CodeTunnelClosed)
		session.Wait()
	})
}

func (b *backend) forget(secret string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.sessions, secret)
}

// end is when the time of an identity is over that begins now.
func (b *backend) end() time.Time {
	if b.expires == 0 {
		return time.Time{}
	}
	return time.Now().Add(b.expires)
}

func (b *backend) Trickle(_ context.Context, _ signal.Caller, secret string, match signal.Match, f rtc.Fragment) error {
	s, err := b.find(secret)
	if err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if !match.Holds(s.etag) {
		return &tunnel.Error{Code: framecodec.CodePreconditionFailed}
	}
	b.trickled = append(b.trickled, f.Candidates...)
	return nil
}

func (b *backend) Restart(ctx context.Context, _ signal.Caller, secret string, f rtc.Fragment) (rtc.Fragment, string, error) {
	s, err := b.find(secret)
	if err != nil {
		return rtc.Fragment{}, "", err
	}
	answer, err := s.peer.Restart(ctx, f)
	if err != nil {
		return rtc.Fragment{}, "", err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.restarts++
	s.etag = signal.NewETag()
	return answer, s.etag, nil
}

func (b *backend) Delete(_ context.Context, _ signal.Caller, secret string) error {
	s, err := b.find(secret)
	if err != nil {
		return err
	}
	b.forget(secret)
	b.wg.Go(func() { s.peer.Close(framecodec.CodeTunnelClosed) })
	return nil
}

func (b *backend) Renew(_ context.Context, _ signal.Caller, secret string) (time.Time, error) {
	if _, err := b.find(secret); err != nil {
		return time.Time{}, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.end(), nil
}

func (b *backend) Exists(_ context.Context, _ signal.Caller, secret string) error {
	_, err := b.find(secret)
	return err
}

func (b *backend) Status(context.Context, signal.Caller, string) (any, error) {
	return map[string]string{}, nil
}

func (b *backend) Targets(context.Context, signal.Caller) (any, error) {
	type target struct {
		Name   string `json:"name"`
		Kind   string `json:"kind"`
		Usable bool   `json:"usable"`
	}
	return map[string]any{"targets": []target{{"echo", "stream", true}, {"pipe", "stream", true}}, "dynamic": true}, nil
}

func (b *backend) ICEServers(context.Context, signal.Caller) []rtc.ICEServer { return nil }
