// Package culvert is a WebRTC tunnel gateway as a Caddy plugin: TCP streams to
// named or rule-bound targets, carried by data channels of peer connections that
// clients make by an offer and answer over HTTP. It is at once the gateway (an
// HTTP handler in a site) and the entry (a layer4 handler that hands connections
// to a remote gateway).
//
// This package is all that knows Caddy. It registers:
//
//	webrtc_tunnel                  app: socket, limits, remotes          app.go
//	http.handlers.webrtc_tunnel    gateway's endpoint: signalling        endpoint.go
//	layer4.handlers.webrtc_tunnel  entry: a connection to a stream       entry.go
//	admin.api.webrtc_tunnel        tunnels, explain, health              admin.go
//	caddy webrtc-tunnel            command                               command.go
//	http.reverse_proxy.transport.webrtc_tunnel
//	                               requests of reverse_proxy             transport.go
//
// Where state lives. What outlives a configuration is in the hub (hub.go), one
// for each listen address, in a caddy.UsagePool: the UDP socket, the tunnels,
// the remotes, limits and budgets. It knows configurations only as a list of
// attached environments (environment.go); App.Start attaches one, Stop and
// Cleanup detach it. Handlers hold the hub, never the app. Metrics are one set
// for the process (metrics.go), registered with each configuration's registry.
//
// Goroutines of a hub, from its first Start to Destruct, which waits for them:
// the clock (hub_clock.go), the events (events.go), the reactor, one for each
// gateway tunnel that owns its end (hub_tunnel.go), and one for each remote that
// is being drained (hub_remotes.go). Sessions, peer connections and exits have
// those that their packages describe.
//
// Lock order: hub.mu, then remoteTable.mu. gatewayTunnel.mu, tunnelTable.mu,
// identities.mu, handshakes.mu, serviceTable.mu, associationTable.mu, blockList.setting, traffic.mu, packets.mu,
// warnings.mu and eventQueue.mu are leaves, but traffic.mu, which may be taken under
// gatewayTunnel.mu. No lock is held during a log line, an event, I/O, or a call
// into a session, a peer connection or an exit, but the start of a session
// under gatewayTunnel.mu and the opening of the socket under hub.mu.
package culvert

import (
	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
)

func init() {
	caddy.RegisterModule(new(App))
	caddy.RegisterModule(new(Endpoint))
	caddy.RegisterModule(new(Entry))
	caddy.RegisterModule(new(Admin))
	caddy.RegisterModule(new(ProxyTransport))
	httpcaddyfile.RegisterGlobalOption(appName, parseGlobalOption)
	httpcaddyfile.RegisterDirective(appName, parseDirective)
	// Behind authentication, before everything else that responds.
	httpcaddyfile.RegisterDirectiveOrder(appName, httpcaddyfile.Before, "respond")
	registerCommand()
}
