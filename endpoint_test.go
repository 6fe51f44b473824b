package culvert

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/culvertgate/culvert/framecodec"
	"github.com/culvertgate/culvert/tunnel"
	"github.com/culvertgate/culvert/tunnel/signal"
)

// TestCutPath: a request that misses the endpoint because handle_path or the
// like has cut its path makes a line that says what to write; others make none.
func TestCutPath(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	env := testEnvironment(t)
	core, logs := observer.New(zapcore.WarnLevel)
	env.logger = zap.New(core)
	h := newHub(listenAddress{})
	if err := h.attach(env); err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct{ base, original, path, write string }{
		"cut, no base_path":                    {"/", "/tunnel", "/", "base_path /tunnel"},
		"cut to nothing":                       {"/", "/tunnel", "", "base_path /tunnel"},
		"cut, below, no base_path":             {"/", "/office/targets", "/targets", "base_path /office"},
		"cut, base_path of the matcher inside": {"/tunnel", "/office/tunnel/targets", "/tunnel/targets", "base_path /office/tunnel"},
		"cut, base_path right":                 {"/office/tunnel", "/office/tunnel/nothing", "/tunnel/nothing", ""},
		"not cut, nothing there":               {"/tunnel", "/tunnel/nothing", "/tunnel/nothing", ""},
		"not cut, not ours":                    {"/tunnel", "/", "/", ""},
		"rewritten to something else":          {"/tunnel", "/a", "/b", ""},
	} {
		t.Run(name, func(t *testing.T) {
			s, err := signal.NewEndpoint(signal.EndpointConfig{BasePath: test.base, Backend: &backend{hub: h, name: name, env: env}})
			if err != nil {
				t.Fatal(err)
			}
			e := &Endpoint{Name: name, BasePath: test.base, hub: h, signal: s}
			ctx := context.WithValue(context.Background(), caddy.ReplacerCtxKey, caddy.NewReplacer())
			ctx = context.WithValue(ctx, caddyhttp.VarsCtxKey, map[string]any{})
			ctx = context.WithValue(ctx, caddyhttp.OriginalRequestCtxKey, *httptest.NewRequest(http.MethodGet, test.original, nil))
			r := httptest.NewRequest(http.MethodGet, "/", nil).WithContext(ctx)
			r.URL.Path = test.path
			next := caddyhttp.HandlerFunc(func(http.ResponseWriter, *http.Request) error { return nil })
			logs.TakeAll()
			if err := e.ServeHTTP(httptest.NewRecorder(), r, next); err != nil {
				t.Fatal(err)
			}
			got := ""
			for _, line := range logs.FilterMessageSnippet("missed the endpoint").All() {
				got, _ = line.ContextMap()["write"].(string)
			}
			if got != test.write {
				t.Errorf("told to write %q, want %q", got, test.write)
			}
		})
	}
	h.detach(env)
	if err := h.Destruct(); err != nil {
		t.Error(err)
	}
}

// TestRenewWithACredentialThatIsOver: it renews nothing, and the tunnel keeps
// the time that it has.
func TestRenewWithACredentialThatIsOver(t *testing.T) {
	env := testEnvironment(t, "gw")
	h := newHub(listenAddress{})
	g := h.newTunnel(env.endpoints["gw"], signal.Caller{Identity: "alice"}, signal.Offer{})
	if err := h.tunnels.add(g, 1); err != nil {
		t.Fatal(err)
	}
	b := &backend{hub: h, name: "gw", env: env}
	over := signal.Caller{Identity: "alice", Expires: parseExpiry("1700000000")}
	if _, err := b.Renew(context.Background(), over, g.secret); tunnel.CodeOf(err) != framecodec.CodeAuthExpired {
		t.Errorf("%v, want auth_expired", err)
	}
	if end := g.expiry(); !end.IsZero() {
		t.Errorf("the tunnel ends at %v now", end)
	}
	good := signal.Caller{Identity: "alice", Expires: parseExpiry("4000000000")}
	if end, err := b.Renew(context.Background(), good, g.secret); err != nil || end.Unix() != 4_000_000_000 {
		t.Errorf("%v, %v, want the end of the new credential", end, err)
	}
}

// TestWideRulesAreTold: what a rule opens without saying so stands in the log at
// load.
func TestWideRulesAreTold(t *testing.T) {
	for rule, want := range map[string]bool{"tcp/0.0.0.0/0:443": true, "tcp/*:443": false} {
		log := loadLogged(t, siteJSON(`"allow_anonymous":true,"dynamic":{"rules":[{"allow":"`+rule+`"}]}`))
		if got := strings.Contains(log, "loopback addresses too"); got != want {
			t.Errorf("%s: warned %v, want %v; the log:\n%s", rule, got, want, log)
		}
	}
}

