package culvert

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	_ "github.com/caddyserver/caddy/v2/modules/standard"
	"github.com/google/go-cmp/cmp"
)

func TestUnmarshalCaddyfile(t *testing.T) {
	for name, test := range map[string]struct {
		module caddyfile.Unmarshaler
		input  string
		want   string
	}{
		"app empty": {new(App), "webrtc_tunnel", `{}`},
		"app full": {new(App), `webrtc_tunnel {
			listen udp/:3479
			external_address 203.0.113.7 gw.example.com:3478
			external_address 2001:db8::7
			keep_private
			candidates public
			remote_candidates
			ice_server turn:turn.example.net:3478?transport=udp {
				secret {env.TURN_SECRET}
				ttl 5m
			}
			ice_server stun:stun.example.net
			ice_server turns:t.example.net {
				username u
				credential {file./run/p}
				share
			}
			limits {
				tunnels 10
				streams 20
				memory 1GiB
				tunnel_memory 64MiB
				handshakes 30
				handshakes_per_client 4
				memory_per_identity 128MiB
			}
			timeouts {
				connect 1s
				dial 2s
				keepalive 3s
				write 0
				idle 5m
				drain 1d
			}
			remote office https://a.example/tunnel https://b.example/tunnel {
				header Authorization "Bearer {env.TOKEN}"
				header X-Site one
				dialect 1
				connect eager
				tls_client_auth /c.pem /k.pem
				tls_server_name gw.internal
				tls_trust_pool file /ca.pem
			}
			remote home https://h.example
		}`, `{"listen":"udp/:3479","external_address":["203.0.113.7","gw.example.com:3478","2001:db8::7"],"keep_private":true,
			"candidates":["public"],"remote_candidates":true,
			"ice_server":[{"urls":["turn:turn.example.net:3478?transport=udp"],"secret":"{env.TURN_SECRET}","ttl":300000000000},
				{"urls":["stun:stun.example.net"]},{"urls":["turns:t.example.net"],"username":"u","credential":"{file./run/p}","share":true}],
			"limits":{"tunnels":10,"streams":20,"memory":1073741824,"tunnel_memory":67108864,"handshakes":30,"handshakes_per_client":4,"memory_per_identity":134217728},
			"timeouts":{"connect":1000000000,"dial":2000000000,"keepalive":3000000000,"idle":300000000000,"drain":86400000000000},
			"remote":{"home":{"urls":["https://h.example"]},
				"office":{"urls":["https://a.example/tunnel","https://b.example/tunnel"],"header":{"Authorization":"Bearer {env.TOKEN}","X-Site":"one"},
				"dialect":1,"connect":"eager","tls_trust_pool":{"pem_files":["/ca.pem"],"provider":"file"},
				"tls_client_auth":{"certificate":"/c.pem","key":"/k.pem"},"tls_server_name":"gw.internal"}}}`},
		"endpoint empty": {new(Endpoint), "webrtc_tunnel", `{}`},
		"endpoint full": {new(Endpoint), `webrtc_tunnel {
			name gw
			base_path /tunnel
			identity {http.request.header.X-User}
			allow_anonymous
			groups {http.auth.user.groups}
			max_age 12h
			expires {http.auth.user.exp}
			origin https://app.example.com
			origin https://b.example.com https://c.example.com
			allow_http
			dialects 1 2
			target ssh tcp/10.0.0.5:22 {
				users alice bob
				groups ops
				proxy_protocol v2
			}
			target pc tcp/10.0.0.9:5900 tcp/10.0.0.10:5900 {
				title "Office PC"
				app vnc
				breaker off
			}
			dynamic {
				allow tcp/10.0.0.0/8:22,8000-8100 {
					users alice
				}
				allow tcp/*.internal.example:443 private
				deny 10.0.0.13
				resolver 10.0.0.53
			}
			default_target ssh
			limits {
				tunnels_per_identity 2
				streams_per_tunnel 3
				opens_per_second 4
				rate 100MiB
				stream_rate 2.5MB
				bytes_per_day 50GiB
			}
		}`, `{"name":"gw","base_path":"/tunnel","identity":"{http.request.header.X-User}","allow_anonymous":true,"groups":"{http.auth.user.groups}",
			"max_age":43200000000000,"expires":"{http.auth.user.exp}","origin":["https://app.example.com","https://b.example.com","https://c.example.com"],
			"allow_http":true,"dialects":[1,2],
			"target":{"pc":{"addresses":["tcp/10.0.0.9:5900","tcp/10.0.0.10:5900"],"title":"Office PC","app":"vnc","breaker":"off","position":"Testfile:18"},
				"ssh":{"addresses":["tcp/10.0.0.5:22"],"users":["alice","bob"],"groups":["ops"],"proxy_protocol":"v2","position":"Testfile:13"}},
			"dynamic":{"rules":[{"allow":"tcp/10.0.0.0/8:22,8000-8100","users":["alice"],"position":"Testfile:24"},
				{"allow":"tcp/*.internal.example:443","private":true,"position":"Testfile:27"},{"deny":"10.0.0.13","position":"Testfile:28"}],"resolver":"10.0.0.53"},
			"default_target":"ssh","limits":{"tunnels_per_identity":2,"streams_per_tunnel":3,"opens_per_second":4,"rate":104857600,"stream_rate":2500000,"bytes_per_day":53687091200}}`},
		"entry target":       {new(Entry), "webrtc_tunnel office ssh", `{"remote":"office","target":"ssh"}`},
		"entry address":      {new(Entry), "webrtc_tunnel office tcp/10.0.0.7:5432", `{"remote":"office","target":"tcp/10.0.0.7:5432"}`},
		"entry socks5 short": {new(Entry), "webrtc_tunnel office socks5", `{"remote":"office","socks5":{}}`},
		"entry socks5 block": {new(Entry), "webrtc_tunnel office {\n socks5\n}", `{"remote":"office","socks5":{}}`},
	} {
		t.Run(name, func(t *testing.T) {
			if err := test.module.UnmarshalCaddyfile(caddyfile.NewTestDispenser(test.input)); err != nil {
				t.Fatal(err)
			}
			got, err := json.Marshal(test.module)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(decode(t, []byte(test.want)), decode(t, got)); diff != "" {
				t.Errorf("JSON differs (-want +got):\n%s", diff)
			}
		})
	}
}

