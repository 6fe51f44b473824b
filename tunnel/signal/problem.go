package signal

import (
	"encoding/json"
	"errors"
	"math"
	"net/http"
	"strconv"
	"time"

	"github.com/culvertgate/culvert/framecodec"
	"github.com/culvertgate/culvert/tunnel"
	"github.com/culvertgate/culvert/tunnel/rtc"
)

// ProblemType is what a problem document's type starts with; the code follows.
// The page tells cause and cure of each code.
const ProblemType = "https://github.com/culvertgate/culvert/blob/main/docs/troubleshooting.md#"

// problemMedia is the media type of RFC 9457.
const problemMedia = "application/problem+json"

// defaultRetryAfter is told with 429 and 503 when the error names no time.
const defaultRetryAfter = 5 * time.Second

// Problem is an error as HTTP tells it (RFC 9457), with the members of ours:
// Code, Retryable and Fault. Instance is left out: it would repeat the
// session's URL.
type Problem struct {
	Type      string          `json:"type"`
	Title     string          `json:"title"`
	Status    int             `json:"status"`
	Detail    string          `json:"detail,omitempty"`
	Code      framecodec.Code `json:"code"`
	Retryable bool            `json:"retryable"`
	Fault     string          `json:"fault"`
}

// StatusError gives an error a status other than its code's first one, or a
// Retry-After of its own.
type StatusError struct {
	Status     int           // 0: that of the code
	RetryAfter time.Duration // 0: the default for 429 and 503, none otherwise
	Err        error
}

// Error returns the text of the error inside.
func (e *StatusError) Error() string { return e.Err.Error() }

// Unwrap returns the error inside.
func (e *StatusError) Unwrap() error { return e.Err }

// WithStatus makes an error with a status other than its code's first.
func WithStatus(status int, code framecodec.Code, text string) error {
	return &StatusError{Status: status, Err: &tunnel.Error{Code: code, Text: text}}
}

// WithRetryAfter says when a refused caller may come again.
func WithRetryAfter(d time.Duration, err error) error {
	return &StatusError{RetryAfter: d, Err: err}
}

// NewProblem describes err for a client. Of an error that is no *tunnel.Error
// nothing is told but that it is internal.
func NewProblem(err error) Problem {
	code, detail := tunnel.CodeOf(err), ""
	if e, ok := errors.AsType[*tunnel.Error](err); ok && code != framecodec.CodeInternal {
		detail = framecodec.SafeText([]byte(e.Text))
	}
	status := statusOf(err, code)
	return Problem{
		Type:      ProblemType + code.String(),
		Title:     titleOf(code, status),
		Status:    status,
		Detail:    detail,
		Code:      code,
		Retryable: code.Retryable(),
		Fault:     code.Fault(),
	}
}

// statusOf chooses the status: the error's own, else that of the code.
func statusOf(err error, code framecodec.Code) int {
	var own *StatusError
	if errors.As(err, &own) && own.Status != 0 {
		return own.Status
	}
	var offer *rtc.OfferError
	if errors.As(err, &offer) && offer.Unprocessable {
		return http.StatusUnprocessableEntity
	}
	if status := code.HTTPStatus(); status != 0 {
		return status
	}
	// A tunnel that ended while it was asked about: the codes of ends have no
	// status of their own.
	return http.StatusServiceUnavailable
}

// titleOf is the problem type's name for people.
func titleOf(code framecodec.Code, status int) string {
	if code == framecodec.CodeInternal {
		return http.StatusText(http.StatusInternalServerError)
	}
	return http.StatusText(status) + ": " + code.String()
}

// WriteProblem answers with err as a problem document and returns what it
// wrote. A 429 or 503 says when to come again.
func WriteProblem(w http.ResponseWriter, err error) Problem {
	p := NewProblem(err)
	h := w.Header()
	if after := retryAfter(err, p.Status); after > 0 {
		h.Set("Retry-After", strconv.Itoa(int(math.Ceil(after.Seconds()))))
	}
	if p.Status == http.StatusUnauthorized && h.Get("WWW-Authenticate") == "" {
		// RFC 9110 section 15.5.2 asks for a challenge; Bearer makes no browser
		// open a dialogue.
		h.Set("WWW-Authenticate", `Bearer realm="webrtc_tunnel"`)
	}
	body, err := json.Marshal(p)
	if err != nil { // a struct of strings and numbers
		panic(err)
	}
	h.Set("Content-Type", problemMedia)
	h.Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(p.Status)
	_, _ = w.Write(body) // the client is gone: nobody to tell
	return p
}

func retryAfter(err error, status int) time.Duration {
	var own *StatusError
	if errors.As(err, &own) && own.RetryAfter > 0 {
		return own.RetryAfter
	}
	if status == http.StatusTooManyRequests || status == http.StatusServiceUnavailable {
		return defaultRetryAfter
	}
	return 0
}
