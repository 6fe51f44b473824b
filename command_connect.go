package culvert

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/culvertgate/culvert/framecodec"
	"github.com/culvertgate/culvert/tunnel"
	"github.com/culvertgate/culvert/tunnel/client"
)

// connectFlags are those of `connect`, and of `socks` for a part.
type connectFlags struct {
	gateway  gatewayFlags
	target   string
	listen   string
	forwards []string
	exposes  []string
	udpIdle  time.Duration
	stdio    bool
	once     bool
}

func newConnectCommand() *cobra.Command {
	f := &connectFlags{}
	cmd := &cobra.Command{
		Use:   "connect --url <gateway> (--target <target> (--listen <address> | --stdio) | --forward <address>=<target>... | --expose <name>=<address>...)",
		Short: "Makes targets of a gateway available on this machine, or services of this machine there",
		Long: `
Keeps a tunnel to a gateway and hands local connections to its targets. A target
is a name of the gateway's (see caddy webrtc-tunnel targets) or an address such
as tcp/10.0.0.7:5432, where its policy allows that.

	--target ssh --listen 127.0.0.1:2222    one port (a port alone: of this machine only)
	--forward 2222=ssh --forward unix//run/user/1000/db.sock=db    several, over one tunnel
	--forward udp/5353=dns    datagrams: each local address that sends has a flow of its own
	--target ssh --stdio                    standard input and output, for ProxyCommand
	--expose sshd=tcp/127.0.0.1:22          publishes a service of this machine: the gateway may open it as client:YOU/sshd

A service is reached through the gateway, where its policy lets others: this
machine needs no open port. Only what --expose names can be reached, whatever the
gateway asks for.

It reconnects for ever after a loss, unless --once is given. Ctrl-C lets streams
finish, a second one ends at once.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return f.run(cmd) },
	}
	f.gateway.register(cmd)
	flags := cmd.Flags()
	flags.StringVar(&f.target, "target", "", "where to: a target's name, or tcp/host:port")
	flags.StringVar(&f.listen, "listen", "", "local address for --target: port, host:port, udp/host:port or unix//path")
	flags.StringArrayVar(&f.forwards, "forward", nil, "LOCAL=TARGET, may be given several times: 2222=ssh, udp/127.0.0.1:5353=dns")
	f.registerUDPIdle(cmd)
	flags.StringArrayVar(&f.exposes, "expose", nil, "NAME=ADDRESS, a service to publish, may be given several times: sshd=tcp/127.0.0.1:22, dns=udp/127.0.0.1:53, app=unix//run/app.sock")
	flags.BoolVar(&f.stdio, "stdio", false, "connect --target with standard input and output")
	flags.BoolVar(&f.once, "once", false, "end when the tunnel is lost instead of reconnecting")
	return cmd
}

func newSOCKSCommand() *cobra.Command {
	f := &connectFlags{}
	cmd := &cobra.Command{
		Use:   "socks --url <gateway> [--listen <address>]",
		Short: "Serves SOCKS5 on this machine; the gateway resolves names and dials",
		Long: `
Serves SOCKS5 (CONNECT, without users) and opens each request as a stream to the
named host and port, where the gateway's dynamic rules allow that. Names are sent
as names: this machine does not look them up.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return f.runSOCKS(cmd) },
	}
	f.gateway.register(cmd)
	cmd.Flags().StringVar(&f.listen, "listen", "127.0.0.1:1080", "local address: port, host:port or unix//path")
	cmd.Flags().BoolVar(&f.once, "once", false, "end when the tunnel is lost instead of reconnecting")
	f.registerUDPIdle(cmd)
	return cmd
}

func (f *connectFlags) registerUDPIdle(cmd *cobra.Command) {
	cmd.Flags().DurationVar(&f.udpIdle, "udp-idle", time.Minute, "when a flow of datagrams ends that carries none, at least 1s; the gateway may have a smaller value")
}

// withoutTarget: a ticket names its own.
func (f *connectFlags) withoutTarget() bool {
	return f.target == "" && f.gateway.credentials.ticketFile == ""
}

