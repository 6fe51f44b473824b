package signal

import (
	"context"
	"crypto/sha256"
	"net/netip"
	"time"

	"github.com/culvertgate/culvert/tunnel/rtc"
)

// Caller is who sent a request, as far as the server in front knows. All of it
// comes from the server, nothing from headers that a client could have set.
type Caller struct {
	// Identity is the authenticated user. Empty: none, which is answered 401
	// unless Anonymous is set.
	Identity string
	// Ticket that the identity comes from; nil: none.
	Ticket *Ticket
	// Refused is why credentials that were shown do not hold: then nothing else is
	// answered, to an anonymous caller neither. nil: none were shown, or they hold.
	Refused error
	// Groups of the identity.
	Groups []string
	// Anonymous admits a caller without identity (allow_anonymous).
	Anonymous bool
	// Expires is when the identity's own credential ends (a token's exp); zero:
	// it does not say.
	Expires time.Time
	// ClientIP is the client's address, behind trusted proxies that of the client
	// they name.
	ClientIP netip.Addr
	// Secure reports that the request came over TLS, or that a trusted proxy says
	// that it reached the proxy so.
	Secure bool
	// Loopback reports that the connection's other end is on this machine.
	Loopback bool
	// TLSServerName is the server name of the TLS connection that ends here;
	// empty without one.
	TLSServerName string
	// Path is the path of the original request, before any rewriting such as
	// handle_path's; empty: the request's own.
	Path string
}

// Ticket is a link to one target, whose signature and time have been checked.
type Ticket struct {
	ID     string
	Target string // that it is for
	Until  time.Time
	Uses   int               // tunnels that may be made with it, in all
	Key    [sha256.Size]byte // tells the key that it was signed with from others
}

// Offer is a new tunnel asked for.
type Offer struct {
	SDP string // as sent: not empty, at most MaxOffer bytes, not checked further
	// Target is the name in ?target=, syntactically valid; empty: not given.
	Target string
	// Trace is the request's W3C traceparent, syntactically valid; or empty.
	Trace string
}

// Timing is one entry of Server-Timing on the 201.
type Timing struct {
	Name     string // a token, such as "ice"
	Duration time.Duration
}

// Session is a tunnel whose offer has been answered.
type Session struct {
	Secret     string // of NewSecret; goes into the URL and nowhere else
	ETag       string // of NewETag: names the ICE session
	Answer     string // SDP
	ICEServers []rtc.ICEServer
	Expires    time.Time // when the identity's time ends without renew; zero: never
	Timing     []Timing
}

// Match is an If-Match condition (RFC 9110 section 13.1.1).
type Match string

// Backend holds the tunnels of one endpoint. The methods are called after the
// request has passed every check of Endpoint; they may be called concurrently.
// Errors are *tunnel.Error (any other is answered 500 without its text) or wrap
// one in *StatusError. A session that does not exist and one of another
// identity or endpoint are the same: not_found.
type Backend interface {
	// Create answers an offer. Its context ends with the request; the tunnel
	// lives on.
	Create(ctx context.Context, c Caller, o Offer) (Session, error)
	// Trickle adds candidates. When match does not hold for the session's current
	// ETag the error is precondition_failed and nothing has changed.
	Trickle(ctx context.Context, c Caller, secret string, match Match, f rtc.Fragment) error
	// Restart begins an ICE restart and returns the gateway's fragment and the new
	// ETag. While another one runs the error is conflict. After an error the
	// session runs on as before.
	Restart(ctx context.Context, c Caller, secret string, f rtc.Fragment) (rtc.Fragment, string, error)
	// Delete ends a session.
	Delete(ctx context.Context, c Caller, secret string) error
	// Renew starts the identity's time anew and returns when it ends (zero: never).
	Renew(ctx context.Context, c Caller, secret string) (time.Time, error)
	// Exists returns nil when the session is the caller's and alive.
	Exists(ctx context.Context, c Caller, secret string) error
	// Status returns what GET …/status shows, a value for encoding/json.
	Status(ctx context.Context, c Caller, secret string) (any, error)
	// Targets returns what GET P/targets shows to this caller, or why its offers are
	// refused.
	Targets(ctx context.Context, c Caller) (any, error)
	// ICEServers returns the servers, with credentials made for this caller; none
	// for one whose offers are refused.
	ICEServers(ctx context.Context, c Caller) []rtc.ICEServer
}
