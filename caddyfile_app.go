package culvert

import (
	"encoding/json"
	"reflect"

	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddytls"
)

// parseGlobalOption reads the global option webrtc_tunnel. A second block is
// merged with the first; what both set differently is an error.
func parseGlobalOption(d *caddyfile.Dispenser, existing any) (any, error) {
	app := new(App)
	if err := app.UnmarshalCaddyfile(d); err != nil {
		return nil, err
	}
	value := caddyconfig.JSON(app, nil)
	if before, ok := existing.(httpcaddyfile.App); ok {
		merged, conflict := mergeOptions(before.Value, value)
		if conflict != "" {
			return nil, d.Errf("webrtc_tunnel: %s is set differently by an earlier webrtc_tunnel block", conflict)
		}
		value = merged
	}
	return httpcaddyfile.App{Name: appName, Value: value}, nil
}

// UnmarshalCaddyfile reads the app's options. Syntax:
//
//	webrtc_tunnel {
//		listen <address>
//		external_address <address...>
//		candidates all|public|<cidr...>
//		keep_private
//		loopback
//		remote_candidates
//		ice_server <url...> {
//			secret <secret>
//			ttl <duration>
//			username <name>
//			credential <password>
//			share
//		}
//		limits {
//			tunnels <n>
//			streams <n>
//			memory <size>
//			tunnel_memory <size>
//			handshakes <n>
//			handshakes_per_client <n>
//			memory_per_identity <size>
//		}
//		timeouts {
//			connect|dial|keepalive|write|idle|drain <duration>
//		}
//		remote <name> <url...> {
//			header <name> <value>
//			dialect 1|2
//			connect lazy|eager
//			expose <service> <address...>
//			tls_trust_pool <module> ...
//			tls_client_auth <certificate> <key>
//			tls_server_name <name>
//		}
//	}
func (a *App) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // the option's name
	if d.NextArg() {
		return d.ArgErr()
	}
	limits, timeouts := new(Limits), new(Timeouts)
	err := readBlock(d, "webrtc_tunnel", map[string]option{
		"listen":            one(&a.Listen),
		"external_address":  repeated(&a.ExternalAddress),
		"candidates":        many(&a.Candidates),
		"keep_private":      flag(&a.KeepPrivate),
		"loopback":          flag(&a.Loopback),
		"remote_candidates": flag(&a.RemoteCandidates),
		"ice_server":        {read: a.readICEServer, repeatable: true},
		"limits":            block("limits", limits.options()),
		"timeouts":          block("timeouts", timeouts.options()),
		"remote":            {read: a.readRemote, repeatable: true},
	})
	if *limits != (Limits{}) {
		a.Limits = limits
	}
	if *timeouts != (Timeouts{}) {
		a.Timeouts = timeouts
	}
	return err
}

func (l *Limits) options() map[string]option {
	return map[string]option{
		"tunnels":               number(&l.Tunnels),
		"streams":               number(&l.Streams),
		"memory":                size(&l.Memory),
		"tunnel_memory":         size(&l.TunnelMemory),
		"handshakes":            number(&l.Handshakes),
		"handshakes_per_client": number(&l.HandshakesPerClient),
		"memory_per_identity":   size(&l.MemoryPerIdentity),
	}
}

func (t *Timeouts) options() map[string]option {
	return map[string]option{
		"connect":   duration(&t.Connect, false),
		"dial":      duration(&t.Dial, false),
		"keepalive": duration(&t.Keepalive, false),
		"write":     duration(&t.Write, true),
		"idle":      duration(&t.Idle, true),
		"udp_idle":  duration(&t.UDPIdle, false),
		"drain":     duration(&t.Drain, false),
	}
}

func (a *App) readICEServer(d *caddyfile.Dispenser) error {
	s := &ICEServer{URLs: d.RemainingArgs()}
	if len(s.URLs) == 0 {
		return d.ArgErr()
	}
	a.ICEServer = append(a.ICEServer, s)
	return readBlock(d, "ice_server", map[string]option{
		"secret":     one(&s.Secret),
		"ttl":        duration(&s.TTL, false),
		"username":   one(&s.Username),
		"credential": one(&s.Credential),
		"share":      flag(&s.Share),
	})
}

