package culvert

import (
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/certmagic"
	"go.uber.org/zap"

	"github.com/culvertgate/culvert/tunnel/policy"
)

// adminCall asks the admin module as Caddy's admin server does.
func adminCall(t *testing.T, method, url, body string) (int, string) {
	t.Helper()
	mux := http.NewServeMux()
	for _, route := range new(Admin).Routes() {
		mux.HandleFunc(route.Pattern, func(w http.ResponseWriter, r *http.Request) {
			if err := route.Handler.ServeHTTP(w, r); err != nil {
				var api caddy.APIError
				if !errors.As(err, &api) {
					t.Errorf("%s %s: %v is no caddy.APIError", method, url, err)
				}
				http.Error(w, api.Err.Error(), api.HTTPStatus)
			}
		})
	}
	w := httptest.NewRecorder()
	mux.ServeHTTP(w, httptest.NewRequest(method, url, strings.NewReader(body)))
	return w.Code, w.Body.String()
}

// withHub puts a hub with one attached configuration into the pool.
func withHub(t *testing.T, endpoints map[string]*endpointState) *hub {
	t.Helper()
	return hubAt(t, listenAddress{"udp", "127.0.0.1:0"}, endpoints, nil)
}

func hubAt(t *testing.T, listen listenAddress, endpoints map[string]*endpointState, storage certmagic.Storage) *hub {
	t.Helper()
	h, err := acquireHub(listen)
	if err != nil {
		t.Fatal(err)
	}
	env := &environment{logger: zap.NewNop(), storage: storage, endpoints: endpoints, attached: make(chan struct{}), released: make(chan struct{})}
	env.limits.applyDefaults()
	if err := h.attach(env); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		h.detach(env)
		if _, err := hubPool.Delete(h.listen); err != nil {
			t.Error(err)
		}
	})
	return h
}

func TestAdminWithoutHub(t *testing.T) {
	if status, body := adminCall(t, http.MethodGet, "/webrtc_tunnel/tunnels", ""); status != 200 || strings.TrimSpace(body) != "[]" {
		t.Errorf("tunnels: %d %s, want 200 []", status, body)
	}
	if status, body := adminCall(t, http.MethodGet, "/webrtc_tunnel/health", ""); status != 200 || !strings.Contains(body, `"ok"`) {
		t.Errorf("health: %d %s, want 200 ok", status, body)
	}
}

func TestAdminErrors(t *testing.T) {
	withHub(t, nil)
	for name, test := range map[string]struct {
		method, url, body string
		status            int
	}{
		"unknown tunnel":           {"GET", "/webrtc_tunnel/tunnels/nosuch", "", 404},
		"end of an unknown tunnel": {"DELETE", "/webrtc_tunnel/tunnels/nosuch", "", 404},
		"stream of none":           {"DELETE", "/webrtc_tunnel/tunnels/nosuch/streams/1", "", 404},
		"end of all":               {"DELETE", "/webrtc_tunnel/tunnels", "", 400},
		"end of some":              {"DELETE", "/webrtc_tunnel/tunnels?identity=alice", "", 200},
		"wrong method":             {"PUT", "/webrtc_tunnel/tunnels", "", 405},
		"head":                     {"HEAD", "/webrtc_tunnel/tunnels", "", 200},
		"get explain":              {"GET", "/webrtc_tunnel/explain", "", 405},
		"explain nothing":          {"POST", "/webrtc_tunnel/explain", "", 400},
		"explain unknown key":      {"POST", "/webrtc_tunnel/explain", `{"targt":"ssh"}`, 400},
		"explain bad target":       {"POST", "/webrtc_tunnel/explain", `{"endpoint":"gw","target":"tcp/nowhere"}`, 400},
		"explain unknown endpoint": {"POST", "/webrtc_tunnel/explain", `{"endpoint":"gw","target":"ssh"}`, 404},
		"explain too large":        {"POST", "/webrtc_tunnel/explain", `{"endpoint":"` + strings.Repeat("x", maxAdminBody) + `"}`, 413},
	} {
		t.Run(name, func(t *testing.T) {
			if status, body := adminCall(t, test.method, test.url, test.body); status != test.status {
				t.Errorf("%d %s, want %d", status, body, test.status)
			}
		})
	}
}

// TestAdminSaysWhatIsThere: a refusal tells what would have been answered.
func TestAdminSaysWhatIsThere(t *testing.T) {
	withHub(t, map[string]*endpointState{"gw.example/tunnel": {name: "gw.example/tunnel", policy: denyAll}, "b": {name: "b", policy: denyAll}})
	w := httptest.NewRecorder()
	for _, route := range new(Admin).Routes() {
		if route.Pattern == "/webrtc_tunnel/tunnels" {
			_ = route.Handler.ServeHTTP(w, httptest.NewRequest(http.MethodPost, route.Pattern, nil))
		}
	}
	if got := w.Header().Get("Allow"); got != "DELETE, GET, HEAD" {
		t.Errorf("Allow is %q", got)
	}
	_, body := adminCall(t, http.MethodPost, "/webrtc_tunnel/explain", `{"endpoint":"gw","target":"ssh"}`)
	if !strings.Contains(body, `["b" "gw.example/tunnel"]`) {
		t.Errorf("%s does not name the endpoints", body)
	}
}

