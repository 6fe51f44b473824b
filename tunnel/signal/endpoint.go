package signal

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/culvertgate/culvert/framecodec"
	"github.com/culvertgate/culvert/tunnel"
	"github.com/culvertgate/culvert/tunnel/rtc"
)

// EndpointConfig is what an Endpoint is made of.
type EndpointConfig struct {
	// BasePath is P, such as /tunnel; "" or "/" for the whole site.
	BasePath string
	// Origins are the browser origins admitted besides the request's own, such as
	// https://app.example.com.
	Origins []string
	// AllowHTTP admits plain HTTP from other machines.
	AllowHTTP bool
	// Backend holds the tunnels. Required.
	Backend Backend
}

// Endpoint is the gateway's side of signalling below one base path. It is
// immutable and safe for concurrent use.
type Endpoint struct {
	base        string
	origins     map[origin]bool
	allowHTTP   bool
	backend     Backend
	bodyTimeout time.Duration
}

// NewEndpoint checks a configuration. An error names the option at fault.
func NewEndpoint(cfg EndpointConfig) (*Endpoint, error) {
	if cfg.Backend == nil {
		return nil, errors.New("signal: an endpoint needs a backend")
	}
	base := cleanBase(cfg.BasePath)
	if base != "" && base[0] != '/' {
		return nil, errors.New("base_path must start with a slash, such as /tunnel")
	}
	e := &Endpoint{
		base: base, origins: make(map[origin]bool), allowHTTP: cfg.AllowHTTP, backend: cfg.Backend,
		bodyTimeout: defaultBodyTimeout,
	}
	for _, s := range cfg.Origins {
		o, err := parseOrigin(s)
		if err != nil {
			return nil, err
		}
		e.origins[o] = true
	}
	return e, nil
}

// Result is how a request was answered, for metrics and access lines.
type Result struct {
	// Handled is false when the path is neither the base path nor below it:
	// nothing was written, the request is the next handler's.
	Handled bool
	Kind    Kind
	Status  int
	Code    framecodec.Code // of the problem document; CodeNormal otherwise
	Err     error           // cause of the problem, for the log; it may name addresses
	Secret  string          // of the session asked for or made: to find its public id; never log it
}

// ServeHTTP answers one request. Errors are answered, not returned.
func (e *Endpoint) ServeHTTP(w http.ResponseWriter, r *http.Request, c Caller) Result {
	rt, ok := parseRoute(e.base, r.Method, cmp.Or(c.Path, r.URL.Path))
	if !ok {
		return Result{}
	}
	res := Result{Handled: true, Kind: rt.kind, Secret: rt.secret}
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Content-Type-Options", "nosniff") // SDP and JSON with words of others are never a page
	err := e.serve(w, r, c, rt, &res)
	if err != nil {
		p := WriteProblem(w, err)
		res.Status, res.Code, res.Err = p.Status, p.Code, err
	}
	return res
}

// serve checks a request in the order of the package comment and answers it,
// or returns why not; then nothing but headers has been written.
func (e *Endpoint) serve(w http.ResponseWriter, r *http.Request, c Caller, rt route, res *Result) error {
	allowed, err := e.checkOrigin(r, c)
	if err != nil {
		return err
	}
	setCORS(w.Header(), allowed)
	if rt.resource == resourceNone {
		return &tunnel.Error{Code: framecodec.CodeNotFound, Text: "there is nothing at this path"}
	}
	if rt.kind == KindUnknown {
		w.Header().Set("Allow", rt.resource.allow())
		return &tunnel.Error{Code: framecodec.CodeMethodNotAllowed, Text: "this resource answers " + rt.resource.allow()}
	}
	if rt.kind == KindOptions {
		if isPreflight(r) {
			res.Kind = KindPreflight
			setPreflight(w.Header(), r, allowed)
		}
		return e.options(w, r, c, rt, res)
	}
	if err := e.checkTransport(r.Method, c); err != nil {
		return err
	}
	if c.Refused != nil {
		return c.Refused
	}
	if !c.known() {
		return &tunnel.Error{Code: framecodec.CodeUnauthenticated, Text: "the gateway knows no identity for this request"}
	}
	return e.dispatch(w, r, c, rt, res)
}

