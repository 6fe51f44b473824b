package acceptance

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/culvertgate/culvert/internal/testkit"
)

// timeoutsOf are global options.
func timeoutsOf(lines string) string { return "\t\ttimeouts {\n\t\t\t" + lines + "\n\t\t}\n" }

// configuredCauses are ends that a configuration asks for: the table of
// ends_test.go goes on, each row with a pair of its own.
var configuredCauses = []struct {
	setup setup
	cause cause
}{
	{setup{gatewayApp: timeoutsOf("idle 2s")},
		cause{"idle at the gateway", nothing, "idle_timeout", "idle_timeout", sawRST, sawRST}},
	{setup{clientApp: timeoutsOf("idle 2s")},
		cause{"idle at the client", nothing, "idle_timeout", "idle_timeout", sawRST, sawRST}},
	{setup{gatewayApp: timeoutsOf("write 2s")},
		cause{"the target does not read", unread(func(s stream) (from, to *net.TCPConn) { return s.near, s.far }), "slow_consumer", "slow_consumer", "", ""}},
	{setup{clientApp: timeoutsOf("write 2s")},
		cause{"the opener does not read", unread(func(s stream) (from, to *net.TCPConn) { return s.far, s.near }), "slow_consumer", "slow_consumer", "", ""}},
	{setup{endpoint: defaultEndpoint + "\t\tmax_age 3s\n"},
		cause{"its identity is no longer good", revoke, "auth_expired", "auth_expired", sawRST, sawRST}},
	{setup{},
		cause{"its endpoint is removed", removeEndpoint, "policy_changed", "policy_changed", sawRST, sawRST}},
}

func TestMustShow7CodesOfConfiguredEnds(t *testing.T) {
	t.Parallel()
	for _, row := range configuredCauses {
		t.Run(row.cause.name, func(t *testing.T) {
			t.Parallel()
			p := startPair(t, row.setup)
			p.endOne(t, startTarget(t, p.net), row.cause)
		})
	}
}

// nothing is what the opener and the target do.
func nothing(*pair, stream) error { return nil }

// unread has one end send what the other does not read, until the sender is
// told.
func unread(turn func(stream) (from, to *net.TCPConn)) func(*pair, stream) error {
	return func(_ *pair, s stream) error {
		blocked := stallOne(turn(s))
		if err := testkit.WaitFor(patience, blocked.isBlocked); err != nil {
			return err
		}
		select {
		case err := <-blocked.result:
			if !isReset(err) {
				return fmt.Errorf("the sender saw %w, want a reset", err)
			}
			return nil
		case <-time.After(patience):
			s.close()
			return errors.Join(errors.New("the stream is not cut"), <-blocked.result)
		}
	}
}

// revoke takes the client's token away: it can renew its tunnel no longer.
func revoke(p *pair, _ stream) error {
	ctx, cancel := adminContext()
	defer cancel()
	return p.gateway.Reload(ctx, strings.Replace(p.setup.gatewayCaddyfile(), "Bearer {env.CULVERT_TOKEN}", "Bearer of-somebody-else", 1))
}

// removeEndpoint leaves a gateway without an endpoint.
func removeEndpoint(p *pair, _ stream) error {
	ctx, cancel := adminContext()
	defer cancel()
	global, _, _ := strings.Cut(p.setup.gatewayCaddyfile(), "http://")
	return p.gateway.Reload(ctx, global+"http://:8080 {\n\tbind 127.0.0.1\n\trespond nothing\n}\n")
}