// parseTarget reads --target; without one it is the ticket's, which the gateway
// knows.
func (f *connectFlags) parseTarget() (tunnel.Target, error) {
	if f.target == "" {
		return tunnel.Target{Kind: tunnel.KindNamed}, nil
	}
	return parseCommandTarget(f.target)
}

// parse checks the flags and returns what to listen on.
func (f *connectFlags) parse() ([]forward, error) {
	if f.stdio {
		if f.withoutTarget() || f.listen != "" || len(f.forwards) > 0 || len(f.exposes) > 0 {
			return nil, errors.New("--stdio takes one --target, and neither --listen, --forward nor --expose")
		}
		if f.target == "" {
			return nil, nil
		}
		return nil, checkStreamTarget(f.target)
	}
	var list []forward
	if f.target != "" || f.listen != "" {
		if f.withoutTarget() || f.listen == "" {
			return nil, errors.New("--target and --listen belong together (or give --stdio, or --forward)")
		}
		one, err := parseLocal(f.listen)
		if err != nil {
			return nil, err
		}
		target, err := f.parseTarget()
		if err != nil {
			return nil, err
		}
		if one, err = one.to(target); err != nil {
			return nil, err
		}
		list = append(list, one)
	}
	for _, s := range f.forwards {
		one, err := parseForward(s)
		if err != nil {
			return nil, err
		}
		list = append(list, one)
	}
	if len(list) == 0 && len(f.exposes) == 0 {
		return nil, errors.New("what for? Give --target with --listen or --stdio, --forward, or --expose")
	}
	return list, nil
}

// wholeTunnel returns the target that dialect 1 names in the URL: its streams
// can name addresses, but no targets.
func wholeTunnel(forwards []forward) (string, error) {
	name := ""
	for _, f := range forwards {
		if f.datagrams() {
			return "", errors.New("dialect 1 carries no datagrams: leave the udp/ forwards out")
		}
		if !f.target.Named() {
			continue
		}
		if name != "" && name != f.target.Host {
			return "", errors.New("dialect 1 has one named target a tunnel: run one command for each")
		}
		name = f.target.Host
	}
	return name, nil
}

func (f *connectFlags) run(cmd *cobra.Command) error {
	forwards, err := f.parse()
	if err != nil {
		return err
	}
	console := newConsole(cmd)
	cfg, err := f.gateway.config(console)
	if err != nil {
		return err
	}
	named := forwards
	if f.stdio {
		target, err := f.parseTarget()
		if err != nil {
			return err
		}
		named = []forward{{target: target}}
	}
	if cfg.Dialect == tunnel.Dialect1 {
		if cfg.Target, err = wholeTunnel(named); err != nil {
			return err
		}
	}
	cfg.Progress = console.showProgress
	if f.stdio {
		return runStdio(cmd, console, cfg, named[0].target)
	}
	return f.serve(cmd, console, cfg, forwards, false)
}

func (f *connectFlags) runSOCKS(cmd *cobra.Command) error {
	local, err := parseLocal(f.listen)
	if err != nil {
		return err
	}
	if local.datagrams() {
		return errors.New("--listen: SOCKS5 is served over TCP, leave udp/ out; UDP ASSOCIATE makes sockets of its own")
	}
	console := newConsole(cmd)
	cfg, err := f.gateway.config(console)
	if err != nil {
		return err
	}
	cfg.Progress = console.showProgress
	return f.serve(cmd, console, cfg, []forward{local}, true)
}

// serve listens while there is a tunnel, or while one is being sought.
func (f *connectFlags) serve(cmd *cobra.Command, console *console, cfg client.Config, forwards []forward, socks bool) error {
	if f.udpIdle < time.Second {
		return fmt.Errorf("--udp-idle %s: give at least 1s", f.udpIdle)
	}
	ctx, stop := interrupted(cmd.Context(), console, true)
	defer stop()
	exposes, err := parseExposes(f.exposes)
	if err != nil {
		return err
	}
	publisher, err := newPublisher(console, exposes)
	if err != nil {
		return err
	}
	server, err := newLocalServer(console, forwards, socks)
	if err != nil {
		return err
	}
	defer server.close() // behind the tunnel, which ends the streams
	publisher.configure(&cfg, server)
	cfg.UDPIdleTimeout = f.udpIdle
	if err := cfg.Validate(); err != nil {
		return err
	}
	if f.once {
		return serveOnce(ctx, console, cfg, server, publisher)
	}
	return serveForEver(ctx, console, cfg, server)
}

