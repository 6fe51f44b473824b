package culvert

import (
	"bytes"
	"encoding/json"
	"slices"
	"testing"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
)

// FuzzCaddyfile: whatever stands in a block of ours, its reader ends without a
// panic, and what it accepts is a configuration: its JSON is read without an
// unknown field and is the same again.
func FuzzCaddyfile(f *testing.F) {
	for _, s := range []string{
		"webrtc_tunnel {\n listen udp/:3478\n external_address 203.0.113.7 gw.example\n candidates public\n loopback\n limits {\n tunnels 5\n memory 1GiB\n }\n timeouts {\n udp_idle 60s\n idle 0\n }\n}",
		"webrtc_tunnel {\n ice_server turn:t.example:3478?transport=udp stun:s.example {\n secret x\n ttl 10m\n }\n}",
		"webrtc_tunnel {\n remote office https://a.example/t https://b.example/t {\n header Authorization \"Bearer {env.T}\"\n dialect 1\n connect eager\n tls_server_name x\n }\n}",
		"webrtc_tunnel {\n name gw\n base_path /t\n allow_anonymous\n origin https://a.example\n dialects 1 2\n target ssh tcp/10.0.0.5:22 {\n users a b\n title \"x y\"\n app vnc\n }\n default_target ssh\n}",
		"webrtc_tunnel {\n identity {http.auth.user.id}\n groups {x}\n dynamic {\n allow tcp/10.0.0.0/8:22,8000-8100 {\n users alice\n }\n allow tcp/*.x.example:443 private\n deny 10.0.0.13\n resolver 10.0.0.53\n }\n limits {\n tunnels_per_identity 8\n }\n}",
		"webrtc_tunnel office socks5",
		"webrtc_tunnel office tcp/[::1]:5432",
		"webrtc_tunnel office {\n socks5 {\n user alice {env.P}\n udp 127.0.0.1:0\n }\n}",
		"webrtc_tunnel {\n limits {\n memory 99999999999999999999GiB\n }\n}",
		"webrtc_tunnel {", "webrtc_tunnel }", "webrtc_tunnel a b c d", "webrtc_tunnel {\n{\n}\n}", "webrtc_tunnel \"\n\"", "", "webrtc_tunnel <<X\nX",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		tokens, err := caddyfile.Tokenize([]byte(text), "Caddyfile")
		if err != nil {
			return
		}
		for _, module := range []func() caddyfile.Unmarshaler{
			func() caddyfile.Unmarshaler { return new(App) },
			func() caddyfile.Unmarshaler { return new(Endpoint) },
			func() caddyfile.Unmarshaler { return new(Entry) },
		} {
			v := module()
			if v.UnmarshalCaddyfile(caddyfile.NewDispenser(tokens)) != nil {
				continue
			}
			written, err := json.Marshal(v)
			if err != nil {
				t.Fatalf("%T of %q: %v", v, text, err)
			}
			again := module()
			d := json.NewDecoder(bytes.NewReader(written))
			d.DisallowUnknownFields()
			if err := d.Decode(again); err != nil {
				t.Fatalf("%T of %q is %s: %v", v, text, written, err)
			}
			if rewritten, err := json.Marshal(again); err != nil || !bytes.Equal(rewritten, written) {
				t.Fatalf("%T of %q is %s, and the second time %s, %v", v, text, written, rewritten, err)
			}
		}
	})
}

// FuzzParseForward: an accepted --forward leads from one definite address to a
// target of its kind that can be written.
func FuzzParseForward(f *testing.F) {
	for _, s := range []string{
		"2222=ssh", "0.0.0.0:5432=tcp/10.0.0.7:5432", "unix//run/db.sock=db", "[::1]:1=a", "=", "1=", "=a", "unix/=a", "tcp/22=a", "70000=a", "1=udp/x:1", "a:b=c",
		"udp/5353=dns", "udp/[::1]:53=udp/10.0.0.53:53", "udp/5353=tcp/x:1", "udp/=a", "udp/unix//x=a", "udp/1=client:bob/dns", "tcp/udp/1=a",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got, err := parseForward(s)
		if err != nil {
			return
		}
		if !slices.Contains([]string{"tcp", "unix", "udp"}, got.network) || got.address == "" || got.datagrams() != got.target.Datagrams() {
			t.Fatalf("%q is %+v", s, got)
		}
		if again, err := parseForward(got.network + "/" + got.address + "=" + got.target.String()); err != nil || again != got {
			t.Fatalf("%q is %+v, and that is %+v, %v", s, got, again, err)
		}
	})
}