func decode(t *testing.T, raw []byte) any {
	t.Helper()
	var v any
	if err := json.Unmarshal(raw, &v); err != nil {
		t.Fatalf("%v in %s", err, raw)
	}
	return v
}

// adapt runs the Caddyfile adapter without a server.
func adapt(input string) ([]byte, error) {
	out, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(input), map[string]any{"filename": "Caddyfile"})
	return out, err
}

// TestCaddyfileErrors has the text and the line of each mistake that the parser
// finds.
func TestCaddyfileErrors(t *testing.T) {
	global := func(lines string) string { return "{\n\twebrtc_tunnel {\n" + lines + "\n\t}\n}\n" }
	site := func(lines string) string { return ":80 {\n\twebrtc_tunnel /t* {\n" + lines + "\n\t}\n}\n" }
	entry := func(line string) string {
		return "{\n\tlayer4 {\n\t\t:1 {\n\t\t\troute {\n" + line + "\n\t\t\t}\n\t\t}\n\t}\n}\n"
	}
	for name, test := range map[string]struct {
		input string
		want  []string
	}{
		"unknown global option":        {global("liste udp/:1"), []string{`unrecognized option "liste"`, "known are: ", "Caddyfile:3"}},
		"duplicate global option":      {global("listen udp/:1\nlisten udp/:2"), []string{`duplicate option "listen"`, "Caddyfile:4"}},
		"argument missing":             {global("listen"), []string{"rong argument count", "Caddyfile:3"}},
		"argument too many":            {global("listen a b"), []string{"rong argument count"}},
		"flag with argument":           {global("loopback yes"), []string{"rong argument count"}},
		"option with a block":          {global("listen udp/:1 {\nx\n}"), []string{"unexpected block"}},
		"argument of the global block": {"{\n\twebrtc_tunnel x\n}\n", []string{"rong argument count"}},
		"bad size":                     {global("limits {\nmemory much\n}"), []string{`"much" is not a size`, "Caddyfile:4"}},
		"bad number":                   {global("limits {\ntunnels 0\n}"), []string{"not a whole number of at least 1"}},
		"bad duration":                 {global("timeouts {\ndial soon\n}"), []string{"not a time"}},
		"zero duration":                {global("timeouts {\ndial 0\n}"), []string{"not a time"}},
		"unknown limit":                {global("limits {\nbytes 5\n}"), []string{`unrecognized option "bytes" in limits`}},
		"udp_idle of never":            {global("timeouts {\nudp_idle 0\n}"), []string{"not a time"}},
		"duplicate remote":             {global("remote a https://x\nremote a https://y"), []string{`duplicate remote "a"`, "Caddyfile:4"}},
		"remote without URL":           {global("remote a"), []string{"rong argument count"}},
		"duplicate header":             {global("remote a https://x {\nheader A b\nheader A c\n}"), []string{`duplicate header "A"`}},
		"unknown trust pool":           {global("remote a https://x {\ntls_trust_pool nosuch\n}"), []string{"nosuch"}},
		"expose without an address":    {global("remote a https://x {\nexpose ssh\n}"), []string{"wrong argument count"}},
		"duplicate service":            {global("remote a https://x {\nexpose s tcp/127.0.0.1:22\nexpose s tcp/127.0.0.1:23\n}"), []string{`duplicate service "s"`}},
		"two blocks in conflict":       {"{\n\twebrtc_tunnel {\n\t\tlisten udp/:1\n\t}\n\twebrtc_tunnel {\n\t\tlisten udp/:2\n\t}\n}\n", []string{"listen is set differently", "Caddyfile:"}},
		"two blocks, one limit":        {"{\n\twebrtc_tunnel {\n\t\tlimits {\n\t\t\ttunnels 1\n\t\t}\n\t}\n\twebrtc_tunnel {\n\t\tlimits {\n\t\t\ttunnels 2\n\t\t}\n\t}\n}\n", []string{"limits tunnels is set differently"}},
		"two blocks, one remote":       {"{\n\twebrtc_tunnel {\n\t\tremote a https://x\n\t}\n\twebrtc_tunnel {\n\t\tremote a https://y\n\t}\n}\n", []string{"remote a is set differently"}},

		"unknown directive option": {site("nam x"), []string{`unrecognized option "nam"`, "Caddyfile:3"}},
		"later option guacamole":   {site("guacamole win rdp"), []string{`unrecognized option "guacamole"`}},
		"on_reload twice":          {site("on_reload keep\non_reload cut"), []string{`duplicate option "on_reload"`}},
		"rate in bits":             {site("limits {\nrate 100Mbit\n}"), []string{`"100Mbit" is not a size such as 64MiB`}},
		"rate of nothing":          {site("limits {\nstream_rate 0\n}"), []string{`"0" is not a size such as 64MiB`}},
		"two rates":                {site("limits {\nrate 1MiB 2MiB\n}"), []string{"rong argument count"}},
		"later target option":      {site("target a tcp/10.0.0.1:1 {\nrecord /x\n}"), []string{`unrecognized option "record" in target`}},
		"duplicate target":         {site("target a tcp/10.0.0.1:1\ntarget a tcp/10.0.0.1:2"), []string{`duplicate target "a"`, "Caddyfile:4"}},
		"target without address":   {site("target a"), []string{"rong argument count"}},
		"two dynamic blocks":       {site("dynamic {\ndeny 10.0.0.1\n}\ndynamic {\ndeny 10.0.0.2\n}"), []string{`duplicate option "dynamic"`}},
		"deny private":             {site("dynamic {\ndeny 10.0.0.1 private\n}"), []string{"rong argument count"}},
		"allow with another word":  {site("dynamic {\nallow tcp/10.0.0.0/8:22 public\n}"), []string{"rong argument count"}},
		"dialect 3":                {site("dialects 3"), []string{`dialect "3" is neither 1 nor 2`}},
		"duplicate user":           {site("target a tcp/10.0.0.1:1 {\nusers eve bob eve\n}"), []string{`"eve" is there twice`}},
		"directive argument":       {":80 {\n\twebrtc_tunnel /t* x\n}\n", []string{"rong argument count"}},
		"base path in doubt":       {":80 {\n\t@a path /a /b\n\twebrtc_tunnel @a\n}\n", []string{"write base_path"}},
		"wildcard in the path":     {":80 {\n\twebrtc_tunnel /a*b\n}\n", []string{"base_path"}},
		"base path without slash":  {site("base_path tunnel"), []string{"must begin with a slash"}},

		"entry without remote":  {entry("webrtc_tunnel"), []string{"rong argument count"}},
		"entry without target":  {entry("webrtc_tunnel office"), []string{"give a target, an address or socks5"}},
		"entry with both":       {entry("webrtc_tunnel office ssh {\nsocks5\n}"), []string{"stands beside"}},
		"user without password": {entry("webrtc_tunnel office {\nsocks5 {\nuser alice\n}\n}"), []string{"user needs a name and a password"}},
		"user twice":            {entry("webrtc_tunnel office {\nsocks5 {\nuser alice a\nuser alice b\n}\n}"), []string{`a user "alice" already`}},
		"socks5 option":         {entry("webrtc_tunnel office {\nsocks5 {\nbind 127.0.0.1\n}\n}"), []string{`unrecognized option "bind"`}},
		"entry unknown option":  {entry("webrtc_tunnel office {\nhttp\n}"), []string{`unrecognized option "http"`}},
		"entry three arguments": {entry("webrtc_tunnel office ssh now"), []string{"rong argument count"}},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := adapt(test.input)
			if err == nil {
				t.Fatal("no error")
			}
			for _, want := range test.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("error %q does not say %q", err, want)
				}
			}
		})
	}
}

