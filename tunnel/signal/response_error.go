package signal

import (
	"encoding/json"
	"errors"
	"io"
	"mime"
	"net/http"
	"strconv"
	"time"

	"github.com/culvertgate/culvert/framecodec"
	"github.com/culvertgate/culvert/tunnel"
)

// maxRetryAfter bounds what a gateway may ask a client to wait.
const maxRetryAfter = time.Hour

// ResponseError is a gateway's refusal: what its problem document says, or what
// the status means when there is none.
type ResponseError struct {
	Status     int
	RetryAfter time.Duration // 0: not told
	Problem    bool          // the answer was a problem document of a gateway
	Err        *tunnel.Error
}

// Error returns status, code and detail.
func (e *ResponseError) Error() string {
	return "the gateway answered " + strconv.Itoa(e.Status) + " (" + e.Err.Error() + ")"
}

// Unwrap returns the *tunnel.Error inside.
func (e *ResponseError) Unwrap() error { return e.Err }

// Retryable reports whether the same request may succeed later.
func (e *ResponseError) Retryable() bool {
	return e.Err.Code.Retryable() || e.Status >= http.StatusInternalServerError
}

// responseError reads an error's answer, a bounded part of it.
func responseError(res *http.Response) error {
	e := &ResponseError{Status: res.StatusCode, RetryAfter: parseRetryAfter(res.Header, time.Now())}
	if p, ok := readProblem(res); ok {
		e.Problem = true
		e.Err = &tunnel.Error{Code: p.Code, Text: framecodec.SafeText([]byte(p.Detail))}
		return e
	}
	code, text := codeOfStatus(res.StatusCode)
	e.Err = &tunnel.Error{Code: code, Text: text}
	return e
}

// readProblem returns a problem document of ours; one without a code we know is
// somebody else's.
func readProblem(res *http.Response) (Problem, bool) {
	media, _, err := mime.ParseMediaType(res.Header.Get("Content-Type"))
	if err != nil || media != problemMedia {
		return Problem{}, false
	}
	text, err := io.ReadAll(io.LimitReader(res.Body, maxProblem))
	if err != nil {
		return Problem{}, false
	}
	var p Problem
	if err := json.Unmarshal(text, &p); err != nil || p.Code == framecodec.CodeNormal {
		return Problem{}, false
	}
	return p, true
}

// codeOfStatus names a status that came without a problem document: from the
// authentication in front, from another server, from a proxy.
func codeOfStatus(status int) (framecodec.Code, string) {
	switch status {
	case http.StatusUnauthorized, http.StatusProxyAuthRequired:
		return framecodec.CodeUnauthenticated, "credentials are missing or wrong"
	case http.StatusForbidden:
		return framecodec.CodeNotAllowed, "the server in front of the gateway refuses this user"
	case http.StatusNotFound, http.StatusGone:
		return framecodec.CodeNotFound, "no gateway answers here: is the path right?"
	case http.StatusMethodNotAllowed:
		return framecodec.CodeMethodNotAllowed, "no gateway answers here: is the path right?"
	case http.StatusRequestEntityTooLarge:
		return framecodec.CodeTooLarge, "the server in front of the gateway limits bodies"
	case http.StatusUnsupportedMediaType:
		return framecodec.CodeUnsupportedMedia, "the server does not take offers"
	case http.StatusConflict:
		return framecodec.CodeConflict, ""
	case http.StatusPreconditionFailed, http.StatusPreconditionRequired:
		return framecodec.CodePreconditionFailed, ""
	case http.StatusTooManyRequests, http.StatusServiceUnavailable:
		return framecodec.CodeOverloaded, "the server asks to come again later"
	case http.StatusRequestTimeout, http.StatusGatewayTimeout:
		return framecodec.CodeTimeout, "the server in front of the gateway got no answer"
	case http.StatusBadGateway:
		return framecodec.CodeUnreachable, "the server in front does not reach the gateway"
	}
	if status >= http.StatusInternalServerError {
		return framecodec.CodeInternal, http.StatusText(status)
	}
	return framecodec.CodeProtocolError, http.StatusText(status)
}

// parseRetryAfter reads seconds or a date (RFC 9110 section 10.2.3).
func parseRetryAfter(h http.Header, now time.Time) time.Duration {
	text := h.Get("Retry-After")
	if text == "" {
		return 0
	}
	if seconds, err := strconv.ParseUint(text, 10, 64); err == nil || errors.Is(err, strconv.ErrRange) {
		return time.Duration(min(seconds, uint64(maxRetryAfter/time.Second))) * time.Second
	}
	at, err := http.ParseTime(text)
	if err != nil {
		return 0
	}
	return min(max(at.Sub(now), 0), maxRetryAfter)
}