func (e *Endpoint) dispatch(w http.ResponseWriter, r *http.Request, c Caller, rt route, res *Result) error {
	ctx := r.Context()
	switch rt.kind {
	case KindOffer:
		return e.offer(w, r, c, res)
	case KindPatch:
		return e.patch(w, r, c, rt.secret, res)
	case KindRedirect:
		return redirect(w, e.base, r.URL.RawQuery, res)
	case KindIndex:
		return empty(w, http.StatusNoContent, res)
	case KindTargets:
		v, err := e.backend.Targets(ctx, c)
		return writeJSON(w, v, err, res)
	case KindStatus:
		v, err := e.backend.Status(ctx, c, rt.secret)
		return writeJSON(w, v, err, res)
	case KindExists:
		if err := e.backend.Exists(ctx, c, rt.secret); err != nil {
			return err
		}
		return empty(w, http.StatusNoContent, res)
	case KindDelete:
		if err := e.backend.Delete(ctx, c, rt.secret); err != nil {
			return err
		}
		return empty(w, http.StatusOK, res)
	case KindRenew:
		return e.renew(ctx, w, c, rt.secret, res)
	default: // serve has answered the other kinds
		return &tunnel.Error{Code: framecodec.CodeNotFound, Text: "there is nothing at this path"}
	}
}

// known reports whether the caller has an identity, or needs none.
func (c Caller) known() bool { return c.Identity != "" || c.Anonymous }

// checkTransport refuses to change anything on behalf of a request that anybody
// on the way could have read or written.
func (e *Endpoint) checkTransport(method string, c Caller) error {
	if method == http.MethodGet || method == http.MethodHead || e.secure(c) {
		return nil
	}
	return &tunnel.Error{Code: framecodec.CodeNotAllowed, Text: "plain HTTP is refused here: use https (behind a proxy: list it in trusted_proxies)"}
}

// secure reports whether what is sent to the caller stays between us.
func (e *Endpoint) secure(c Caller) bool { return c.Secure || c.Loopback || e.allowHTTP }

// options answers OPTIONS. ICE servers hold credentials, so they go to callers
// who may open tunnels, never to a preflight.
func (e *Endpoint) options(w http.ResponseWriter, r *http.Request, c Caller, rt route, res *Result) error {
	h := w.Header()
	h.Set("Allow", rt.resource.allow())
	if rt.resource == resourceSession {
		h.Set("Accept-Patch", mediaFragment)
	}
	if rt.resource == resourceEndpoint {
		h.Set("Accept-Post", mediaSDP)
		if res.Kind != KindPreflight && c.Refused == nil && c.known() && e.secure(c) {
			addICEServers(h, e.backend.ICEServers(r.Context(), c))
		}
	}
	return empty(w, http.StatusNoContent, res)
}

// offer answers POST P.
func (e *Endpoint) offer(w http.ResponseWriter, r *http.Request, c Caller, res *Result) error {
	target, err := parseTarget(r.URL.RawQuery)
	if err != nil {
		return err
	}
	sdp, err := e.readBody(w, r, mediaSDP, MaxOffer)
	if err != nil {
		return err
	}
	s, err := e.backend.Create(r.Context(), c, Offer{SDP: sdp, Target: target, Trace: parseTrace(r.Header)})
	if err != nil {
		return err
	}
	res.Secret = s.Secret
	location := (&url.URL{Path: e.base + "/s/" + s.Secret}).EscapedPath()
	h := w.Header()
	h.Set("Location", location)
	h.Set("ETag", s.ETag)
	addICEServers(h, s.ICEServers)
	h.Add("Link", "<"+location+"/status>; rel=\""+RelStatus+"\"")
	setExpires(h, s.Expires)
	if timing := formatTiming(s.Timing); timing != "" {
		h.Set("Server-Timing", timing)
	}
	return body(w, http.StatusCreated, mediaSDP, s.Answer, res)
}

// RelStatus is the link relation of a session's status resource.
const RelStatus = "https://github.com/culvertgate/culvert/rel/status"