// TestMustShow7CodesOfFullTunnel refuses one stream more than there may be, by
// SOCKS and by a named entry; with an older one gone there is room again.
func TestMustShow7CodesOfFullTunnel(t *testing.T) {
	p := startPair(t, setup{endpoint: defaultEndpoint + "\t\tlimits {\n\t\t\tstreams_per_tunnel 2\n\t\t}\n"})
	g := startTarget(t, p.net)
	first := p.mustOpen(g, entryPort)
	check(t, first.echo(), p.mustOpen(g, entryPort).echo())
	for name, open := range map[string]func() error{
		"SOCKS": func() error {
			var reply socksError
			_, err := p.openBySOCKS(socksPort, "127.0.0.1", targetPort, patience)
			if !errors.As(err, &reply) || reply != replyFailure {
				return fmt.Errorf("%w, want SOCKS reply %d", err, replyFailure)
			}
			return nil
		},
		"named target": p.openReset,
	} {
		t.Run(name, func(t *testing.T) {
			gateway, client := metricsOf(t, p.gateway).Opened("gateway"), metricsOf(t, p.client).Opened("client")
			check(t, open())
			refused(t, p, "too_many_streams", gateway, client)
		})
	}
	check(t, first.echo())
	first.close()
	testkit.Eventually(t, patience, func() error {
		c, err := p.openBySOCKS(socksPort, "127.0.0.1", targetPort, patience)
		if err == nil {
			err = c.Close()
		}
		return err
	})
}

// replyFailure is the SOCKS reply of a general failure (RFC 1928 section 6).
const replyFailure = 1

// openReset connects to the named entry and holds that the connection is reset.
func (p *pair) openReset() error {
	c, err := p.dial(entryPort)
	switch {
	case err == nil:
		if got := seen(c, patience); got != sawRST {
			return fmt.Errorf("the opener saw %s, want %s", got, sawRST)
		}
		return nil
	case isReset(err): // it may come before connect has returned
		return nil
	default:
		return err
	}
}

// TestMustShow7Draining stops a gateway in an orderly way and looks from the
// client: what runs goes on for timeouts.drain, nothing new gets in, and what
// waits for that is served when the gateway is back.
func TestMustShow7Draining(t *testing.T) {
	t.Parallel()
	p := startPair(t, setup{gatewayApp: timeoutsOf("drain 12s")})
	g := startTarget(t, p.net)
	finishes, stays := p.mustOpen(g, entryPort), p.mustOpen(g, entryPort)
	check(t, finishes.echo(), stays.echo())
	ends := metricsOf(t, p.client).Ends("client")
	check(t, p.gateway.Signal(os.Interrupt))
	start, waits := time.Now(), p.openLater()
	testkit.Eventually(t, 10*time.Second, func() error {
		if !strings.Contains(p.client.Log(), "gateway not reached") {
			return errors.New("the client does not look for another tunnel")
		}
		return nil
	})
	check(t, transfer(finishes.near, finishes.far, 3, 2<<20), transfer(finishes.far, finishes.near, 4, 2<<20))
	if got := seen(stays.near, patience); got != sawRST {
		t.Errorf("the opener of a stream that stays saw %s, want %s", got, sawRST)
	}
	if took := time.Since(start); took < 11*time.Second || took > 20*time.Second {
		t.Errorf("the stream that stays was cut after %v, want 12 s", took)
	}
	want := map[string]int{"normal": 1, "draining": 1}
	testkit.Eventually(t, patience, func() error {
		m, err := readMetrics(p.client)
		got := testkit.Rise(ends, m.Ends("client"))
		delete(got, "cancelled") // of openLater
		if err == nil && !maps.Equal(got, want) {
			err = fmt.Errorf("the client counts the ends %v, want %v", got, want)
		}
		return err
	})
	<-p.gateway.Done()
	p.restart()
	check(t, <-waits)
}

// openLater opens a stream by SOCKS, however often that must be tried, in a
// gateway that begins to drain: as long as that has not heard of its end it
// accepts, then it refuses, and then there is none.
func (p *pair) openLater() <-chan error {
	old, result := p.gateway, make(chan error, 1)
	try := func() error {
		c, err := p.openBySOCKS(socksPort, "127.0.0.1", targetPort, patience)
		var reply socksError
		switch {
		case errors.As(err, &reply) && reply == replyFailure: // draining
			return err
		case err != nil:
			return fmt.Errorf("%w, want SOCKS reply %d or %d", err, replySucceeded, replyFailure)
		case running(old):
			err = errors.New("opened by the gateway that ends")
		}
		return errors.Join(err, reset(c))
	}
	go func() { result <- testkit.WaitFor(patience, try) }()
	return result
}
