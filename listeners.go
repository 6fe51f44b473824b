package culvert

import (
	"bytes"
	"fmt"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/mholt/caddy-l4/layer4"
	"go.uber.org/zap"

	"github.com/culvertgate/culvert/tunnel/policy"
)

// freeze works out what no stream may reach: the admin endpoint, our UDP socket
// (which is open by then), and what endpoints and entries of this configuration
// listen on, HTTP/3 included. All is known when the configuration is attached.
func (env *environment) freeze(listen listenAddress) {
	add := func(address, what string, http3 bool) {
		na, err := caddy.ParseNetworkAddress(caddy.NewReplacer().ReplaceAll(address, ""))
		if err != nil {
			env.logger.Error("a listener can't be kept from streams", zap.String("address", address), zap.Error(err))
			return
		}
		if http3 {
			suffix, ok := strings.CutPrefix(na.Network, "tcp")
			if !ok {
				return // a socket file or a network of a plugin: nothing that a flow reaches
			}
			na.Network = "udp" + suffix
		}
		for i := range na.PortRangeSize() {
			env.refused = append(env.refused, policy.Listeners(na.Network, na.Host, uint16(na.StartPort+i), what)...)
		}
	}
	for _, address := range env.admin {
		add(address, "the admin endpoint", false)
	}
	for _, address := range env.listeners {
		add(address, "a listener of webrtc_tunnel", false)
	}
	for _, address := range env.http3 {
		add(address, "a listener of webrtc_tunnel (HTTP/3)", true)
	}
	add(listen.String(), "the socket of webrtc_tunnel", false)
}

// forbidden is what a policy asks for each check.
func (env *environment) forbidden() []policy.Listener { return env.refused }

// addServer notes where an HTTP server with an endpoint or entry listens: with
// HTTP/3, which is what servers speak if nothing else is said, on UDP too.
func (a *App) addServer(server *caddyhttp.Server) {
	a.addListeners(server.Listen)
	speaks := func(protocols []string) bool { return slices.Contains(protocols, "h3") }
	if len(server.Protocols) == 0 || speaks(server.Protocols) || slices.ContainsFunc(server.ListenProtocols, speaks) {
		a.env.http3 = append(a.env.http3, server.Listen...)
	}
}

// entryListeners returns where the layer4 servers with an entry of ours listen.
// It is called while an entry is provisioned: then the server's routes still
// are as configured, and a server that is through already has had its own call.
func entryListeners(ctx caddy.Context) []string {
	var listen []string
	for _, module := range ctx.Modules() {
		app, ok := module.(*layer4.App)
		if !ok {
			continue
		}
		for _, server := range app.Servers {
			if hasEntry(server) {
				listen = append(listen, server.Listen...)
			}
		}
	}
	return listen
}

func hasEntry(server *layer4.Server) bool {
	name := fmt.Appendf(nil, "%q", appName)
	for _, route := range server.Routes {
		for _, raw := range route.HandlersRaw {
			if bytes.Contains(raw, name) { // also in a subroute
				return true
			}
		}
	}
	return false
}
