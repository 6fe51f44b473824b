package signal

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/culvertgate/culvert/framecodec"
	"github.com/culvertgate/culvert/tunnel"
	"github.com/culvertgate/culvert/tunnel/rtc"
)

// maxTargets bounds the target list that a client reads, in bytes.
const maxTargets = 1 << 20

// ClientConfig is what a Client is made of.
type ClientConfig struct {
	// URL is where the gateway's endpoint is: https://gw.example.com/tunnel. Plain
	// http is refused except to this machine. Its query (?target=ssh) goes with
	// offers.
	URL string
	// HTTP carries the requests; nil: http.DefaultClient. Its CheckRedirect is not
	// used: redirects follow the rules below.
	HTTP *http.Client
	// Header returns what goes with each request, such as Authorization; it is
	// asked again for every one. Nil: nothing.
	Header func(context.Context) (http.Header, error)
}

// Client is the side that asks for tunnels. Credentials go to the configured
// origin only: a Location or redirect that leads elsewhere is an error. What
// meets a server that is just going away is sent a second time (DELETE and ICE
// restarts are not). It is safe for concurrent use.
type Client struct {
	url    *url.URL
	origin origin
	http   *http.Client
	header func(context.Context) (http.Header, error)
}

// NewClient checks a configuration; an error says what is wrong with the URL.
func NewClient(cfg ClientConfig) (*Client, error) {
	u, err := ParseURL(cfg.URL)
	if err != nil {
		return nil, err
	}
	base := cfg.HTTP
	if base == nil {
		base = http.DefaultClient
	}
	own := *base
	own.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &Client{url: u, origin: originOf(u.Scheme, u.Host), http: &own, header: cfg.Header}, nil
}

// ParseURL checks an endpoint's URL as users write it. A slash at its end means
// the same as none.
func ParseURL(s string) (*url.URL, error) {
	u, err := url.Parse(s)
	switch {
	case err != nil:
		return nil, fmt.Errorf("the gateway's URL cannot be read: want https://host/path") // err would repeat what may hold a password
	case u.User != nil:
		return nil, errors.New("the gateway's URL must not hold a user or password: give them by a header or a credentials option")
	case u.Hostname() == "" || u.Opaque != "" || (u.Scheme != "https" && u.Scheme != "http"):
		return nil, fmt.Errorf("gateway URL %q: want https://host/path", s)
	case u.Scheme == "http" && !isLoopbackName(u.Hostname()):
		return nil, fmt.Errorf("gateway URL %q: plain http would show your credentials to everyone on the way; use https", s)
	case u.Fragment != "":
		return nil, fmt.Errorf("gateway URL %q: a fragment (#…) has no meaning here", s)
	}
	u.Path = strings.TrimRight(u.Path, "/")
	u.RawPath = strings.TrimRight(u.RawPath, "/")
	if u.Path == "" {
		u.Path = "/"
	}
	return u, nil
}

// URL returns the endpoint's URL without its query, for messages.
func (c *Client) URL() string {
	u := *c.url
	u.RawQuery = ""
	return u.String()
}

// ICEServers asks for the ICE servers before an offer is made, because relayed
// candidates are gathered before it (RFC 9725 section 4.6 allows OPTIONS for
// callers who are authorised). A gateway that does not answer OPTIONS has none.
func (c *Client) ICEServers(ctx context.Context) ([]rtc.ICEServer, error) {
	res, err := c.do(ctx, call{method: http.MethodOptions, url: c.url})
	if status, ok := errors.AsType[*ResponseError](err); ok {
		switch status.Status {
		case http.StatusNotFound, http.StatusMethodNotAllowed, http.StatusNotImplemented:
			return nil, nil
		}
	}
	if err != nil {
		return nil, err
	}
	return ParseICEServers(res.header), nil
}

// Offer sends an offer and returns the session that answers it. An empty target
// leaves the choice to the URL's own query and the gateway.
func (c *Client) Offer(ctx context.Context, sdp, target string) (*ClientSession, error) {
	to := *c.url
	if target != "" {
		query := to.Query()
		query.Set("target", target)
		to.RawQuery = query.Encode()
	}
	res, err := c.do(ctx, call{method: http.MethodPost, url: &to, media: mediaSDP, body: sdp, want: http.StatusCreated, limit: MaxOffer})
	if err != nil {
		return nil, err
	}
	if err := checkMedia(res.header, mediaSDP); err != nil {
		return nil, protocolError("the answer to the offer is no " + mediaSDP)
	}
	location, err := c.location(res)
	if err != nil {
		return nil, err
	}
	return &ClientSession{
		Answer:     res.body,
		ICEServers: ParseICEServers(res.header),
		ExpiresIn:  parseExpires(res.header),
		client:     c,
		url:        location,
		etag:       res.header.Get("ETag"),
	}, nil
}

// location returns the session's URL. It must be of the configured origin:
// credentials are sent there.
func (c *Client) location(res response) (*url.URL, error) {
	text := res.header.Get("Location")
	if text == "" {
		return nil, protocolError("the answer to the offer names no session (Location)")
	}
	u, err := res.url.Parse(text)
	if err != nil || u.User != nil {
		return nil, protocolError("the session's URL (Location) is malformed")
	}
	if originOf(u.Scheme, u.Host) != c.origin {
		return nil, protocolError("the session's URL (Location) is of another origin than the gateway's: credentials are not sent there")
	}
	u.Fragment = ""
	return u, nil
}

// Targets returns the target list of the gateway, JSON as sent: an object with a
// list of targets. Anything else is an error, since many servers answer 200 to
// whatever they are asked.
func (c *Client) Targets(ctx context.Context) ([]byte, error) {
	u := c.url.JoinPath("targets")
	u.RawQuery = ""
	res, err := c.do(ctx, call{method: http.MethodGet, url: u, want: http.StatusOK, limit: maxTargets})
	if err != nil {
		return nil, err
	}
	var answer struct {
		Targets []json.RawMessage `json:"targets"`
	}
	if json.Unmarshal([]byte(res.body), &answer) != nil || answer.Targets == nil {
		return nil, protocolError("the answer is no list of targets: is this the URL of a gateway?")
	}
	return []byte(res.body), nil
}

func parseExpires(h http.Header) time.Duration {
	seconds, err := strconv.ParseUint(h.Get(ExpiresHeader), 10, 31)
	if err != nil {
		return 0
	}
	return max(time.Duration(seconds)*time.Second, time.Second)
}

func protocolError(text string) error {
	return &tunnel.Error{Code: framecodec.CodeProtocolError, Text: text}
}