func TestTwoGlobalBlocksMerge(t *testing.T) {
	out, err := adapt(`{
	webrtc_tunnel {
		listen udp/:3479
		external_address 203.0.113.7
		limits {
			tunnels 5
		}
		remote a https://a.example
	}
	webrtc_tunnel {
		listen udp/:3479
		external_address 203.0.113.8
		limits {
			streams 6
		}
		remote b https://b.example
	}
}
`)
	if err != nil {
		t.Fatal(err)
	}
	var cfg struct {
		Apps struct {
			Tunnel App `json:"webrtc_tunnel"`
		} `json:"apps"`
	}
	if err := json.Unmarshal(out, &cfg); err != nil {
		t.Fatal(err)
	}
	got, want := cfg.Apps.Tunnel, App{
		Listen: "udp/:3479", ExternalAddress: []string{"203.0.113.7", "203.0.113.8"}, Limits: &Limits{Tunnels: 5, Streams: 6},
		Remote: map[string]*Remote{"a": {URLs: []string{"https://a.example"}}, "b": {URLs: []string{"https://b.example"}}},
	}
	if diff := cmp.Diff(caddyconfig.JSON(want, nil), caddyconfig.JSON(got, nil)); diff != "" {
		t.Errorf("merged differs (-want +got):\n%s", diff)
	}
}

