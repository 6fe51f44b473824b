package client

import (
	"context"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"

	"github.com/culvertgate/culvert/framecodec"
	"github.com/culvertgate/culvert/tunnel"
)

// Service is offered to the gateway, which may then open streams to it.
type Service struct {
	Name      string // tunnel.ValidServiceName
	Datagrams bool   // its streams are flows
}

func (s Service) kind() tunnel.Kind {
	if s.Datagrams {
		return tunnel.KindNamedDatagram
	}
	return tunnel.KindNamed
}

// Server answers the streams that the gateway opens in one tunnel;
// *gateway.Exit is one.
type Server interface {
	Accept(*tunnel.Incoming) // as tunnel.Config.Accept
	Close()                  // gives up what is being opened; it does not wait
	Wait()                   // returns when nothing runs any more, behind Close
}

// Publication is what became of the offer of a service.
type Publication struct {
	Service Service
	// Name is what the service is called at the gateway, such as client:bob/sshd;
	// empty where it did not say.
	Name string
	// Err is why it is not published now, or no longer, a *tunnel.Error; nil: it is.
	Err error
}

// How long lies between two offers of a service that the gateway has refused: it
// may still know of the tunnel before this one, or get another policy.
const (
	minOffer    = time.Second
	maxOffer    = time.Minute
	offerAnswer = 15 * time.Second // for the gateway's answer
)

// publication is a tunnel's part about services.
type publication struct {
	server   Server // nil: there are none
	once     sync.Once
	withdraw chan struct{} // closed: nothing is offered any more
}

// publish keeps the services offered as long as the tunnel takes streams.
func (t *Tunnel) publish() {
	for _, service := range t.cfg.Services {
		t.wg.Go(func() { t.guard(func() { t.keepPublished(service) }) })
	}
}

// Withdraw takes all services back, for good in this tunnel: the gateway opens no
// more streams to them. Those that run go on.
func (t *Tunnel) Withdraw() { t.services.once.Do(func() { close(t.services.withdraw) }) }

// keepPublished offers a service, again after each refusal.
func (t *Tunnel) keepPublished(service Service) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	t.wg.Go(func() { // ends with this function, or ends it
		select {
		case <-t.services.withdraw:
		case <-t.session.Done():
		case <-t.session.Away(): // the next tunnel publishes them
		case <-ctx.Done():
		}
		cancel()
	})
	wait := backoff.NewExponentialBackOff()
	wait.InitialInterval, wait.MaxInterval, wait.Multiplier = minOffer, maxOffer, 2
	for {
		offered, err := t.offer(ctx, service)
		if err == nil {
			wait.Reset()
			t.cfg.Published(t, Publication{Service: service, Name: offered.Text()})
			select {
			case <-offered.Done():
				err = offered.Err()
			case <-ctx.Done():
				offered.Withdraw()
			}
		}
		if ctx.Err() != nil {
			return // the tunnel's end, or what was asked for: both are told otherwise
		}
		t.cfg.Published(t, Publication{Service: service, Err: err})
		timer := time.NewTimer(wait.NextBackOff())
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return
		}
	}
}

func (t *Tunnel) offer(ctx context.Context, service Service) (*tunnel.Service, error) {
	ctx, cancel := context.WithTimeout(ctx, offerAnswer)
	defer cancel()
	if service.Datagrams {
		if err := t.wantDatagrams(); err != nil {
			return nil, err
		}
	}
	return t.session.Expose(ctx, service.kind(), service.Name)
}

// validateServices checks what is to be offered.
func (c Config) validateServices() error {
	if len(c.Services) == 0 {
		return nil
	}
	if c.Dialect == tunnel.Dialect1 {
		return tunnel.Errorf(framecodec.CodeNotAllowed, "dialect 1 has no services: a client of it cannot expose any")
	}
	if len(c.Services) > tunnel.MaxServices {
		return tunnel.Errorf(framecodec.CodeOverloaded, "%d services: a tunnel has at most %d", len(c.Services), tunnel.MaxServices)
	}
	seen := map[string]bool{}
	for _, s := range c.Services {
		switch {
		case !tunnel.ValidServiceName(s.Name):
			return tunnel.Errorf(framecodec.CodeUnknownTarget, "%q is no service's name ([a-z0-9-], at most 63)", s.Name)
		case seen[s.Name]:
			return tunnel.Errorf(framecodec.CodeConflict, "the service %s is there twice", s.Name)
		}
		seen[s.Name] = true
	}
	return nil
}
