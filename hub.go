package culvert

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/caddyserver/caddy/v2"
	"go.uber.org/zap"

	"github.com/culvertgate/culvert/framecodec"
	"github.com/culvertgate/culvert/tunnel"
	"github.com/culvertgate/culvert/tunnel/gateway"
	"github.com/culvertgate/culvert/tunnel/reactor"
	"github.com/culvertgate/culvert/tunnel/rtc"
	"github.com/culvertgate/culvert/tunnel/udp"
)

// hubPool holds the hubs of this process by listen address: one, or two while a
// reload that changes the address is under way.
var hubPool = caddy.NewUsagePool()

// hub is what outlives configurations: the UDP socket, the tunnels, the
// remotes, the budgets and limits. It holds no configuration itself but the
// list of those attached. It is made by acquireHub, starts nothing before a
// Start needs it, and is ended by Destruct when the last configuration has
// given it back. All methods are safe for concurrent use.
type hub struct {
	listen listenAddress

	mu      sync.Mutex
	envs    []*environment // attached configurations, newest last; guarded by mu
	running bool           // clock and events run; guarded by mu
	net     transport      // guarded by mu
	newest  atomic.Pointer[environment]
	judged  []*judgement // oldest first; guarded by mu

	reactor      *reactor.Reactor // from the first attach or open on
	pool         *gateway.Pool    // dial bounds of the process
	breakers     *gateway.Breakers
	tunnels      tunnelTable
	remotes      remoteTable
	services     serviceTable
	associations associationTable
	ledger       ledger
	identities   identities
	handshakes   handshakes
	memory       *tunnel.Budget
	streams      atomic.Int64 // of all tunnels, with raw channels and those being opened
	warnings     warnings
	draining     atomic.Bool // no new tunnels and streams
	drain        draining    // by the admin API; guarded by mu
	events       *eventQueue
	stop         chan struct{} // ends the clock
	wg           sync.WaitGroup
}

// transport is the gateway's side of the network, there while a configuration
// has an endpoint.
type transport struct {
	socket  *udp.Socket
	gateway *rtc.Gateway
}

// newHub returns a hub that nothing runs in yet. The admin API may ask it already.
func newHub(listen listenAddress) *hub {
	h := &hub{listen: listen, memory: tunnel.NewBudget(nil, 0)}
	h.breakers = gateway.NewBreakers(h.breakerChanged)
	h.ledger.hub, h.ledger.due = h, make(chan struct{}, 1)
	return h
}

// acquireHub returns the hub of a listen address with one more reference.
func acquireHub(listen listenAddress) (*hub, error) {
	v, _, err := hubPool.LoadOrNew(listen, func() (caddy.Destructor, error) {
		return newHub(listen), nil
	})
	if err != nil {
		return nil, err
	}
	return v.(*hub), nil
}

// runningHubs returns the hubs of this process, that of a configuration which is still
// starting among them.
func runningHubs() []*hub {
	var hubs []*hub
	hubPool.Range(func(_, v any) bool {
		hubs = append(hubs, v.(*hub))
		return true
	})
	return hubs
}

// current returns the newest attached configuration; nil before the first Start
// and behind the last Stop.
func (h *hub) current() *environment { return h.newest.Load() }

// endpoint returns an endpoint of the newest configuration, nil when it has none
// of that name.
func (h *hub) endpoint(name string) *endpointState {
	if env := h.current(); env != nil {
		return env.endpoints[name]
	}
	return nil
}

// open opens the socket, once: a second configuration finds it open. It is
// called by Start for configurations with an endpoint.
func (h *hub) open(env *environment) error {
	socket, err := h.openSocket(env)
	if errors.Is(err, syscall.EADDRINUSE) {
		return h.portInUse(err)
	}
	if err != nil || socket == nil {
		return err
	}
	processMetrics.packets.add(socket)
	for _, w := range socket.Warnings() {
		env.logger.Warn("UDP socket", zap.String("warning", w))
	}
	env.logger.Info("listening for WebRTC peers", zap.Stringer("address", socket.LocalAddr()))
	return nil
}

