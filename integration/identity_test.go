package integration

import (
	"encoding/base64"
	"net/http"
	"strings"
	"testing"

	"github.com/culvertgate/culvert/framecodec"
	"github.com/culvertgate/culvert/tunnel"
	"github.com/culvertgate/culvert/tunnel/rtc"
)

// The users of Caddy's basic_auth here, with the least of bcrypt's costs.
const basicAuth = `	basic_auth {
		alice $2a$04$7FEotkncVq4n3ZFiAuDRy.64/BRgH5s9UaqvQJd9Z2yol8LhjUVnm
		bob $2a$04$DEAgF/6oDKcEHjjn2VuvgO1fMctftMGgA/idgTlJMc3VlFwuI8JGa
	}
`

func password(t *testing.T, name string) http.Header {
	t.Helper()
	return http.Header{"Authorization": {"Basic " + base64.StdEncoding.EncodeToString([]byte(name+":"+name+"s-password"))}}
}

// TestGroups: who basic_auth says it is, and the groups that a placeholder of
// Caddy gives, decide about targets by stream, by raw channel and in explain.
func TestGroups(t *testing.T) {
	echo := echoServer(t)
	const ok, no = framecodec.CodeNormal, framecodec.CodeNotAllowed
	type wants map[string]framecodec.Code // by target
	for name, test := range map[string]struct {
		site   string              // lines of the site
		groups string              // option of the endpoint
		member map[string][]string // the groups that everybody has by it
		want   map[string]wants
	}{
		"map": {
			"\tmap {http.auth.user.id} {teams} {\n\t\talice \"ops, dev\"\n\t\tbob guests\n\t}\n", "groups {teams}",
			map[string][]string{"alice": {"ops", "dev"}, "bob": {"guests"}},
			map[string]wants{
				"alice": {"open": ok, "ops": ok, "devorguests": ok, "alices": ok, "bobs": no, "bobandops": ok, "tcp/" + echo: ok},
				"bob":   {"open": ok, "ops": no, "devorguests": ok, "alices": no, "bobs": ok, "bobandops": ok, "tcp/" + echo: no},
			},
		},
		"vars": {
			"\tvars teams guests\n", "groups {vars.teams}",
			map[string][]string{"alice": {"guests"}, "bob": {"guests"}},
			map[string]wants{
				"alice": {"ops": no, "devorguests": ok, "bobandops": no, "alices": ok},
				"bob":   {"ops": no, "devorguests": ok, "bobandops": ok, "alices": no},
			},
		},
		"a placeholder that nothing fills": {
			"", "groups {vars.nosuch}", nil,
			map[string]wants{"alice": {"open": ok, "ops": no, "devorguests": no, "alices": ok}, "bob": {"open": ok, "ops": no, "bobs": ok}},
		},
		"none": {
			"", "", nil,
			map[string]wants{"alice": {"open": ok, "ops": no, "alices": ok, "bobandops": no}, "bob": {"open": ok, "bobandops": ok, "alices": no}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			start(t, global("", "")+"http://"+siteAddr+" {\n"+basicAuth+test.site+`	webrtc_tunnel /tunnel* {
		name gw
		`+test.groups+`
		target open tcp/`+echo+`
		target ops tcp/`+echo+` {
			groups ops
		}
		target devorguests tcp/`+echo+` {
			groups dev guests
		}
		target alices tcp/`+echo+` {
			users alice
		}
		target bobs tcp/`+echo+` {
			users bob
		}
		target bobandops tcp/`+echo+` {
			users bob
			groups ops
		}
		dynamic {
			allow tcp/`+echo+` {
				groups dev
			}
		}
	}
}
`)
			for name, targets := range test.want {
				p := connect(t, siteURL, password(t, name))
				for target, want := range targets {
					wantByAll(t, p, name, target, want, test.member[name])
				}
				p.close()
			}
			for _, one := range tunnels(t, "gateway") {
				if one.Identity != "alice" && one.Identity != "bob" {
					t.Errorf("a tunnel of %q", one.Identity)
				}
			}
		})
	}
}

// wantByAll wants the same code of a stream, a raw channel and explain.
func wantByAll(t *testing.T, p *peer, name, target string, want framecodec.Code, groups []string) {
	t.Helper()
	parsed, err := tunnel.ParseTarget(target)
	if err != nil {
		t.Fatal(err)
	}
	if got := openCode(p, parsed); got != want {
		t.Errorf("%s opens %s: %v, want %v", name, target, got, want)
	}
	if got := explain(t, name, target, groups...); got.Code != want {
		t.Errorf("explain %s of %s: %v (%s), want %v", target, name, got.Code, got.Reason, want)
	}
	if !parsed.Named() {
		return
	}
	if got := rawCode(t, password(t, name), target); got != want {
		t.Errorf("a raw channel of %s to %s: %v, want %v", name, target, got, want)
	}
}

// TestBasicAuth: without a user there is no tunnel, and a session is its user's.
func TestBasicAuth(t *testing.T) {
	start(t, global("", "")+"http://"+siteAddr+" {\n"+basicAuth+"webrtc_tunnel /tunnel* {\nname gw\n}\n}\n")
	wrong := password(t, "alice")
	wrong.Set("Authorization", strings.Replace(password(t, "bob").Get("Authorization"), "Basic ", "Basic YQ", 1))
	for name, header := range map[string]http.Header{"nobody": nil, "a wrong password": wrong, "who says so": user("alice")} {
		_, _, err := tryChannels(t, header, "", []rtc.ChannelSpec{{Protocol: "culvert.2"}})
		if tunnel.CodeOf(err) != framecodec.CodeUnauthenticated {
			t.Errorf("%s: %v", name, err)
		}
	}
	p := connect(t, siteURL, password(t, "alice"))
	if list := tunnels(t, "gateway"); len(list) != 1 || list[0].Identity != "alice" {
		t.Errorf("%+v, want one tunnel of alice", list)
	}
	location, _ := postOffer(t, siteURL, password(t, "alice"))
	res, body := request(t, http.MethodDelete, location, password(t, "bob"), "")
	wantProblem(t, res, body, http.StatusNotFound, framecodec.CodeNotFound)
	if err := p.signal.Delete(t.Context()); err != nil {
		t.Errorf("its own session: %v", err)
	}
}
