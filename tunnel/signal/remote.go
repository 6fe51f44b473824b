package signal

import (
	"context"
	"net/http"
	"net/url"
	"sync"
	"time"

	"github.com/culvertgate/culvert/tunnel/rtc"
)

// Remote is a session at the gateway, as the client that made it holds it. Its
// methods may be called concurrently; the gateway orders them.
type Remote struct {
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
func (r *Remote) CanTrickle() bool { return r.tag() != "" }

func (r *Remote) tag() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.etag
}

// Trickle sends further candidates (RFC 9725 section 4.3.1).
func (r *Remote) Trickle(ctx context.Context, f rtc.Fragment) error {
	_, err := r.client.do(ctx, call{
		method: http.MethodPatch, url: r.url, media: mediaFragment, body: f.String(),
		match: r.tag(), want: http.StatusNoContent,
	})
	return err
}

// Restart asks for an ICE restart and returns the gateway's fragment. After an
// error the session runs on with the old credentials.
func (r *Remote) Restart(ctx context.Context, f rtc.Fragment) (rtc.Fragment, error) {
	res, err := r.client.do(ctx, call{
		method: http.MethodPatch, url: r.url, media: mediaFragment, body: f.String(),
		match: "*", want: http.StatusOK, limit: MaxFragment,
	})
	if err != nil {
		return rtc.Fragment{}, err
	}
	if checkMedia(res.header, mediaFragment) != nil {
		return rtc.Fragment{}, protocolError("the answer to the ICE restart is no " + mediaFragment)
	}
	answer, err := rtc.ParseFragment(res.body)
	if err != nil {
		return rtc.Fragment{}, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.etag = res.header.Get("ETag")
	return answer, nil
}

// Renew starts the identity's time anew, with the credentials the client has
// now, and returns how long it lasts (0: it does not end).
func (r *Remote) Renew(ctx context.Context) (time.Duration, error) {
	res, err := r.client.do(ctx, call{method: http.MethodPost, url: r.url.JoinPath("renew"), want: http.StatusNoContent})
	if err != nil {
		return 0, err
	}
	return parseExpires(res.header), nil
}

// Delete ends the session at the gateway.
func (r *Remote) Delete(ctx context.Context) error {
	_, err := r.client.do(ctx, call{method: http.MethodDelete, url: r.url})
	return err
}

// Status returns the gateway's view of this tunnel, JSON as sent.
func (r *Remote) Status(ctx context.Context) ([]byte, error) {
	res, err := r.client.do(ctx, call{method: http.MethodGet, url: r.url.JoinPath("status"), want: http.StatusOK, limit: maxTargets})
	return []byte(res.body), err
}