// TestConstantIdentityIsTold: everybody would be the same one.
func TestConstantIdentityIsTold(t *testing.T) {
	for identity, want := range map[string]bool{"alice": true, "{http.auth.user.id}": false, "team-{http.auth.user.id}": false, "": false} {
		log := loadLogged(t, siteJSON(`"identity":"`+identity+`"`))
		if got := strings.Contains(log, "every client is the same identity"); got != want {
			t.Errorf("identity %q: warned %v, want %v; the log:\n%s", identity, got, want, log)
		}
	}
}

// TestRepeatedDeleteIsNoWarning: a client says goodbye also where the gateway
// has given the tunnel up before; it counts all the same.
func TestRepeatedDeleteIsNoWarning(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	env := testEnvironment(t, "gw")
	core, logs := observer.New(zapcore.DebugLevel)
	env.logger = zap.New(core)
	h := newHub(listenAddress{})
	if err := h.attach(env); err != nil {
		t.Fatal(err)
	}
	e := &Endpoint{Name: "gw", hub: h}
	others := h.newTunnel(env.endpoints["gw"], signal.Caller{Identity: "alice"}, signal.Offer{})
	if err := h.tunnels.add(others, 1); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		method string
		kind   signal.Kind
		status int
		secret string
		want   zapcore.Level
	}{
		{http.MethodDelete, signal.KindDelete, http.StatusNotFound, "gone", zapcore.DebugLevel},
		{http.MethodDelete, signal.KindDelete, http.StatusNotFound, others.secret, zapcore.WarnLevel}, // it is there, and somebody else's
		{http.MethodDelete, signal.KindDelete, http.StatusUnauthorized, "gone", zapcore.WarnLevel},
		{http.MethodPatch, signal.KindPatch, http.StatusNotFound, "gone", zapcore.WarnLevel},
	} {
		counter := processMetrics.signalling.WithLabelValues(test.method, strconv.Itoa(test.status))
		before := testutil.ToFloat64(counter)
		res := signal.Result{Handled: true, Kind: test.kind, Status: test.status, Code: framecodec.CodeNotFound, Secret: test.secret, Err: errors.New("no such session")}
		e.logAccess(httptest.NewRequest(test.method, "/", nil), signal.Caller{}, res, 0)
		lines := logs.TakeAll()
		if len(lines) != 1 || lines[0].Level != test.want {
			t.Errorf("%s, %d: %v, want one line at level %v", test.method, test.status, lines, test.want)
		}
		if got := testutil.ToFloat64(counter) - before; got != 1 {
			t.Errorf("%s, %d: counted %v times", test.method, test.status, got)
		}
	}
	h.tunnels.remove(others)
	h.detach(env)
	if err := h.Destruct(); err != nil {
		t.Error(err)
	}
}

// TestCutsAreToldAtLoad: what handle_path does to an endpoint is known before the
// first request.
func TestCutsAreToldAtLoad(t *testing.T) {
	for name, test := range map[string]struct{ site, want string }{
		"handle_path, base_path":          {"handle_path /tunnel* {\nwebrtc_tunnel {\nbase_path /tunnel\n}\n}", ""},
		"handle_path, base_path below":    {"handle_path /office/* {\nwebrtc_tunnel {\nbase_path /office/tunnel\n}\n}", ""},
		"handle_path, no base_path":       {"handle_path /tunnel* {\nwebrtc_tunnel\n}", "base_path /tunnel"},
		"handle_path, matcher inside":     {"handle_path /tunnel* {\nwebrtc_tunnel /tunnel*\n}", "the directive without that matcher"},
		"handle_path that misses offers":  {"handle_path /tunnel/* {\nwebrtc_tunnel {\nbase_path /tunnel\n}\n}", "/tunnel*"},
		"handle that misses offers":       {"handle /tunnel/* {\nwebrtc_tunnel {\nbase_path /tunnel\n}\n}", "/tunnel*"},
		"strip_prefix, base_path of rest": {"route {\nuri strip_prefix /office\nwebrtc_tunnel {\nbase_path /tunnel\n}\n}", "base_path /office/tunnel"},
		"plain":                           {"webrtc_tunnel /tunnel*", ""},
		"plain, other way to write it":    {"webrtc_tunnel /tunnel/*", ""},
		"handle":                          {"handle /tunnel* {\nwebrtc_tunnel {\nbase_path /tunnel\n}\n}", ""},
		"handle of everything":            {"handle {\nwebrtc_tunnel /tunnel*\n}", ""},
		"another path is cut":             {"handle_path /static/* {\nrespond hello\n}\nhandle {\nwebrtc_tunnel /tunnel*\n}", ""},
	} {
		t.Run(name, func(t *testing.T) {
			adapted, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte("http://127.0.0.1:9 {\n"+test.site+"\n}\n"), nil)
			if err != nil {
				t.Fatal(err)
			}
			log := loadLogged(t, string(adapted))
			warned := strings.Contains(log, "will miss the endpoint")
			if warned != (test.want != "") || !strings.Contains(log, `"write":"`+test.want) && warned {
				t.Errorf("warned %v, want %q; the log:\n%s", warned, test.want, log)
			}
		})
	}
}
