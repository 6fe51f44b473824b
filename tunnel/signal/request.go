package signal

import (
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"os"
	"time"

	"github.com/culvertgate/culvert/framecodec"
	"github.com/culvertgate/culvert/tunnel"
)

// Limits on what a request may hold, checked before anything is kept of it.
const (
	MaxOffer    = 64 << 10 // bytes of an offer or answer
	MaxFragment = 16 << 10 // bytes of a trickle fragment

	// defaultBodyTimeout is how long a body may take to come.
	defaultBodyTimeout = 10 * time.Second
)

// Media types of the bodies.
const (
	mediaSDP      = "application/sdp"
	mediaFragment = "application/trickle-ice-sdpfrag" // RFC 8840
)

// readBody returns the body of a request that must have the given media type.
func (e *Endpoint) readBody(w http.ResponseWriter, r *http.Request, media string, limit int64) (string, error) {
	if err := checkMedia(r.Header, media); err != nil {
		w.Header().Set(acceptHeader(r.Method), media)
		return "", err
	}
	// Not every server can set deadlines (a test's recorder cannot); those of
	// the server itself still hold.
	control := http.NewResponseController(w)
	_ = control.SetReadDeadline(time.Now().Add(e.bodyTimeout))
	if r.ContentLength > limit {
		drain(r)
		return "", tooLarge(limit)
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, limit))
	if err == nil {
		// Else the server, which goes on reading, would take it for the client's
		// end. After an error it bounds how long the server drains the body.
		_ = control.SetReadDeadline(time.Time{})
	}
	var over *http.MaxBytesError
	switch {
	case errors.As(err, &over):
		drain(r)
		return "", tooLarge(limit)
	case errors.Is(err, os.ErrDeadlineExceeded):
		return "", WithStatus(http.StatusRequestTimeout, framecodec.CodeTimeout, "the body did not come in time")
	case err != nil:
		return "", WithStatus(http.StatusBadRequest, framecodec.CodeBadOffer, "the body broke off")
	case len(body) == 0:
		return "", WithStatus(http.StatusBadRequest, framecodec.CodeBadOffer, "the body is empty")
	}
	return string(body), nil
}

// maxDrained bounds what is read of a body that is too large, in bytes.
const maxDrained = 2 << 20

// drain takes in a body that is too large, within reason: if the connection were
// closed on a client that still sends, the reset would overtake the answer. (The
// server's own care for that does not work behind wrapped bodies, as Caddy's
// access log makes them.)
func drain(r *http.Request) {
	_, _ = io.CopyN(io.Discard, r.Body, maxDrained) // it may end anyhow
}

func checkMedia(h http.Header, want string) error {
	media, _, err := mime.ParseMediaType(h.Get("Content-Type"))
	if err != nil || media != want {
		return &tunnel.Error{Code: framecodec.CodeUnsupportedMedia, Text: "the Content-Type must be " + want}
	}
	if coding := h.Get("Content-Encoding"); coding != "" && coding != "identity" {
		return &tunnel.Error{Code: framecodec.CodeUnsupportedMedia, Text: "the body must not be compressed"}
	}
	return nil
}

// acceptHeader names the header that tells the media types a method takes
// (W3C LDP section 7.1 for Accept-Post, RFC 5789 for Accept-Patch).
func acceptHeader(method string) string {
	if method == http.MethodPatch {
		return "Accept-Patch"
	}
	return "Accept-Post"
}

func tooLarge(limit int64) error {
	return &tunnel.Error{Code: framecodec.CodeTooLarge, Text: fmt.Sprintf("the body is larger than %d bytes", limit)}
}

// parseTarget reads ?target=: one valid name, or nothing.
func parseTarget(rawQuery string) (string, error) {
	query, err := url.ParseQuery(rawQuery)
	if err != nil {
		return "", WithStatus(http.StatusBadRequest, framecodec.CodeProtocolError, "the query is malformed")
	}
	names, given := query["target"]
	switch {
	case !given:
		return "", nil
	case len(names) > 1:
		return "", WithStatus(http.StatusBadRequest, framecodec.CodeProtocolError, "target is given more than once")
	case !tunnel.ValidTargetName(names[0]):
		return "", &tunnel.Error{Code: framecodec.CodeUnknownTarget, Text: "target must be the name of a target of this gateway"}
	}
	return names[0], nil
}

// parseTrace returns the request's traceparent when it is well formed; anything
// else is as none at all, as the standard says, and an id of zeros is none.
func parseTrace(h http.Header) string {
	values := h.Values("Traceparent")
	if len(values) != 1 || !tunnel.ValidTraceparent(values[0]) {
		return ""
	}
	return values[0]
}
