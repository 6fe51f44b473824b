package client

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/culvertgate/culvert/tunnel"
	"github.com/culvertgate/culvert/tunnel/rtc"
	"github.com/culvertgate/culvert/tunnel/signal"
)

// Defaults of Config.
const (
	DefaultConnectTimeout = 20 * time.Second
	DefaultDialTimeout    = 15 * time.Second
)

// Connect says when a Remote connects.
type Connect int

// When a Remote connects.
const (
	Lazy  Connect = iota // with the first stream, and again with the first one after a loss
	Eager                // at once, and kept up
)

// Config says where the gateway is and who we are. Only URLs needs a value. It
// must not be changed after it was given to NewRemote or Dial.
type Config struct {
	// URLs of the gateway's endpoint, tried in order, the next one on failure:
	// https, or http to a loopback address.
	URLs []string
	// Header returns what goes with each request to the gateway, such as
	// Authorization. It is asked again for each one, so a token may change.
	Header func(context.Context) (http.Header, error)
	// TLS says which gateways are trusted and what certificate is ours; nil: the
	// system's roots. It is not used when Transport is set.
	TLS *tls.Config
	// Transport carries the requests; nil: one made from TLS, with the proxies of
	// the environment.
	Transport http.RoundTripper
	// Dialect of the frames. 0: tunnel.Dialect2; tunnel.Dialect1 for a gateway of
	// the reference system.
	Dialect tunnel.Dialect
	// Target is what the whole tunnel is for (?target=): streams without a target
	// of their own go there. Dialect 1 can name no other.
	Target string
	// Connect says when a Remote connects. Default: Lazy.
	Connect Connect
	// ICEServers are used besides those that the gateway names.
	ICEServers []rtc.ICEServer
	// Loopback uses loopback candidates. A URL with a loopback address sets it.
	Loopback bool
	// ConnectTimeout bounds each attempt at one URL, from the name's resolution to
	// a usable tunnel. 0: 20 s.
	ConnectTimeout time.Duration
	// DialTimeout bounds the opening of a stream in a tunnel that is up. 0: 15 s,
	// which is more than a gateway takes to say that a target does not answer.
	DialTimeout time.Duration
	// Timeouts of ICE. Zero fields: those of package rtc.
	Timeouts rtc.Timeouts
	// WriteTimeout and IdleTimeout are those of tunnel.Config.
	WriteTimeout, IdleTimeout time.Duration
	// UDPIdleTimeout is FlowIdleTimeout of tunnel.Config.
	UDPIdleTimeout time.Duration
	// Services are offered to the gateway in each tunnel; with some, a Remote is
	// Eager. Serve makes what answers the streams that the gateway opens, for each
	// tunnel anew, and is needed then. Published is told what becomes of each offer,
	// behind Connected; it must not block. nil: nobody.
	Services  []Service
	Serve     func() Server
	Published func(*Tunnel, Publication)
	// Budget is the parent of each tunnel's; nil: none.
	Budget *tunnel.Budget
	// TunnelMemory bounds what waits in the streams of one tunnel, in bytes. 0:
	// 64 MiB.
	TunnelMemory int64
	// Logger returns the logger of the moment; nil: nothing is logged.
	Logger func() *zap.Logger
	// Observer is told of the tunnels' streams; nil: nobody.
	Observer tunnel.Observer
	// Progress is told of each step of connecting; nil: nobody. It must not block
	// and may be called concurrently for different attempts only.
	Progress func(Progress)
	// Connected is told of each tunnel that is up and how long it took, Ended of
	// its end, Failed of each attempt at one URL that led to none. Ended comes
	// after the tunnel's Connected and before that of the tunnel that a Remote
	// makes in its place; its session is over by then, while the peer connection
	// may still be being released. (A tunnel that takes no new streams is replaced
	// before its end.) They must not block and must not close the Remote or the
	// Tunnel. Nil: nobody.
	Connected func(*Tunnel, time.Duration)
	Ended     func(*Tunnel, error)
	Failed    func(error, time.Duration)

	released     func(*Tunnel) // told when nothing is held of a tunnel that was up
	dialer       *rtc.Dialer   // one for all attempts: it keeps the certificate
	ownTransport bool          // Transport was made here
	single       bool          // the tunnel is all there is: what is ours ends with it
}

