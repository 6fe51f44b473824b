package signal

import (
	"context"
	"net/http"
	"net/url"
	"sync"
	"time"

	"github.com/culvertgate/culvert/tunnel/rtc"
)

// ClientSession is a session at the gateway, as the client that made it holds it. Its
// methods may be called concurrently; the gateway orders them.
type ClientSession struct {
	Answer     string          // SDP
	ICEServers []rtc.ICEServer // with credentials for this client
	ExpiresIn  time.Duration   // from the answer on, unless renewed; 0: it does not end

	client *Client
	url    *url.URL

	mu   sync.Mutex
	etag string // empty: the gateway offers neither trickle nor restart; guarded by mu
}

// CanTrickle reports whether the gateway takes candidates and ICE restarts: it
// named an ETag.
func (r *ClientSession) CanTrickle() bool { return r.tag() != "" }

func (r *ClientSession) tag() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.etag
}

func (r *ClientSession) setTag(etag string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.etag = etag
}

// Trickle sends further candidates (RFC 9725 section 4.3.1).
func (r *ClientSession) Trickle(ctx context.Context, f rtc.Fragment) error {
	_, err := r.client.do(ctx, call{
		method: http.MethodPatch, url: r.url, media: mediaFragment, body: f.String(),
		match: r.tag(), want: http.StatusNoContent,
	})
	return err
}

// Restart asks for an ICE restart and returns the gateway's fragment. After an
// error the session runs on with the old credentials.
func (r *ClientSession) Restart(ctx context.Context, f rtc.Fragment) (rtc.Fragment, error) {
	res, err := r.client.do(ctx, call{
		method: http.MethodPatch, url: r.url, media: mediaFragment, body: f.String(),
		match: "*", want: http.StatusOK, limit: MaxFragment, final: true, // its credentials are new only once
	})
	if err != nil {
		return rtc.Fragment{}, err
	}
	r.setTag(res.header.Get("ETag")) // even if the rest is of no use: the gateway has restarted
	if checkMedia(res.header, mediaFragment) != nil {
		return rtc.Fragment{}, protocolError("the answer to the ICE restart is no " + mediaFragment)
	}
	return rtc.ParseFragment(res.body)
}

// Renew starts the identity's time anew, with the credentials the client has
// now, and returns how long it lasts (0: it does not end).
func (r *ClientSession) Renew(ctx context.Context) (time.Duration, error) {
	res, err := r.client.do(ctx, call{method: http.MethodPost, url: r.url.JoinPath("renew"), want: http.StatusNoContent})
	if err != nil {
		return 0, err
	}
	return parseExpires(res.header), nil
}

// Delete ends the session at the gateway.
func (r *ClientSession) Delete(ctx context.Context) error {
	_, err := r.client.do(ctx, call{method: http.MethodDelete, url: r.url, final: true})
	return err
}

// Status returns the gateway's view of this tunnel, JSON as sent.
func (r *ClientSession) Status(ctx context.Context) ([]byte, error) {
	res, err := r.client.do(ctx, call{method: http.MethodGet, url: r.url.JoinPath("status"), want: http.StatusOK, limit: maxTargets})
	return []byte(res.body), err
}