// drainPoll is how often serveOnce looks whether streams are left.
const drainPoll = 50 * time.Millisecond

func serveOnce(ctx context.Context, console *console, cfg client.Config, server *localServer, publisher *publisher) error {
	cfg.Connected = console.connected
	t, err := client.Dial(ctx, cfg)
	if err != nil {
		return err
	}
	defer func() { _ = t.Close() }()
	server.start(ctx, t)
	if err := publisher.awaitRefusal(ctx, t); err != nil {
		return err
	}
	if ctx.Err() == nil {
		return t.Err()
	}
	server.stopListening()
	t.Withdraw()
	deadline := time.NewTimer(drainTime)
	defer deadline.Stop()
	poll := time.NewTicker(drainPoll)
	defer poll.Stop()
	for t.Stats().Session.Streams > 0 {
		select {
		case <-deadline.C:
			return nil // what is left is cut
		case <-t.Done():
			return nil
		case <-poll.C:
		}
	}
	return nil
}

func serveForEver(ctx context.Context, console *console, cfg client.Config, server *localServer) error {
	failed, up := make(chan error, 1), make(chan struct{}, 1)
	reported, ever := "", false // of the goroutine that connects
	cfg.Connect = client.Eager
	cfg.Connected = func(t *client.Tunnel, took time.Duration) {
		reported, ever = "", true
		console.connected(t, took)
		select {
		case up <- struct{}{}:
		default:
		}
	}
	cfg.Failed = func(err error, _ time.Duration) {
		if text := err.Error(); text != reported && ctx.Err() == nil && (ever || !permanent(err)) {
			reported = text
			console.say("%v; trying again", err)
		}
		select {
		case failed <- err:
		default:
		}
	}
	cfg.Ended = func(_ *client.Tunnel, err error) {
		if ctx.Err() == nil {
			console.say("the tunnel has ended: %v; reconnecting", err)
		}
	}
	remote := client.NewRemote(cfg) //nolint:contextcheck // it ends with Close, behind the drain
	defer remote.Close()
	server.start(ctx, remote)
	if err := firstTunnel(ctx, up, failed); err != nil {
		return err
	}
	<-ctx.Done()
	server.stopListening()
	drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainTime)
	defer cancel()
	_ = remote.Drain(drain) // what is left then is cut
	return nil
}

// firstTunnel waits for the first tunnel, or for a failure that only a person
// can mend: then there is no point in trying for ever.
func firstTunnel(ctx context.Context, up <-chan struct{}, failed <-chan error) error {
	for {
		select {
		case <-up:
			return nil
		case err := <-failed:
			if permanent(err) {
				return err
			}
		case <-ctx.Done():
			return nil
		}
	}
}

// permanent reports whether an error is one of what was typed or who asked.
func permanent(err error) bool {
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return true
	}
	switch tunnel.CodeOf(err) {
	case framecodec.CodeUnauthenticated, framecodec.CodeNotAllowed, framecodec.CodeForbiddenOrigin,
		framecodec.CodeNotFound, framecodec.CodeMethodNotAllowed, framecodec.CodeUnknownTarget,
		framecodec.CodeTicketInvalid, framecodec.CodeTicketExpired, // not ticket_used: a use may be given back
		framecodec.CodeProtocolError: // not a gateway: Caddy answers 200 where it has no route
		return true
	default:
		return false
	}
}

// connected tells of a tunnel that is up, and by which path.
func (c *console) connected(t *client.Tunnel, took time.Duration) {
	c.say("connected to %s in %s (%s)", t.URL(), took.Round(time.Millisecond), t.Stats().Peer.CandidatePair)
}
