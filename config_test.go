package culvert

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
)

// load provisions a configuration as `caddy validate` does: nothing is opened.
func load(t *testing.T, config string) error { return loadTo(t, config, `{"output":"discard"}`) }

// loadLogged is load of a good configuration; it returns the log.
func loadLogged(t *testing.T, config string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "log")
	if err := loadTo(t, config, `{"output":"file","roll":false,"filename":"`+file+`"}`); err != nil {
		t.Fatal(err)
	}
	log, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(log)
}

// loadTo is load with a writer for the log.
func loadTo(t *testing.T, config, writer string) error {
	t.Helper()
	var cfg caddy.Config
	if err := json.Unmarshal([]byte(config), &cfg); err != nil {
		t.Fatalf("%v in %s", err, config)
	}
	off := false
	cfg.Logging = &caddy.Logging{Logs: map[string]*caddy.CustomLog{"default": {BaseLog: caddy.BaseLog{WriterRaw: json.RawMessage(writer)}}}}
	cfg.Admin = &caddy.AdminConfig{Disabled: true, Config: &caddy.ConfigSettings{Persist: &off}}
	return caddy.Validate(&cfg)
}

func siteJSON(endpoint string) string {
	return `{"apps":{"http":{"servers":{"s":{"listen":["127.0.0.1:0"],"automatic_https":{"disable":true},"routes":[{"handle":[{"handler":"webrtc_tunnel",` + endpoint + `}]}]}}}}}`
}

func entryJSON(listen, entry string) string {
	return `{"apps":{"webrtc_tunnel":{"remote":{"office":{"urls":["https://gw.example/tunnel"]}}},"layer4":{"servers":{"s":{"listen":["` + listen +
		`"],"routes":[{"handle":[{"handler":"webrtc_tunnel",` + entry + `}]}]}}}}}`
}

func appJSON(app string) string { return `{"apps":{"webrtc_tunnel":{` + app + `}}}` }

