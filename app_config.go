package culvert

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/culvertgate/culvert/tunnel"
	"github.com/culvertgate/culvert/tunnel/signal"
)

// ICEServer is a STUN or TURN server. Our own remotes use it, and clients of our
// endpoints are told of it (RFC 9725 section 4.6): a STUN server always, a TURN
// server when `secret` makes credentials for them or `share` hands out ours.
type ICEServer struct {
	// URLs are stun:, stuns:, turn: or turns: addresses (RFC 7064, RFC 7065) of one server. Required.
	URLs []string `json:"urls,omitempty"`
	// Secret is the secret shared with the TURN server (TURN REST): each client gets a user name and password of
	// its own that end after ttl. Give a placeholder, {env.*} or {file.*}.
	Secret string `json:"secret,omitempty"`
	// TTL is how long credentials made with secret are good. Default: 10m.
	TTL caddy.Duration `json:"ttl,omitempty"`
	// Username is a fixed TURN user name. Placeholders work.
	Username string `json:"username,omitempty"`
	// Credential is the password of username. Give a placeholder, {env.*} or {file.*}.
	Credential string `json:"credential,omitempty"`
	// Share hands username and credential to clients as they are. Without it they never leave this machine.
	Share bool `json:"share,omitempty"`
}

// Limits bound what all tunnels of this process may use together. Zero means the default.
type Limits struct {
	// Tunnels that may be open. Default: 1000.
	Tunnels int `json:"tunnels,omitempty"`
	// Streams of all tunnels. Default: 100000.
	Streams int `json:"streams,omitempty"`
	// Memory is the bytes that all stream buffers and peer connections may take. Default: 1 GiB.
	Memory int64 `json:"memory,omitempty"`
	// TunnelMemory is the bytes that the streams of one tunnel may take. Default: 64 MiB.
	TunnelMemory int64 `json:"tunnel_memory,omitempty"`
	// Handshakes are offers answered whose data channel is not open yet. Default: 256.
	Handshakes int `json:"handshakes,omitempty"`
	// HandshakesPerClient is the same of one identity, and of one address (IPv6: /64). Default: 8.
	HandshakesPerClient int `json:"handshakes_per_client,omitempty"`
	// MemoryPerIdentity is the bytes that all tunnels of one identity may take. Default: 128 MiB.
	MemoryPerIdentity int64 `json:"memory_per_identity,omitempty"`
}

// Timeouts bound every phase of a tunnel's and a stream's life. Zero means the default.
type Timeouts struct {
	// Connect is the time from the answer to an open channel. Default: 15s.
	Connect caddy.Duration `json:"connect,omitempty"`
	// Dial is the time for a connection to a target, look-up and waiting line included. Default: 10s.
	Dial caddy.Duration `json:"dial,omitempty"`
	// Keepalive is when a silent target is probed; it is given up after about twice that. (A silent peer is given up
	// by ICE within 25 s.) Default: 15s.
	Keepalive caddy.Duration `json:"keepalive,omitempty"`
	// Write ends a stream whose peer or target takes no byte for this long. Default: 0, as long as memory is not
	// short (dialect 1: 30s).
	Write caddy.Duration `json:"write,omitempty"`
	// Idle ends a stream without data. Default: 0, never.
	Idle caddy.Duration `json:"idle,omitempty"`
	// UDPIdle ends a UDP flow without datagrams. Default: 60s.
	UDPIdle caddy.Duration `json:"udp_idle,omitempty"`
	// Drain is how long streams may finish when the process ends. Default: 10s.
	Drain caddy.Duration `json:"drain,omitempty"`
}

// Remote is a gateway that entries of this Caddy reach through a tunnel of ours.
type Remote struct {
	// URLs of the gateway's endpoint, tried in order. https, or http to a loopback address. Required.
	URLs []string `json:"urls,omitempty"`
	// Header is sent with each signalling request. Placeholders are read again for each attempt, so a token in
	// {file./path} may change.
	Header map[string]string `json:"header,omitempty"`
	// Dialect is 2, or 1 for a peer of the reference system. Default: 2.
	Dialect int `json:"dialect,omitempty"`
	// Connect is lazy (with the first stream) or eager (at start, and kept up). Default: lazy; with expose, eager.
	Connect string `json:"connect,omitempty"`
	// Expose has services of this machine that the gateway may open, by name ([a-z0-9-]): addresses as those of a
	// named target. A remote with some is always eager.
	Expose map[string][]string `json:"expose,omitempty"`
	// TLSTrustPool says which certificates the gateway may have. Default: those of the system.
	TLSTrustPool json.RawMessage `json:"tls_trust_pool,omitempty" caddy:"namespace=tls.ca_pool.source inline_key=provider"`
	// TLSClientAuth is our own certificate.
	TLSClientAuth *ClientCertificate `json:"tls_client_auth,omitempty"`
	// TLSServerName is the name that the gateway's certificate must have. Default: the URL's host.
	TLSServerName string `json:"tls_server_name,omitempty"`
}

// ClientCertificate names PEM files. Placeholders work.
type ClientCertificate struct {
	Certificate string `json:"certificate,omitempty"`
	Key         string `json:"key,omitempty"`
}

const (
	defaultListen = "udp/:3478"
	connectLazy   = "lazy"
	connectEager  = "eager"
)

// applyDefaults fills in what the operator left out.
func (l *Limits) applyDefaults() {
	orDefault(&l.Tunnels, 1000)
	orDefault(&l.Streams, 100_000)
	orDefault(&l.Memory, 1<<30)
	orDefault(&l.TunnelMemory, 64<<20)
	orDefault(&l.Handshakes, 256)
	orDefault(&l.HandshakesPerClient, 8)
	orDefault(&l.MemoryPerIdentity, 128<<20)
}