// openSocket opens the socket and starts the gateway; nil when there is one.
func (h *hub) openSocket(env *environment) (*udp.Socket, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.net.socket != nil {
		return nil, nil
	}
	if err := h.runLocked(); err != nil {
		return nil, err
	}
	socket, err := udp.Listen(env.ctx, h.listen.network, h.listen.address, udp.Config{})
	if err != nil {
		return nil, fmt.Errorf("opening %s (option listen of webrtc_tunnel): %w", h.listen, err)
	}
	gw, err := rtc.NewGateway(rtc.GatewayConfig{Socket: socket, Logger: h.logger, Options: env.gateway})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("starting WebRTC: %w", err), socket.Close())
	}
	h.net = transport{socket, gw}
	return socket, nil
}

// portInUse says what to do about a port that somebody has.
func (h *hub) portInUse(err error) error {
	for _, other := range runningHubs() {
		other.mu.Lock()
		socket := other.net.socket
		other.mu.Unlock()
		if other != h && socket != nil && socket.LocalAddr().(*net.UDPAddr).Port == h.listen.port() {
			return fmt.Errorf("%s is in use by the configuration that runs now, as listen %s: a reload opens the new socket before it closes the old one, "+
				"so choose another port, or restart Caddy: %w", h.listen, other.listen, err)
		}
	}
	return fmt.Errorf("%s is in use by another program (3478 is also the port of TURN servers such as coturn): "+
		"choose another one with the option listen of webrtc_tunnel, such as listen udp/:3479: %w", h.listen, err)
}

// runLocked starts the hub's goroutines (clock, events, reactor), once.
func (h *hub) runLocked() error {
	if h.running {
		return nil
	}
	r, err := reactor.New(reactor.Config{OnPanic: h.panicked})
	if err != nil {
		return err
	}
	h.reactor, h.running, h.stop = r, true, make(chan struct{})
	h.pool = gateway.NewPool(gateway.PoolConfig{})
	h.events = newEventQueue(h.deliver, &processMetrics.eventsDropped)
	h.wg.Add(2)
	go h.runClock(h.stop)
	go h.ledger.run(h.stop)
	return nil
}

// attach makes env the newest configuration. New tunnels and streams follow it
// at once; what runs already is judged when an older one is detached.
func (h *hub) attach(env *environment) error {
	env.freeze(h.bound())
	if err := h.addEnvironment(env); err != nil {
		return err
	}
	h.setOptions()
	if len(env.endpoints) > 0 {
		h.ledger.look(env) // before anybody is let in
	}
	close(env.attached)
	return nil
}

// bound is the configured address with the port that the socket has: the system
// chooses one for port 0.
func (h *hub) bound() listenAddress {
	h.mu.Lock()
	defer h.mu.Unlock()
	host, port, err := net.SplitHostPort(h.listen.address)
	if err != nil || port != "0" || h.net.socket == nil {
		return h.listen
	}
	port = strconv.Itoa(h.net.socket.LocalAddr().(*net.UDPAddr).Port)
	return listenAddress{h.listen.network, net.JoinHostPort(host, port)}
}

func (h *hub) addEnvironment(env *environment) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := h.runLocked(); err != nil {
		return err
	}
	h.remotes.use(h, env)
	h.envs = append(h.envs, env)
	h.applyLocked()
	return nil
}

// last reports whether env is the only configuration left.
func (h *hub) last(env *environment) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.envs) == 1 && h.envs[0] == env
}

// detach takes a configuration back; a second call does nothing. What runs is
// judged by the newest of those that stay, and what only the detached one
// wanted ends.
func (h *hub) detach(env *environment) {
	h.mu.Lock()
	at := slices.Index(h.envs, env)
	if at < 0 {
		h.mu.Unlock()
		return
	}
	h.envs = slices.Delete(h.envs, at, at+1)
	h.applyLocked()
	left := slices.Clone(h.envs)
	h.mu.Unlock()

	h.remotes.keep(h, left)
	if len(left) > 0 {
		h.setOptions()
		h.keepBreakers(left[len(left)-1])
		h.recheck(left[len(left)-1])
		h.associations.recheck(left[len(left)-1])
		h.closeUnused()
	}
}