func TestAdminExplain(t *testing.T) {
	p, err := policy.New(policy.Config{
		Endpoint: "gw",
		Targets:  []policy.NamedTarget{{Name: "ssh", Addresses: []string{"tcp/10.0.0.5:22"}, Users: []string{"alice"}, Position: "Caddyfile:7"}},
		Dynamic:  &policy.Dynamic{Rules: []policy.Rule{{Text: "tcp/10.0.0.0/8:22"}, {Text: "10.0.0.13", Deny: true, Position: "Caddyfile:9"}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	withHub(t, map[string]*endpointState{"gw": {name: "gw", policy: p}})
	for name, test := range map[string]struct {
		identity, target string
		allowed          bool
		code, rule       string
	}{
		"named":                {"alice", "ssh", true, "normal", `"list":"targets","index":0`},
		"named for another":    {"bob", "ssh", false, "not_allowed", `"Caddyfile:7"`},
		"allowed address":      {"bob", "tcp/10.1.2.3:22", true, "normal", `"list":"dynamic.rules","index":0`},
		"denied address":       {"bob", "tcp/10.0.0.13:22", false, "not_allowed", `"list":"dynamic.rules","index":1,"text":"deny 10.0.0.13","position":"Caddyfile:9"`},
		"address of no rule":   {"bob", "tcp/192.0.2.1:22", false, "not_allowed", ``},
		"short form of IPv4":   {"bob", "tcp/10.1:22", false, "not_allowed", ``},
		"metadata, link-local": {"bob", "tcp/169.254.169.254:80", false, "not_allowed", ``},
	} {
		t.Run(name, func(t *testing.T) {
			request, _ := json.Marshal(explainRequest{Endpoint: "gw", Identity: test.identity, Target: test.target})
			status, body := adminCall(t, http.MethodPost, "/webrtc_tunnel/explain", string(request))
			var got struct {
				Allowed   bool
				Code      string
				Addresses []json.RawMessage
			}
			if err := json.Unmarshal([]byte(body), &got); err != nil || status != 200 {
				t.Fatalf("%d %s: %v", status, body, err)
			}
			if got.Allowed != test.allowed || got.Code != test.code || !strings.Contains(body, test.rule) {
				t.Errorf("%s\nwant allowed %v, code %s, rule %s", body, test.allowed, test.code, test.rule)
			}
			if got.Addresses == nil {
				t.Error("addresses is null, want a list")
			}
		})
	}
}

func TestAdminHealthWithoutSocket(t *testing.T) {
	withHub(t, map[string]*endpointState{"gw": {name: "gw", policy: denyAll}})
	if status, body := adminCall(t, http.MethodGet, "/webrtc_tunnel/health", ""); status != 503 || !strings.Contains(body, "socket") {
		t.Errorf("%d %s, want 503 and the socket as the reason", status, body)
	}
}

// TestAdminBeforeStart: a configuration whose apps are still starting has nothing to
// show, and a drain is not for it.
func TestAdminBeforeStart(t *testing.T) {
	h, err := acquireHub(listenAddress{"udp", "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if _, err := hubPool.Delete(h.listen); err != nil {
			t.Error(err)
		}
	}()
	for _, test := range []struct {
		method, url string
		status      int
	}{
		{"GET", "/webrtc_tunnel/tickets", 200},
		{"DELETE", "/webrtc_tunnel/tickets/abc", 404},
		{"GET", "/webrtc_tunnel/blocks", 200},
		{"DELETE", "/webrtc_tunnel/blocks?endpoint=gw&identity=bob", 404},
		{"POST", "/webrtc_tunnel/drain", 202},
		{"GET", "/webrtc_tunnel/health", 503},
	} {
		t.Run(test.method+" "+test.url, func(t *testing.T) {
			defer func() {
				if v := recover(); v != nil {
					t.Errorf("panic: %v", v)
				}
			}()
			if status, body := adminCall(t, test.method, test.url, ""); status != test.status {
				t.Errorf("%d %s, want %d", status, body, test.status)
			}
		})
	}
	if h.draining.Load() {
		t.Error("the configuration that is starting is drained")
	}
}

// TestAdminHealthDuringReload: a configuration that is still starting, with another
// listen, takes nothing from the one that serves.
func TestAdminHealthDuringReload(t *testing.T) {
	withHub(t, nil)
	starting, err := acquireHub(listenAddress{"udp", "127.0.0.2:0"})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if _, err := hubPool.Delete(starting.listen); err != nil {
			t.Error(err)
		}
	}()
	if status, body := adminCall(t, http.MethodGet, "/webrtc_tunnel/health", ""); status != 200 {
		t.Errorf("%d %s, want 200", status, body)
	}
}
