package culvert

import (
	"bytes"
	"fmt"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/mholt/caddy-l4/layer4"
	"go.uber.org/zap"

	"github.com/culvertgate/culvert/tunnel/policy"
)

// freeze works out what no stream may reach: the admin endpoint, our UDP socket,
// and what endpoints and entries of this configuration listen on. All is known
// when the configuration is attached.
func (env *environment) freeze(listen listenAddress) {
	add := func(address, what string) {
		na, err := caddy.ParseNetworkAddress(caddy.NewReplacer().ReplaceAll(address, ""))
		if err != nil {
			env.logger.Error("a listener can't be kept from streams", zap.String("address", address), zap.Error(err))
			return
		}
		for i := range na.PortRangeSize() {
			env.refused = append(env.refused, policy.Listeners(na.Network, na.Host, uint16(na.StartPort+i), what)...)
		}
	}
	for _, address := range env.admin {
		add(address, "the admin endpoint")
	}
	for _, address := range env.listeners {
		add(address, "a listener of webrtc_tunnel")
	}
	add(listen.String(), "the socket of webrtc_tunnel")
}

// forbidden is what a policy asks for each check.
func (env *environment) forbidden() []policy.Listener { return env.refused }

// http3Listeners returns the UDP twins of an HTTP server's listeners, where Caddy
// serves HTTP/3.
func http3Listeners(listen []string) (udp []string) {
	for _, address := range listen {
		na, err := caddy.ParseNetworkAddress(address)
		if err != nil || na.IsUnixNetwork() || na.IsFdNetwork() {
			continue
		}
		na.Network = "udp" + strings.TrimPrefix(na.Network, "tcp")
		udp = append(udp, na.String())
	}
	return udp
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
