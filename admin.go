package culvert

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/caddyserver/caddy/v2"

	"github.com/culvertgate/culvert/framecodec"
	"github.com/culvertgate/culvert/tunnel"
	"github.com/culvertgate/culvert/tunnel/policy"
)

// Admin is Culvert's part of Caddy's admin API. It has no state: it looks at the
// process's hubs when it is asked, because after a failed load Caddy's admin
// server belongs to the failed configuration.
type Admin struct{}

// CaddyModule returns the Caddy module information.
func (*Admin) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "admin.api.webrtc_tunnel", New: func() caddy.Module { return new(Admin) }}
}

// adminPrefix begins all our routes.
const adminPrefix = "/webrtc_tunnel"

// maxAdminBody bounds a request's body, in bytes.
const maxAdminBody = 64 << 10

// Routes implements caddy.AdminRouter.
func (a *Admin) Routes() []caddy.AdminRoute {
	route := func(pattern string, methods map[string]caddy.AdminHandlerFunc) caddy.AdminRoute {
		return caddy.AdminRoute{Pattern: adminPrefix + pattern, Handler: byMethod(methods)}
	}
	return []caddy.AdminRoute{
		route("/tunnels", map[string]caddy.AdminHandlerFunc{http.MethodGet: a.list, http.MethodDelete: a.closeSome}),
		route("/tunnels/{id}", map[string]caddy.AdminHandlerFunc{http.MethodGet: a.show, http.MethodDelete: a.closeOne}),
		route("/tunnels/{id}/streams/{n}", map[string]caddy.AdminHandlerFunc{http.MethodDelete: a.closeStream}),
		route("/blocks", map[string]caddy.AdminHandlerFunc{http.MethodGet: a.listBlocks, http.MethodPost: a.addBlock, http.MethodDelete: a.removeBlock}),
		route("/tickets", map[string]caddy.AdminHandlerFunc{http.MethodGet: a.listTickets, http.MethodPost: a.makeTicket}),
		route("/tickets/{id}", map[string]caddy.AdminHandlerFunc{http.MethodDelete: a.revokeTicket}),
		route("/drain", map[string]caddy.AdminHandlerFunc{http.MethodGet: a.showDrain, http.MethodPost: a.startDrain, http.MethodDelete: a.cancelDrain}),
		route("/explain", map[string]caddy.AdminHandlerFunc{http.MethodPost: a.explain}),
		route("/health", map[string]caddy.AdminHandlerFunc{http.MethodGet: a.health}),
	}
}

// byMethod answers 405 for methods that a route does not have. HEAD goes with
// GET: net/http leaves the body out.
func byMethod(methods map[string]caddy.AdminHandlerFunc) caddy.AdminHandlerFunc {
	if get, ok := methods[http.MethodGet]; ok {
		methods[http.MethodHead] = get
	}
	allowed := strings.Join(slices.Sorted(maps.Keys(methods)), ", ")
	return func(w http.ResponseWriter, r *http.Request) error {
		handle, ok := methods[r.Method]
		if !ok {
			w.Header().Set("Allow", allowed) // RFC 9110 section 15.5.6
			return apiError(http.StatusMethodNotAllowed, errors.New("this resource answers "+allowed))
		}
		return handle(w, r)
	}
}

func apiError(status int, err error) error { return caddy.APIError{HTTPStatus: status, Err: err} }

func writeJSON(w http.ResponseWriter, status int, v any) error {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	return json.NewEncoder(w).Encode(v)
}

// readJSON reads a request's body; unknown members are an error.
func readJSON(w http.ResponseWriter, r *http.Request, v any) error {
	decoder := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxAdminBody))
	decoder.DisallowUnknownFields()
	err := decoder.Decode(v)
	if err == nil {
		return nil
	}
	status := http.StatusBadRequest
	if _, tooLarge := errors.AsType[*http.MaxBytesError](err); tooLarge {
		status = http.StatusRequestEntityTooLarge
	}
	return apiError(status, fmt.Errorf("decoding the request: %w", err))
}

// endpointNamed finds the hub that has an endpoint in its newest configuration.
func endpointNamed(name string) (*hub, *endpointState, error) {
	var known []string
	for _, h := range runningHubs() {
		if env := h.current(); env != nil {
			known = slices.AppendSeq(known, maps.Keys(env.endpoints))
		}
		if s := h.endpoint(name); s != nil {
			return h, s, nil
		}
	}
	slices.Sort(known)
	return nil, nil, apiError(http.StatusNotFound, fmt.Errorf("no endpoint %q, there are: %q", name, known))
}

// list answers GET /tunnels[?endpoint=&identity=&remote=].
func (*Admin) list(w http.ResponseWriter, r *http.Request) error {
	infos := []tunnelInfo{}
	match := selector(r)
	for _, h := range runningHubs() {
		for _, t := range h.anyTunnels() {
			if i := t.info(); match(i) {
				infos = append(infos, i)
			}
		}
	}
	return writeJSON(w, http.StatusOK, infos)
}

// selector reads which tunnels a request means. A parameter that is given
// selects, an empty one too: identity= means the anonymous ones.
func selector(r *http.Request) func(tunnelInfo) bool {
	query := r.URL.Query()
	equal := func(key, value string) bool { return !query.Has(key) || query.Get(key) == value }
	return func(i tunnelInfo) bool {
		return equal("endpoint", i.Endpoint) && equal("identity", i.Identity) && equal("remote", i.Remote)
	}
}

