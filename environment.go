package culvert

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyevents"
	"github.com/caddyserver/certmagic"
	"go.uber.org/zap"

	"github.com/culvertgate/culvert/framecodec"
	"github.com/culvertgate/culvert/tunnel"
	"github.com/culvertgate/culvert/tunnel/policy"
	"github.com/culvertgate/culvert/tunnel/rtc"
)

// environment is one configuration as the hub's long-lived things see it. It is
// filled while the configuration is provisioned and read-only from Start on.
type environment struct {
	ctx        caddy.Context
	logger     *zap.Logger
	events     *caddyevents.App
	storage    certmagic.Storage
	limits     Limits
	timeouts   Timeouts
	gateway    rtc.Options
	iceServers []ICEServer // secrets expanded
	endpoints  map[string]*endpointState
	remotes    map[string]*remoteSpec
	running    map[string]*pooledRemote // set by attach
	local      []string                 // endpoints that handlers of this configuration want services of; empty: the only one
	socks      map[socksGrant]bool      // who may associate at SOCKS entries
	listeners  []string                 // Caddy addresses of endpoints and entries
	http3      []string                 // those of them that are HTTP/3's too
	admin      []string                 // Caddy addresses of the admin endpoint
	refused    []policy.Listener        // all of these, as the policy needs them; set by attach
	attached   chan struct{}            // closed by attach: requests wait for it, servers may start before us
	released   chan struct{}            // closed by Cleanup: an environment that never was attached will not be
}

// wait returns when the configuration is attached. Servers may accept before our
// Start; what they accept waits here, but not for a Start that failed.
func (env *environment) wait(ctx context.Context) error {
	select {
	case <-env.attached: // also of a configuration that is over by now: its connections go on
		return nil
	default:
	}
	select {
	case <-env.attached:
		return nil
	case <-env.released:
		return &tunnel.Error{Code: framecodec.CodeDraining, Text: "the configuration was not taken"}
	case <-ctx.Done():
		return &tunnel.Error{Code: framecodec.CodeOverloaded, Text: "the gateway is starting", Err: ctx.Err()}
	}
}

// endpointState is what the hub knows of an endpoint: tunnels and
// configurations are matched by its name.
type endpointState struct {
	name           string
	fingerprint    string // of the whole configuration, to tell equal endpoints from different ones
	policy         *policy.Policy
	limits         EndpointLimits
	maxAge         caddy.Duration
	dialects       []int
	allowAnonymous bool
	dynamic        bool // clients may name addresses
	exposes        bool // clients may publish services
	tickets        *Tickets
	onReload       string // reloadKeep, reloadDrain or reloadCut
}

func (s *endpointState) admits(dialect int) bool { return slices.Contains(s.dialects, dialect) }

// exposingEndpoint returns the name of the endpoint whose clients' services are
// meant: the given one, or without a name the only one that has any.
func (env *environment) exposingEndpoint(name string) (string, error) {
	var all []string
	for n, s := range env.endpoints {
		if s.exposes {
			all = append(all, n)
		}
	}
	slices.Sort(all)
	switch {
	case name != "" && slices.Contains(all, name):
		return name, nil
	case name != "":
		return "", fmt.Errorf("no endpoint %q with an expose block, there are: %q", name, all)
	case len(all) == 1:
		return all[0], nil
	case len(all) == 0:
		return "", errors.New("no endpoint of this Caddy has an expose block: clients publish nothing here")
	default:
		return "", fmt.Errorf("several endpoints have an expose block: say which, endpoint and one of %q", all)
	}
}

// listenAddress is the socket's identity, and the hub's.
type listenAddress struct{ network, address string }

// String returns the form of the configuration, such as udp/:3478.
func (l listenAddress) String() string { return l.network + "/" + l.address }

// port returns the port, 0 if it is not known.
func (l listenAddress) port() int {
	_, text, _ := net.SplitHostPort(l.address) // without a port it is 0
	port, _ := strconv.Atoi(text)
	return port
}

func (l listenAddress) loopback() bool {
	host, _, err := net.SplitHostPort(l.address)
	if err != nil {
		return false
	}
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && ip.IsLoopback()
}