// setOptions gives the newest configuration's options to the gateway, for the
// answers to come.
func (h *hub) setOptions() {
	h.mu.Lock()
	gw, env := h.net.gateway, h.newest.Load()
	h.mu.Unlock()
	if gw == nil || env == nil {
		return
	}
	if err := gw.SetOptions(env.gateway); err != nil {
		env.logger.Error("the WebRTC options can't be used, the ones before stay", zap.Error(err))
	}
}

// applyLocked sets the limits of the newest configuration.
func (h *hub) applyLocked() {
	if len(h.envs) == 0 {
		h.newest.Store(nil)
		return
	}
	env := h.envs[len(h.envs)-1]
	h.memory.SetLimit(env.limits.Memory)
	h.identities.setLimit(env.limits.MemoryPerIdentity)
	h.newest.Store(env)
}

// closeUnused closes the socket when no attached configuration has an endpoint.
func (h *hub) closeUnused() {
	h.mu.Lock()
	for _, env := range h.envs {
		if len(env.endpoints) > 0 {
			h.mu.Unlock()
			return
		}
	}
	tr := h.net
	h.net = transport{}
	h.mu.Unlock()
	for _, t := range h.tunnels.all() { // ending already, or made at this very moment
		t.close(framecodec.CodePolicyChanged, "the endpoint is gone")
		<-t.gone // the client should hear why before the socket is closed
	}
	tr.close()
}

func (t transport) close() {
	if t.socket == nil {
		return
	}
	t.gateway.Close()
	processMetrics.packets.remove(t.socket)
	_ = t.socket.Close() // nothing can be done about a socket that does not close
}

// shuttingDown is what clients are told of the end of the process.
const shuttingDown = "the gateway is shutting down"

// shutDown ends all tunnels. With drain (the process ends) peers are told first
// and streams may finish within timeouts.drain.
func (h *hub) shutDown(drain bool) {
	h.cancelDrain() // this one has a deadline of its own
	h.draining.Store(true)
	env := h.current()
	code, why := framecodec.CodeTunnelClosed, "the gateway's configuration has no place for this tunnel any more"
	if drain {
		code, why = framecodec.CodeDraining, shuttingDown
	}
	if drain && env != nil {
		h.letFinish(time.Duration(env.timeouts.Drain))
	}
	h.associations.endAll()
	h.tunnels.closeAll(code, why)
	if env != nil && len(env.endpoints) > 0 {
		h.ledger.look(env) // what was counted last
	}
	h.remotes.closeAll()
	h.mu.Lock()
	events := h.events
	h.mu.Unlock()
	if events == nil {
		return
	}
	// The subscribers of the last configuration still hear of the ends.
	select {
	case <-events.close():
	case <-time.After(2 * time.Second):
	}
}

// letFinish tells every peer to open nothing new and waits until no stream is left,
// at most for limit.
func (h *hub) letFinish(limit time.Duration) {
	for _, t := range h.tunnels.all() {
		if s := t.currentSession(); s != nil {
			s.GoAway(framecodec.CodeDraining, limit)
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for h.streams.Load() > 0 {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// Destruct ends what is left. Caddy's pool calls it when the last configuration
// has given the hub back, also when it was never started (validate).
func (h *hub) Destruct() error {
	h.associations.endAll()
	h.tunnels.closeAll(framecodec.CodeTunnelClosed, shuttingDown)
	h.remotes.closeAll()
	h.mu.Lock()
	tr, running := h.net, h.running
	h.net, h.running = transport{}, false
	h.mu.Unlock()
	tr.close()
	if !running {
		return nil
	}
	h.cancelDrain()
	close(h.stop)
	<-h.events.close()
	h.wg.Wait()
	return h.reactor.Close()
}

// panicked is told of a panic that one tunnel or connection caused and that
// ended only that.
func (h *hub) panicked(v any, stack []byte) {
	processMetrics.panics.Inc()
	h.logger().Error("panic in a tunnel, which was ended", zap.Any("panic", v), zap.ByteString("stack", stack))
}