// TestValidate has what `caddy validate` finds: whatever Start could foresee.
func TestValidate(t *testing.T) {
	t.Setenv("CULVERT_TEST_EMPTY", "")
	t.Setenv("CULVERT_TEST_SECRET", "s3cret")
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("from a file\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	twoLines := filepath.Join(t.TempDir(), "two")
	if err := os.WriteFile(twoLines, []byte("one\ntwo\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct{ config, want string }{
		"nothing":                    {appJSON(``), ""},
		"one JSON key wrong":         {appJSON(`"listn":"udp/:1"`), "listn"},
		"listen tcp":                 {appJSON(`"listen":"tcp/:3478"`), "must be udp"},
		"listen range":               {appJSON(`"listen":"udp/:3478-3480"`), "range"},
		"listen without port":        {appJSON(`"listen":"udp/127.0.0.1"`), ""},
		"listen port as a host":      {appJSON(`"listen":"udp/3478"`), "udp/:3478"},
		"listen port alone":          {appJSON(`"listen":"3478"`), "udp/:3478"},
		"listen host of digits":      {appJSON(`"listen":"udp4/3478:3479"`), "write udp4/:3478"},
		"loopback elsewhere":         {appJSON(`"loopback":true`), "not a loopback address"},
		"loopback":                   {appJSON(`"loopback":true,"listen":"udp/127.0.0.1:3478"`), ""},
		"keep_private alone":         {appJSON(`"keep_private":true`), "external_address"},
		"candidates":                 {appJSON(`"candidates":["10.0.0.0/8","2001:db8::/32"]`), ""},
		"candidates word":            {appJSON(`"candidates":["private"]`), "neither all, public nor a CIDR"},
		"candidates public and":      {appJSON(`"candidates":["public","10.0.0.0/8"]`), "stands alone"},
		"external address URL":       {appJSON(`"external_address":["https://x/"]`), "external_address"},
		"external address":           {appJSON(`"external_address":["203.0.113.7:3479","2001:db8::7","gw.example.com"]`), ""},
		"external address cut":       {appJSON(`"external_address":["1.2.3"]`), "four numbers"},
		"external address port 0":    {appJSON(`"external_address":["203.0.113.7:0"]`), "1 to 65535"},
		"external address empty":     {appJSON(`"external_address":[""]`), "external_address"},
		"limit negative":             {appJSON(`"limits":{"tunnels":-1}`), "tunnels must be at least 1"},
		"timeout negative":           {appJSON(`"timeouts":{"write":-1}`), "write must be at least"},
		"timeout too short":          {appJSON(`"timeouts":{"keepalive":"1ms"}`), "keepalive must be at least 1s"},
		"turn":                       {appJSON(`"ice_server":[{"urls":["turn:t.example"],"secret":"{env.CULVERT_TEST_SECRET}"}]`), ""},
		"turn secret in file":        {appJSON(`"ice_server":[{"urls":["turn:t.example"],"secret":"{file.` + secret + `}"}]`), ""},
		"turn secret empty":          {appJSON(`"ice_server":[{"urls":["turn:t.example"],"secret":"{env.CULVERT_TEST_EMPTY}"}]`), "ice_server 0"},
		"turn secret unset":          {appJSON(`"ice_server":[{"urls":["turn:t.example"],"secret":"{env.CULVERT_TEST_UNSET}"}]`), "ice_server 0"},
		"turn secret unknown":        {appJSON(`"ice_server":[{"urls":["turn:t.example"],"secret":"{no.such}"}]`), "ice_server 0"},
		"turn secret no file":        {appJSON(`"ice_server":[{"urls":["turn:t.example"],"secret":"{file.` + secret + `.gone}"}]`), "ice_server 0"},
		"turn without secret":        {appJSON(`"ice_server":[{"urls":["turn:t.example"]}]`), "needs secret"},
		"turn both":                  {appJSON(`"ice_server":[{"urls":["turn:t.example"],"secret":"a","username":"b","credential":"c"}]`), "not both"},
		"turn half":                  {appJSON(`"ice_server":[{"urls":["turn:t.example"],"username":"b"}]`), "belong together"},
		"stun with credentials":      {appJSON(`"ice_server":[{"urls":["stun:t.example"],"username":"b","credential":"c"}]`), "turn: and turns: servers only"},
		"ice server scheme":          {appJSON(`"ice_server":[{"urls":["https://t.example"]}]`), "none of stun"},
		"remote":                     {appJSON(`"remote":{"a":{"urls":["https://x/t"],"header":{"Authorization":"Bearer {env.CULVERT_TEST_SECRET}"}}}`), ""},
		"remote header empty":        {appJSON(`"remote":{"a":{"urls":["https://x/t"],"header":{"Authorization":"Bearer {env.CULVERT_TEST_UNSET}"}}}`), "header Authorization"},
		"remote without URL":         {appJSON(`"remote":{"a":{}}`), "no URL"},
		"remote scheme":              {appJSON(`"remote":{"a":{"urls":["wss://x/t"]}}`), "must begin with https"},
		"remote header name":         {appJSON(`"remote":{"a":{"urls":["https://x/t"],"header":{"Bad Name":"x"}}}`), "cannot name a header"},
		"remote header of two lines": {appJSON(`"remote":{"a":{"urls":["https://x/t"],"header":{"X-Token":"{file.` + twoLines + `}"}}}`), "more than one line"},
		"remote with password":       {appJSON(`"remote":{"a":{"urls":["https://u:p@x/t"]}}`), "credentials belong into header"},
		"remote dialect":             {appJSON(`"remote":{"a":{"urls":["https://x"],"dialect":3}}`), "dialect 3"},
		"remote connect":             {appJSON(`"remote":{"a":{"urls":["https://x"],"connect":"now"}}`), "neither lazy nor eager"},
		"remote name":                {appJSON(`"remote":{"A b":{"urls":["https://x"]}}`), "a name is"},
		"remote local":               {appJSON(`"remote":{"local":{"urls":["https://x"]}}`), "local is reserved"},
		"remote certificate":         {appJSON(`"remote":{"a":{"urls":["https://x"],"tls_client_auth":{"certificate":"/nosuch","key":"/nosuch"}}}`), "tls_client_auth"},
		"remote trust pool missing":  {appJSON(`"remote":{"a":{"urls":["https://x"],"tls_trust_pool":{"provider":"file","pem_files":["/nosuch"]}}}`), "trust pool"},

		"endpoint":               {siteJSON(`"base_path":"/t"`), ""},
		"endpoint target":        {siteJSON(`"target":{"ssh":{"addresses":["tcp/10.0.0.5:22"]}},"default_target":"ssh"`), ""},
		"endpoint target name":   {siteJSON(`"target":{"SSH":{"addresses":["tcp/10.0.0.5:22"]}}`), "a name is"},
		"endpoint socks5 target": {siteJSON(`"target":{"socks5":{"addresses":["tcp/10.0.0.5:22"]}}`), "not socks5"},
		"endpoint no address":    {siteJSON(`"target":{"ssh":{}}`), "ssh"},
		"endpoint bad address":   {siteJSON(`"target":{"ssh":{"addresses":["10.0.0.5:22"]}}`), "ssh"},
		"endpoint udp target":    {siteJSON(`"target":{"dns":{"addresses":["udp/10.0.0.5:53"]}},"dynamic":{"rules":[{"allow":"udp/[2001:db8::/32]:53"},{"deny":"udp/10.0.0.13"}]}`), ""},
		"endpoint mixed target":  {siteJSON(`"target":{"dns":{"addresses":["udp/10.0.0.5:53","tcp/10.0.0.5:53"]}}`), "make two targets of them"},
		"endpoint udp default":   {siteJSON(`"target":{"dns":{"addresses":["udp/10.0.0.5:53"]}},"default_target":"dns"`), "is a datagram target"},
		"endpoint default":       {siteJSON(`"default_target":"none"`), "not a target of this endpoint"},
		"endpoint expires word":  {siteJSON(`"expires":"tomorrow"`), "expires"},
		"endpoint expires time":  {siteJSON(`"expires":"2099-01-01T00:00:00Z"`), ""},
		"endpoint expires claim": {siteJSON(`"expires":"{http.auth.user.exp}"`), ""},
		"endpoint dialect":       {siteJSON(`"dialects":[2,2]`), "dialects"},
		"endpoint origin":        {siteJSON(`"origin":["https://a.example/"]`), "origin"},
		"endpoint base path":     {siteJSON(`"base_path":"/t/"`), "must not end with a slash"},
		"endpoint wildcard":      {siteJSON(`"base_path":"/t*"`), "plain path"},
		"endpoint rates":         {siteJSON(`"limits":{"rate":1024,"stream_rate":1024}`), ""},
		"endpoint low rate":      {siteJSON(`"limits":{"rate":100}`), "100 bytes a second are less than 1KiB; write a unit, such as 100MiB"},
		"endpoint stream rate":   {siteJSON(`"limits":{"stream_rate":-1}`), "limits stream_rate"},
		"rule without ports":     {siteJSON(`"dynamic":{"rules":[{"allow":"tcp/10.0.0.0/8"}]}`), "dynamic.rules[0]"},
		"rule empty":             {siteJSON(`"dynamic":{"rules":[{}]}`), "dynamic.rules[0]"},
		"rule both":              {siteJSON(`"dynamic":{"rules":[{"allow":"tcp/10.0.0.0/8:1","deny":"10.0.0.1"}]}`), "either allow or deny"},
		"two endpoints, one name": {`{"apps":{"http":{"servers":{
			"a":{"listen":["127.0.0.1:0"],"automatic_https":{"disable":true},"routes":[{"handle":[{"handler":"webrtc_tunnel","name":"gw","allow_anonymous":true}]}]},
			"b":{"listen":["127.0.0.1:0"],"automatic_https":{"disable":true},"routes":[{"handle":[{"handler":"webrtc_tunnel","name":"gw"}]}]}}}}}`, `called "gw"`},
		"the same endpoint twice": {`{"apps":{"http":{"servers":{
			"a":{"listen":["127.0.0.1:1"],"automatic_https":{"disable":true},"routes":[{"handle":[{"handler":"webrtc_tunnel"}]}]},
			"b":{"listen":["127.0.0.1:2"],"automatic_https":{"disable":true},"routes":[{"handle":[{"handler":"webrtc_tunnel"}]}]}}}}}`, ""},

		"entry":                {entryJSON("127.0.0.1:0", `"remote":"office","target":"ssh"`), ""},
		"entry socks5":         {entryJSON("127.0.0.1:0", `"remote":"office","socks5":{}`), ""},
		"entry users":          {entryJSON("127.0.0.1:0", `"remote":"office","socks5":{"users":{"alice":"x"},"udp":"127.0.0.1:0"}`), ""},
		"entry empty secret":   {entryJSON("127.0.0.1:0", `"remote":"office","socks5":{"users":{"alice":"{env.NOT_SET_ANYWHERE}"}}`), `socks5 user "alice"`},
		"entry no password":    {entryJSON("127.0.0.1:0", `"remote":"office","socks5":{"users":{"alice":""}}`), "a password has 1 to 255 bytes"},
		"entry udp port":       {entryJSON("127.0.0.1:0", `"remote":"office","socks5":{"udp":"127.0.0.1:5000"}`), "write port 0"},
		"entry udp name":       {entryJSON("127.0.0.1:0", `"remote":"office","socks5":{"udp":"localhost:0"}`), "the host is an address"},
		"entry udp address":    {entryJSON("127.0.0.1:0", `"remote":"office","socks5":{"udp":"127.0.0.1"}`), "write an address and port 0"},
		"entry unknown remote": {entryJSON("127.0.0.1:0", `"remote":"home","target":"ssh"`), `no remote "home"`},
		"entry without remote": {entryJSON("127.0.0.1:0", `"target":"ssh"`), "remote is missing"},
		"entry with both":      {entryJSON("127.0.0.1:0", `"remote":"office","target":"ssh","socks5":{}`), "either a target or socks5"},
		"entry with neither":   {entryJSON("127.0.0.1:0", `"remote":"office"`), "either a target or socks5"},
		"entry bad target":     {entryJSON("127.0.0.1:0", `"remote":"office","target":"tcp/nohost"`), "needs a host and a port"},
		"entry udp target":     {entryJSON("127.0.0.1:0", `"remote":"office","target":"udp/10.0.0.1:53"`), "a TCP listener cannot lead to udp/10.0.0.1:53"},
		"entry udp":            {entryJSON("udp/127.0.0.1:0", `"remote":"office","target":"udp/10.0.0.1:53"`), ""},
		"entry udp named":      {entryJSON("udp/127.0.0.1:0", `"remote":"office","target":"dns"`), ""},
		"entry udp to tcp":     {entryJSON("udp/127.0.0.1:0", `"remote":"office","target":"tcp/10.0.0.1:53"`), "a UDP listener cannot lead to tcp/10.0.0.1:53"},
		"entry reverse target": {entryJSON("127.0.0.1:0", `"remote":"office","target":"client:bob/sshd"`), ""},
		"entry reverse name":   {entryJSON("127.0.0.1:0", `"remote":"office","target":"client:bob/SSHD"`), "client:IDENTITY/NAME"},
		"entry udp socks5":     {entryJSON("udp/127.0.0.1:0", `"remote":"office","socks5":{}`), "socks5 needs a TCP listener"},
	} {
		t.Run(name, func(t *testing.T) {
			err := load(t, test.config)
			switch {
			case test.want == "" && err != nil:
				t.Errorf("error %v", err)
			case test.want != "" && err == nil:
				t.Errorf("no error, want one that says %q", test.want)
			case test.want != "" && !strings.Contains(err.Error(), test.want):
				t.Errorf("error %q does not say %q", err, test.want)
			}
			if hubs := runningHubs(); len(hubs) > 0 {
				t.Fatalf("%d hubs are left in the pool", len(hubs))
			}
		})
	}
}

// TestAdminListeners would fail if Caddy renamed what is read by reflection.
func TestAdminListeners(t *testing.T) {
	for name, test := range map[string]struct {
		config string
		want   []string
	}{
		"default":  {`{}`, []string{caddy.DefaultAdminListen}},
		"another":  {`{"admin":{"listen":"localhost:2998"}}`, []string{"localhost:2998"}},
		"unix":     {`{"admin":{"listen":"unix//run/x.sock"}}`, []string{"unix//run/x.sock"}},
		"disabled": {`{"admin":{"disabled":true}}`, nil},
		"remote":   {`{"admin":{"listen":"localhost:2998","remote":{"listen":":2997"}}}`, []string{"localhost:2998", ":2997"}},
	} {
		t.Run(name, func(t *testing.T) {
			var cfg caddy.Config
			if err := json.Unmarshal([]byte(test.config), &cfg); err != nil {
				t.Fatal(err)
			}
			got := adminListenersOf(&cfg)
			if strings.Join(got, " ") != strings.Join(test.want, " ") {
				t.Errorf("%v, want %v", got, test.want)
			}
		})
	}
	// The same by way of a context: the field is there.
	ctx, cancel := caddy.NewContext(caddy.Context{Context: context.Background()})
	defer cancel()
	if !configField(ctx).IsValid() {
		t.Error("caddy.Context has no field cfg any more")
	}
}

// TestFailedProvisionHoldsNothing: wherever a load stops, no reference on a hub
// stays, and that of a configuration that runs is not given back for it.
func TestFailedProvisionHoldsNothing(t *testing.T) {
	listen := listenAddress{"udp", ":3478"}
	held, err := acquireHub(listen)
	if err != nil {
		t.Fatal(err)
	}
	for name, config := range map[string]string{
		"the app, before it has the hub": appJSON(`"listen":"tcp/:3478"`),
		"the app, behind that":           appJSON(`"limits":{"tunnels":-1}`),
		"an endpoint":                    siteJSON(`"base_path":"no slash"`),
		"an entry":                       entryJSON("127.0.0.1:0", `"remote":"nosuch","target":"ssh"`),
		"none":                           siteJSON(`"allow_anonymous":true`),
	} {
		if err := load(t, config); (err == nil) != (name == "none") {
			t.Errorf("%s: %v", name, err)
		}
		if n, _ := hubPool.References(listen); n != 1 {
			t.Errorf("%s: %d references are held, want the one from before", name, n)
		}
	}
	if hubs := runningHubs(); len(hubs) != 1 || hubs[0] != held {
		t.Errorf("%d hubs, want the one from before", len(hubs))
	}
	if _, err := hubPool.Delete(listen); err != nil {
		t.Error(err)
	}
}

// adminListenersOf is adminListeners of a configuration.
func adminListenersOf(cfg *caddy.Config) []string { return listenersOf(reflect.ValueOf(cfg.Admin)) }