func (a *App) readRemote(d *caddyfile.Dispenser) error {
	args := d.RemainingArgs()
	if len(args) < 2 {
		return d.ArgErr()
	}
	name := args[0]
	if _, ok := a.Remote[name]; ok {
		return d.Errf("duplicate remote %q", name)
	}
	if a.Remote == nil {
		a.Remote = map[string]*Remote{}
	}
	r := &Remote{URLs: args[1:]}
	a.Remote[name] = r
	return readBlock(d, "remote", map[string]option{
		"header":          {read: r.readHeader, repeatable: true},
		"dialect":         number(&r.Dialect),
		"connect":         one(&r.Connect),
		"expose":          {read: r.readExpose, repeatable: true},
		"tls_trust_pool":  {read: r.readTrustPool},
		"tls_client_auth": {read: r.readClientAuth},
		"tls_server_name": one(&r.TLSServerName),
	})
}

func (r *Remote) readHeader(d *caddyfile.Dispenser) error {
	var name, value string
	if !d.AllArgs(&name, &value) {
		return d.ArgErr()
	}
	if _, ok := r.Header[name]; ok {
		return d.Errf("duplicate header %q", name)
	}
	if r.Header == nil {
		r.Header = map[string]string{}
	}
	r.Header[name] = value
	return nil
}

func (r *Remote) readExpose(d *caddyfile.Dispenser) error {
	args := d.RemainingArgs()
	if len(args) < 2 {
		return d.ArgErr()
	}
	if _, ok := r.Expose[args[0]]; ok {
		return d.Errf("duplicate service %q", args[0])
	}
	if r.Expose == nil {
		r.Expose = map[string][]string{}
	}
	r.Expose[args[0]] = args[1:]
	return nil
}

func (r *Remote) readTrustPool(d *caddyfile.Dispenser) error {
	if !d.NextArg() {
		return d.ArgErr()
	}
	provider := d.Val()
	id := "tls.ca_pool.source." + provider
	module, err := caddyfile.UnmarshalModule(d, id)
	if err != nil {
		return err
	}
	pool, ok := module.(caddytls.CA)
	if !ok {
		return d.Errf("module %s is not a trust pool", id)
	}
	r.TLSTrustPool = caddyconfig.JSONModuleObject(pool, "provider", provider, nil)
	return nil
}

func (r *Remote) readClientAuth(d *caddyfile.Dispenser) error {
	c := new(ClientCertificate)
	if !d.AllArgs(&c.Certificate, &c.Key) {
		return d.ArgErr()
	}
	r.TLSClientAuth = c
	return nil
}

// mergeOptions joins two app configurations. Lists are appended, blocks and the
// remotes joined by key; anything else that both set must be equal. conflict
// names the first option that is not.
func mergeOptions(before, after json.RawMessage) (merged json.RawMessage, conflict string) {
	var a, b map[string]any
	if json.Unmarshal(before, &a) != nil || json.Unmarshal(after, &b) != nil {
		return nil, "an option" // both were marshalled by us
	}
	if conflict := mergeInto(a, b, ""); conflict != "" {
		return nil, conflict
	}
	return caddyconfig.JSON(a, nil), ""
}

func mergeInto(a, b map[string]any, within string) string {
	for key, value := range b {
		old, both := a[key]
		switch inner, isMap := old.(map[string]any); {
		case !both:
			a[key] = value
		case isMap && within == "": // one level: a remote is set as a whole
			if conflict := mergeInto(inner, value.(map[string]any), key+" "); conflict != "" {
				return conflict
			}
		case isList(old):
			a[key] = append(old.([]any), value.([]any)...)
		case !reflect.DeepEqual(old, value):
			return within + key
		}
	}
	return ""
}

func isList(v any) bool {
	_, ok := v.([]any)
	return ok
}
