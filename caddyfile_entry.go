package culvert

import (
	"strings"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
)

// UnmarshalCaddyfile reads the layer4 handler. Syntax:
//
//	webrtc_tunnel <remote> <target>|tcp/<host>:<port>|socks5
//
//	webrtc_tunnel local client:<identity>/<service> {
//		endpoint <name>
//	}
//
//	webrtc_tunnel <remote> {
//		socks5 {
//			user <name> <password>
//			udp <address>:0
//		}
//	}
func (e *Entry) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // the handler's name
	args := d.RemainingArgs()
	if len(args) < 1 || len(args) > 2 {
		return d.ArgErr()
	}
	e.Remote = args[0]
	if len(args) == 2 {
		if args[1] == socks5Word {
			e.SOCKS5 = new(SOCKS5)
		} else {
			e.Target = args[1]
		}
	}
	short := len(args) == 2
	err := readBlock(d, "webrtc_tunnel", map[string]option{
		"endpoint": one(&e.Endpoint),
		socks5Word: {read: func(d *caddyfile.Dispenser) error {
			if short {
				return d.Errf("%s stands beside %q already", socks5Word, strings.Join(args, " "))
			}
			if d.NextArg() {
				return d.ArgErr()
			}
			e.SOCKS5 = new(SOCKS5)
			return readBlock(d, socks5Word, e.SOCKS5.caddyfile())
		}},
	})
	if err != nil {
		return err
	}
	if e.Target == "" && e.SOCKS5 == nil {
		return d.Errf("webrtc_tunnel %s: give a target, an address or socks5", e.Remote)
	}
	return nil
}

func (s *SOCKS5) caddyfile() map[string]option {
	return map[string]option{
		"user": {repeatable: true, read: func(d *caddyfile.Dispenser) error {
			var name, password string
			if !d.AllArgs(&name, &password) {
				return d.Errf("user needs a name and a password, such as user alice {env.ALICE_PASSWORD}")
			}
			if _, twice := s.Users[name]; twice {
				return d.Errf("there is a user %q already", name)
			}
			if s.Users == nil {
				s.Users = map[string]string{}
			}
			s.Users[name] = password
			return nil
		}},
		"udp": one(&s.UDP),
	}
}