// find returns the tunnel of the request's id.
func (*Admin) find(r *http.Request) (anyTunnel, error) {
	id := r.PathValue("id")
	for _, h := range runningHubs() {
		for _, t := range h.anyTunnels() {
			if t.info().ID == id {
				return t, nil
			}
		}
	}
	return nil, apiError(http.StatusNotFound, fmt.Errorf("no tunnel %q", id))
}

// show answers GET /tunnels/{id}.
func (a *Admin) show(w http.ResponseWriter, r *http.Request) error {
	t, err := a.find(r)
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, t.detail())
}

// closeOne answers DELETE /tunnels/{id}.
func (a *Admin) closeOne(w http.ResponseWriter, r *http.Request) error {
	t, err := a.find(r)
	if err != nil {
		return err
	}
	t.close(framecodec.CodeClosedByAdmin, closedByAdmin)
	w.WriteHeader(http.StatusNoContent)
	return nil
}

const closedByAdmin = "closed by an administrator"

// closeSome answers DELETE /tunnels?endpoint=&identity=. Without a selection it
// is refused: to end all tunnels by a forgotten parameter would be too easy.
func (*Admin) closeSome(w http.ResponseWriter, r *http.Request) error {
	query := r.URL.Query()
	if !query.Has("endpoint") && !query.Has("identity") && !query.Has("remote") {
		return apiError(http.StatusBadRequest, errors.New("say which tunnels: endpoint, identity or remote"))
	}
	closed, match := 0, selector(r)
	for _, h := range runningHubs() {
		for _, t := range h.anyTunnels() {
			if i := t.info(); match(i) && i.State != stateClosing {
				t.close(framecodec.CodeClosedByAdmin, closedByAdmin)
				closed++
			}
		}
	}
	return writeJSON(w, http.StatusOK, map[string]int{"closed": closed})
}

// closeStream answers DELETE /tunnels/{id}/streams/{n}.
func (a *Admin) closeStream(w http.ResponseWriter, r *http.Request) error {
	t, err := a.find(r)
	if err != nil {
		return err
	}
	if raw := t.rawChannel(r.PathValue("n")); raw != nil {
		raw.Close(framecodec.CodeClosedByAdmin)
		w.WriteHeader(http.StatusNoContent)
		return nil
	}
	n, err := strconv.ParseUint(r.PathValue("n"), 10, 32)
	if strings.HasPrefix(r.PathValue("n"), "raw-") {
		return apiError(http.StatusNotFound, fmt.Errorf("no raw channel %q in this tunnel", r.PathValue("n")))
	}
	if err != nil {
		return apiError(http.StatusBadRequest, fmt.Errorf("%q is not a stream's number", r.PathValue("n")))
	}
	var stream *tunnel.Stream
	if session := t.currentSession(); session != nil {
		stream = session.Stream(uint32(n))
	}
	if stream == nil {
		return apiError(http.StatusNotFound, fmt.Errorf("no stream %d in this tunnel", n))
	}
	stream.Reset(framecodec.CodeClosedByAdmin, closedByAdmin)
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// explainRequest is the body of POST /explain.
type explainRequest struct {
	Endpoint string   `json:"endpoint"`
	Identity string   `json:"identity"`
	Groups   []string `json:"groups"`
	Target   string   `json:"target"`
	// Expose, instead of Target, is a service that the identity wants to publish.
	Expose string `json:"expose"`
}

// explain answers POST /explain: what an open would be told, and why. Names are
// looked up, nothing is dialled.
func (*Admin) explain(w http.ResponseWriter, r *http.Request) error {
	var q explainRequest
	if err := readJSON(w, r, &q); err != nil {
		return err
	}
	var target tunnel.Target
	switch {
	case (q.Target == "") == (q.Expose == ""):
		return apiError(http.StatusBadRequest, errors.New("give either target, or expose for a service to publish"))
	case q.Target != "":
		var err error
		if target, err = tunnel.ParseTarget(q.Target); err != nil {
			return apiError(http.StatusBadRequest, err)
		}
	}
	h, s, err := endpointNamed(q.Endpoint)
	if err != nil {
		return err
	}
	subject := policy.Subject{Endpoint: s.name, Identity: q.Identity, Groups: q.Groups, Anonymous: q.Identity == ""}
	e := h.explain(r.Context(), s, subject, target, q.Expose)
	return writeJSON(w, http.StatusOK, h.withBreaker(e, s.name, target))
}

// health is the body of GET /health.
type health struct {
	Status  string   `json:"status"` // ok, degraded or unavailable
	Reasons []string `json:"reasons,omitempty"`
}

// health answers GET /health: 503 when no new tunnel can be had.
func (*Admin) health(w http.ResponseWriter, _ *http.Request) error {
	var unavailable, degraded []string
	hubs := runningHubs()
	waiting := func(h *hub) bool { return h.current() == nil }
	if slices.ContainsFunc(hubs, func(h *hub) bool { return !waiting(h) }) {
		hubs = slices.DeleteFunc(hubs, waiting) // a reload that changes listen: what starts takes nothing from what serves
	}
	for _, h := range hubs {
		un, de := h.health()
		unavailable, degraded = append(unavailable, un...), append(degraded, de...)
	}
	state, status := healthOf(unavailable, degraded)
	return writeJSON(w, status, health{state, append(unavailable, degraded...)})
}

var (
	_ caddy.Module      = (*Admin)(nil)
	_ caddy.AdminRouter = (*Admin)(nil)
)