func (e *Endpoint) renew(ctx context.Context, w http.ResponseWriter, c Caller, secret string, res *Result) error {
	expires, err := e.backend.Renew(ctx, c, secret)
	if err != nil {
		return err
	}
	setExpires(w.Header(), expires)
	return empty(w, http.StatusNoContent, res)
}

// patch answers PATCH of a session: If-Match tells trickle (the session's ETag)
// from restart ("*"), RFC 9725 section 4.3.
func (e *Endpoint) patch(w http.ResponseWriter, r *http.Request, c Caller, secret string, res *Result) error {
	// Whose session it is comes first: a foreign one must look like none.
	if err := e.backend.Exists(r.Context(), c, secret); err != nil {
		return err
	}
	text, err := e.readBody(w, r, mediaFragment, MaxFragment)
	if err != nil {
		return err
	}
	match := Match(strings.Join(r.Header.Values("If-Match"), ","))
	if match == "" {
		return WithStatus(http.StatusPreconditionRequired, framecodec.CodePreconditionFailed,
			"If-Match is required: the session's ETag for candidates, * for an ICE restart")
	}
	fragment, err := rtc.ParseFragment(text)
	if err != nil {
		return asBadOffer(err)
	}
	if !match.Any() {
		if err := e.backend.Trickle(r.Context(), c, secret, match, fragment); err != nil {
			return err
		}
		return empty(w, http.StatusNoContent, res)
	}
	return e.restart(w, r, c, secret, fragment, res)
}

func (e *Endpoint) restart(w http.ResponseWriter, r *http.Request, c Caller, secret string, f rtc.Fragment, res *Result) error {
	if f.Ufrag == "" || f.Pwd == "" {
		return WithStatus(http.StatusBadRequest, framecodec.CodeBadOffer, "an ICE restart needs a new ice-ufrag and ice-pwd")
	}
	answer, etag, err := e.backend.Restart(r.Context(), c, secret, f)
	if err != nil {
		return err
	}
	w.Header().Set("ETag", etag)
	return body(w, http.StatusOK, mediaFragment, answer.String(), res)
}

// asBadOffer makes a syntax error a bad_offer, unless it has a code already. The
// error's own text is not told: it may repeat the fragment's password.
func asBadOffer(err error) error {
	if _, ok := errors.AsType[*tunnel.Error](err); ok {
		return err
	}
	return &tunnel.Error{Code: framecodec.CodeBadOffer, Text: "the fragment is malformed", Err: err}
}

// redirect sends GET P to P/ with its query, so that relative links of a page
// there are right.
func redirect(w http.ResponseWriter, base, rawQuery string, res *Result) error {
	to := url.URL{Path: base + "/", RawQuery: rawQuery}
	w.Header().Set("Location", to.String())
	return empty(w, http.StatusPermanentRedirect, res)
}

func empty(w http.ResponseWriter, status int, res *Result) error {
	if status == http.StatusOK {
		w.Header().Set("Content-Length", "0")
	}
	res.Status = status
	w.WriteHeader(status)
	return nil
}

func body(w http.ResponseWriter, status int, media, text string, res *Result) error {
	w.Header().Set("Content-Type", media)
	w.Header().Set("Content-Length", strconv.Itoa(len(text)))
	res.Status = status
	w.WriteHeader(status)
	_, _ = w.Write([]byte(text)) // the client is gone: the tunnel's connect timeout frees it
	return nil
}

func writeJSON(w http.ResponseWriter, v any, err error, res *Result) error {
	if err != nil {
		return err
	}
	text, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return body(w, http.StatusOK, "application/json", string(text)+"\n", res)
}

func setExpires(h http.Header, at time.Time) {
	if !at.IsZero() {
		h.Set(ExpiresHeader, strconv.Itoa(max(0, int(time.Until(at).Seconds()))))
	}
}

// formatTiming writes Server-Timing (W3C): durations in milliseconds.
func formatTiming(entries []Timing) string {
	parts := make([]string, 0, len(entries))
	for _, t := range entries {
		ms := float64(t.Duration) / float64(time.Millisecond)
		parts = append(parts, t.Name+";dur="+strconv.FormatFloat(ms, 'f', 1, 64))
	}
	return strings.Join(parts, ", ")
}