func (l *Limits) validate() error {
	return errors.Join(
		atLeast("tunnels", l.Tunnels, 1), atLeast("streams", l.Streams, 1),
		atLeast("handshakes", l.Handshakes, 1), atLeast("handshakes_per_client", l.HandshakesPerClient, 1),
		atLeast("memory", l.Memory, 4<<20), atLeast("tunnel_memory", l.TunnelMemory, 2<<20), // less than leastMemory opens no stream
		atLeast("memory_per_identity", l.MemoryPerIdentity, 2<<20))
}

func (t *Timeouts) applyDefaults() {
	orDefault(&t.Connect, caddy.Duration(15*time.Second))
	orDefault(&t.Dial, caddy.Duration(10*time.Second))
	orDefault(&t.Keepalive, caddy.Duration(15*time.Second))
	orDefault(&t.UDPIdle, caddy.Duration(60*time.Second))
	orDefault(&t.Drain, caddy.Duration(10*time.Second))
}

func (t *Timeouts) validate() error {
	return errors.Join(
		atLeast("connect", t.Connect, 1), atLeast("dial", t.Dial, 1), atLeast("keepalive", t.Keepalive, caddy.Duration(time.Second)),
		atLeast("write", t.Write, 0), atLeast("idle", t.Idle, 0),
		atLeast("udp_idle", t.UDPIdle, caddy.Duration(time.Second)), atLeast("drain", t.Drain, 1))
}

func (s *ICEServer) validate() error {
	if len(s.URLs) == 0 {
		return errors.New("no URL")
	}
	turn := false
	for _, u := range s.URLs {
		scheme, rest, ok := strings.Cut(u, ":")
		if !ok || rest == "" {
			return fmt.Errorf("%q is not a URL such as turn:turn.example.net:3478", u)
		}
		switch scheme {
		case "turn", "turns":
			turn = true
		case "stun", "stuns":
		default:
			return fmt.Errorf("%q: scheme %q is none of stun, stuns, turn, turns", u, scheme)
		}
	}
	return s.validateCredentials(turn)
}

func (s *ICEServer) validateCredentials(turn bool) error {
	switch {
	case !turn && (s.Secret != "" || s.Username != "" || s.Credential != "" || s.Share || s.TTL != 0):
		return errors.New("credentials belong to turn: and turns: servers only")
	case s.Secret != "" && (s.Username != "" || s.Credential != "" || s.Share):
		return errors.New("give either secret, or username and credential, not both")
	case s.Secret == "" && s.TTL != 0:
		return errors.New("ttl belongs to secret")
	case s.TTL < 0:
		return errors.New("ttl must not be negative")
	case (s.Username == "") != (s.Credential == ""):
		return errors.New("username and credential belong together")
	case turn && s.Secret == "" && s.Username == "":
		return errors.New("a TURN server needs secret, or username and credential")
	}
	return nil
}

func (r *Remote) validate() error {
	if len(r.URLs) == 0 {
		return errors.New("no URL")
	}
	for _, raw := range r.URLs {
		if err := validateRemoteURL(raw); err != nil {
			return err
		}
	}
	switch {
	case r.Dialect != 1 && r.Dialect != 2:
		return fmt.Errorf("dialect %d is neither 1 nor 2", r.Dialect)
	case r.Connect != connectLazy && r.Connect != connectEager:
		return fmt.Errorf("connect %q is neither lazy nor eager", r.Connect)
	case len(r.Expose) > 0 && r.Connect == connectLazy:
		return errors.New("connect lazy: services are published while a tunnel is up, so a remote with expose is always eager; leave connect out")
	case len(r.Expose) > 0 && r.Dialect == 1:
		return errors.New("expose: dialect 1 has no services")
	case len(r.Expose) > tunnel.MaxServices:
		return fmt.Errorf("expose: %d services, a tunnel has at most %d", len(r.Expose), tunnel.MaxServices)
	case r.TLSClientAuth != nil && (r.TLSClientAuth.Certificate == "" || r.TLSClientAuth.Key == ""):
		return errors.New("tls_client_auth needs a certificate and a key")
	}
	return nil
}

// validateRemoteURL refuses at load what the client would refuse at the first
// stream: plain http beyond loopback too (security.md, "Who may do what" 5).
func validateRemoteURL(raw string) error {
	u, err := url.Parse(raw)
	if err != nil {
		return fmt.Errorf("parsing URL: %w", err)
	}
	switch {
	case u.Scheme != "https" && u.Scheme != "http":
		return fmt.Errorf("%q: the URL must begin with https:// (or http:// to a loopback address)", u.Redacted())
	case u.Host == "":
		return fmt.Errorf("%q: the URL has no host", u.Redacted())
	case u.User != nil:
		return fmt.Errorf("%q: credentials belong into header, not into the URL", u.Redacted())
	}
	_, err = signal.ParseURL(raw)
	return err
}

func orDefault[T comparable](v *T, def T) {
	var zero T
	if *v == zero {
		*v = def
	}
}

func atLeast[T ~int | ~int64](name string, v, least T) error {
	if v >= least {
		return nil
	}
	if d, ok := any(least).(caddy.Duration); ok && d >= caddy.Duration(time.Millisecond) {
		return fmt.Errorf("%s must be at least %s", name, time.Duration(d))
	}
	return fmt.Errorf("%s must be at least %d", name, least)
}