// TestBasePathFromMatcher: the three ways to write the path mean the same.
func TestBasePathFromMatcher(t *testing.T) {
	for matcher, want := range map[string]struct{ base, match string }{
		"/tunnel*":  {"/tunnel", `["/tunnel","/tunnel/*"]`},
		"/tunnel/*": {"/tunnel", `["/tunnel","/tunnel/*"]`},
		"/tunnel":   {"/tunnel", `["/tunnel","/tunnel/*"]`},
		"/a/b*":     {"/a/b", `["/a/b","/a/b/*"]`},
		"/*":        {"/", `["/*"]`},
		"*":         {"/", ``},
		"":          {"/", ``},
	} {
		t.Run(matcher, func(t *testing.T) {
			out, err := adapt(":80 {\n\twebrtc_tunnel " + matcher + "\n}\n")
			if err != nil {
				t.Fatal(err)
			}
			base, match := findEndpoint(t, out)
			if base != want.base || match != want.match {
				t.Errorf("base_path %q, matcher %s; want %q, %s", base, match, want.base, want.match)
			}
		})
	}
}

func findEndpoint(t *testing.T, config []byte) (base, match string) {
	t.Helper()
	var cfg struct {
		Apps struct {
			HTTP struct {
				Servers map[string]struct {
					Routes []struct {
						Match []struct {
							Path json.RawMessage `json:"path"`
						} `json:"match"`
						Handle []Endpoint `json:"handle"`
					} `json:"routes"`
				} `json:"servers"`
			} `json:"http"`
		} `json:"apps"`
	}
	if err := json.Unmarshal(config, &cfg); err != nil {
		t.Fatal(err)
	}
	route := cfg.Apps.HTTP.Servers["srv0"].Routes[0]
	if len(route.Match) > 0 {
		match = string(route.Match[0].Path)
	}
	return route.Handle[0].BasePath, match
}

func TestMergeKeepsOtherOptions(t *testing.T) {
	before := httpcaddyfile.App{Name: appName, Value: json.RawMessage(`{"listen":"udp/:1"}`)}
	got, err := parseGlobalOption(caddyfile.NewTestDispenser("webrtc_tunnel {\n loopback\n}"), before)
	if err != nil {
		t.Fatal(err)
	}
	want := `{"listen":"udp/:1","loopback":true}`
	if diff := cmp.Diff(decode(t, []byte(want)), decode(t, got.(httpcaddyfile.App).Value)); diff != "" {
		t.Errorf("merged differs (-want +got):\n%s", diff)
	}
}