// Validate reports what is wrong with a configuration.
func (c Config) Validate() error {
	if len(c.URLs) == 0 {
		return errors.New("a remote needs the URL of a gateway")
	}
	for _, u := range c.URLs {
		if _, err := signal.ParseURL(u); err != nil {
			return err
		}
	}
	if c.Dialect > tunnel.Dialect2 {
		return fmt.Errorf("there is no dialect %d: use 2, or 1 for a peer of the reference system", c.Dialect)
	}
	if len(c.Services) > 0 && c.Serve == nil {
		return errors.New("services need Serve, which answers their streams")
	}
	if err := c.validateServices(); err != nil {
		return err
	}
	if c.Target != "" && !tunnel.ValidTargetName(c.Target) {
		return fmt.Errorf("%q is no target's name ([a-z0-9][a-z0-9_.-]*)", c.Target)
	}
	return nil
}

func (c Config) withDefaults() Config {
	if c.Dialect == 0 {
		c.Dialect = tunnel.Dialect2
	}
	if c.ConnectTimeout <= 0 {
		c.ConnectTimeout = DefaultConnectTimeout
	}
	if c.DialTimeout <= 0 {
		c.DialTimeout = DefaultDialTimeout
	}
	if c.TunnelMemory <= 0 {
		c.TunnelMemory = 64 << 20
	}
	if c.Logger == nil {
		c.Logger = zap.NewNop
	}
	if c.Progress == nil {
		c.Progress = func(Progress) {}
	}
	if c.Connected == nil {
		c.Connected = func(*Tunnel, time.Duration) {}
	}
	if c.Ended == nil {
		c.Ended = func(*Tunnel, error) {}
	}
	if c.Failed == nil {
		c.Failed = func(error, time.Duration) {}
	}
	if c.Published == nil {
		c.Published = func(*Tunnel, Publication) {}
	}
	if len(c.Services) > 0 {
		c.Connect = Eager
	}
	if c.released == nil {
		c.released = func(*Tunnel) {}
	}
	if c.Transport == nil {
		c.Transport, c.ownTransport = newTransport(c.TLS), true
	}
	c.dialer = rtc.NewDialer(rtc.DialerConfig{
		Logger:         c.Logger,
		ConnectTimeout: min(c.ConnectTimeout, rtc.DefaultConnectTimeout),
		Timeouts:       c.Timeouts,
		Loopback:       c.Loopback || slices.ContainsFunc(c.URLs, isLoopback),
	})
	return c
}

// maxHeader bounds the header of an answer, in bytes: the many servers of a long
// Link list fit.
const maxHeader = 256 << 10

// newTransport makes the transport of one Remote or Tunnel, so that its idle
// connections can be closed with it.
func newTransport(cfg *tls.Config) *http.Transport {
	if cfg == nil {
		cfg = &tls.Config{MinVersion: tls.VersionTLS12}
	}
	cfg = cfg.Clone() // net/http writes its protocols into it
	return &http.Transport{
		Proxy:               http.ProxyFromEnvironment,
		TLSClientConfig:     cfg,
		ForceAttemptHTTP2:   true,
		TLSHandshakeTimeout: 10 * time.Second,
		IdleConnTimeout:     30 * time.Second,
		MaxIdleConnsPerHost: 2,

		MaxResponseHeaderBytes: maxHeader,
	}
}

// closeIdle closes the connections that the transport keeps, so that the next
// request makes a new one.
func (c Config) closeIdle() {
	if t, ok := c.Transport.(interface{ CloseIdleConnections() }); ok {
		t.CloseIdleConnections()
	}
}

// release gives back what was made for the configuration.
func (c Config) release() {
	if c.ownTransport {
		c.closeIdle()
	}
}
