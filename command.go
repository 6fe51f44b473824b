package culvert

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"

	"github.com/caddyserver/caddy/v2"
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/spf13/cobra"
	"go.uber.org/zap"

	"github.com/culvertgate/culvert/tunnel"
	"github.com/culvertgate/culvert/tunnel/client"
)

const commandHelp = `
Reaches the targets of a WebRTC tunnel gateway from this machine: as a local
port, as a SOCKS5 proxy, or on standard input and output. It also looks at the
tunnels of the Caddy that runs here.

	$ caddy webrtc-tunnel connect --url https://gw.example.com/tunnel --target ssh --listen 127.0.0.1:2222
	$ ssh -o ProxyCommand='caddy webrtc-tunnel connect --stdio --url https://gw.example.com/tunnel --target ssh' host
	$ caddy webrtc-tunnel doctor --url https://gw.example.com/tunnel

Credentials never stand in the argument list, which other users of this machine
can read: give files (--password-file, --token-file, --header-file), a command
(--token-command), a certificate (--cert, --key), or the environment:
WEBRTC_TUNNEL_TOKEN, or WEBRTC_TUNNEL_USER and WEBRTC_TUNNEL_PASSWORD.
WEBRTC_TUNNEL_URL stands in for --url.`

// registerCommand adds `caddy webrtc-tunnel`.
func registerCommand() {
	caddycmd.RegisterCommand(caddycmd.Command{
		Name:      "webrtc-tunnel",
		Usage:     "<command>",
		Short:     "Reaches targets through a WebRTC tunnel gateway",
		Long:      commandHelp,
		CobraFunc: addCommands,
	})
}

func addCommands(cmd *cobra.Command) {
	cmd.AddCommand(newConnectCommand(), newSOCKSCommand(), newTargetsCommand(),
		newDoctorCommand(), newTopCommand(), newListCommand(), newKillCommand(), newDrainCommand())
	cmd.Args = cobra.ArbitraryArgs
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) > 0 {
			return fmt.Errorf("there is no command %q: see caddy help webrtc-tunnel", args[0])
		}
		return cmd.Help()
	}
}

// gatewayFlags say which gateway is meant and who we are.
type gatewayFlags struct {
	urls        []string
	credentials credentials
	tls         tlsFiles
	dialect     uint8
	debug       bool
}

// register adds the flags of commands that make a tunnel.
func (f *gatewayFlags) register(cmd *cobra.Command) {
	f.registerRequests(cmd)
	flags := cmd.Flags()
	flags.Uint8Var(&f.dialect, "dialect", 2, "2, or 1 for a peer of the reference system")
	flags.BoolVar(&f.debug, "debug", false, "log what the client does to standard error")
}

// registerRequests adds those of commands that only ask.
func (f *gatewayFlags) registerRequests(cmd *cobra.Command) {
	f.dialect = 2
	flags := cmd.Flags()
	flags.StringArrayVar(&f.urls, "url", nil, "the gateway's endpoint, such as https://gw.example.com/tunnel; several are tried in order")
	f.credentials.register(flags)
	f.tls.register(flags)
}

// config is what the flags say, checked.
func (f *gatewayFlags) config(console *console) (client.Config, error) {
	if len(f.urls) == 0 {
		if url := os.Getenv("WEBRTC_TUNNEL_URL"); url != "" {
			f.urls = []string{url}
		}
	}
	if len(f.urls) == 0 && f.credentials.ticketFile != "" {
		link, _, err := readTicket(f.credentials.ticketFile)
		if err != nil {
			return client.Config{}, ofOption("--ticket-file", err)
		}
		if link != "" {
			f.urls = []string{link}
		}
	}
	if len(f.urls) == 0 {
		return client.Config{}, errors.New("which gateway? Give --url https://host/path, the path being its base_path")
	}
	if f.credentials.ticketFile == "" && slices.ContainsFunc(f.urls, func(u string) bool { return strings.Contains(u, "#ticket=") }) {
		return client.Config{}, errors.New("--url: other users of this machine can read the argument list, and so the ticket: put the link into a file and give --ticket-file")
	}
	header, err := f.credentials.header(console)
	if err != nil {
		return client.Config{}, err
	}
	tlsConfig, err := f.tls.config()
	if err != nil {
		return client.Config{}, err
	}
	cfg := client.Config{URLs: f.urls, Header: header, TLS: tlsConfig, Dialect: tunnel.Dialect(f.dialect)}
	if f.dialect != 1 && f.dialect != 2 {
		return cfg, fmt.Errorf("there is no dialect %d: use 2, or 1 for a peer of the reference system", f.dialect)
	}
	if f.debug {
		logger := console.logger()
		cfg.Logger = func() *zap.Logger { return logger }
	}
	return cfg, cfg.Validate()
}

// interrupted returns a context that ends with the first interrupt or
// termination signal. A second one ends the process at once. stop gives the
// signals back.
func interrupted(ctx context.Context, console *console, graceful bool) (_ context.Context, stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	signals, stopped := make(chan os.Signal, 2), make(chan struct{})
	notifySignals(signals)
	var wg sync.WaitGroup
	wg.Go(func() {
		select {
		case <-signals:
		case <-stopped:
			return
		}
		if graceful {
			console.say("ending when the running streams have, at the latest in %s; press Ctrl-C again to end at once", drainTime)
		}
		cancel()
		select {
		case <-signals:
			console.say("ended at once")
			os.Exit(caddy.ExitCodeForceQuit)
		case <-stopped:
		}
	})
	return ctx, func() {
		cancel()
		stopSignals(signals)
		close(stopped)
		wg.Wait()
	}
}
