package signal

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"strings"

	"github.com/culvertgate/culvert/framecodec"
	"github.com/culvertgate/culvert/tunnel"
)

const (
	maxRedirects = 3
	maxProblem   = 16 << 10 // bytes of an error's body
)

// call is one request of a client.
type call struct {
	method string
	url    *url.URL
	media  string // of the body; empty: no body
	body   string
	match  string // If-Match
	want   int    // status; 0: any 2xx
	limit  int64  // bytes of the answer's body; 0: it is not read
	final  bool   // it must not be sent twice
}

// response is an answer, read to its end.
type response struct {
	url    *url.URL // after redirects
	header http.Header
	body   string
}

// do sends a call, follows redirects that keep method and origin, and turns
// everything but the wanted status into an error.
func (c *Client) do(ctx context.Context, call call) (response, error) {
	for range maxRedirects + 1 {
		res, next, err := c.once(ctx, call)
		if err != nil || next == nil {
			return res, err
		}
		call.url = next
	}
	return response{}, protocolError("the gateway redirects in a circle")
}

// once sends a call and returns its answer, or where it is redirected to.
func (c *Client) once(ctx context.Context, call call) (response, *url.URL, error) {
	res, err := c.send(ctx, call)
	if err != nil {
		return response{}, nil, err
	}
	defer func() { _ = res.Body.Close() }()
	switch {
	case res.StatusCode >= 300 && res.StatusCode < 400:
		next, err := c.redirect(call.url, res)
		return response{}, next, err
	case res.StatusCode >= 400 || res.StatusCode < 200:
		return response{}, nil, responseError(res)
	case call.want != 0 && res.StatusCode != call.want:
		return response{}, nil, protocolError(fmt.Sprintf("%s was answered %s: is this the URL of a gateway?", call.method, statusText(res.StatusCode)))
	}
	out := response{url: call.url, header: res.Header}
	if call.limit > 0 {
		if out.body, err = readAnswer(ctx, res.Body, call.limit); err != nil {
			return response{}, nil, err
		}
	}
	return out, nil, nil
}

func (c *Client) request(ctx context.Context, call call) (*http.Request, error) {
	req, err := http.NewRequestWithContext(ctx, call.method, call.url.String(), strings.NewReader(call.body))
	if err != nil {
		return nil, protocolError("the request cannot be made")
	}
	if c.header != nil {
		own, err := c.header(ctx)
		if err != nil {
			return nil, &tunnel.Error{Code: framecodec.CodeUnauthenticated, Text: "reading credentials: " + err.Error(), Err: err}
		}
		maps.Copy(req.Header, own)
	}
	if call.media != "" {
		req.Header.Set("Content-Type", call.media)
	}
	if call.match != "" {
		req.Header.Set("If-Match", call.match)
	}
	return req, nil
}

// redirect returns where a 307 or 308 leads. Others would change the method,
// and another origin would be given the credentials.
func (c *Client) redirect(from *url.URL, res *http.Response) (*url.URL, error) {
	if res.StatusCode != http.StatusTemporaryRedirect && res.StatusCode != http.StatusPermanentRedirect {
		return nil, protocolError(fmt.Sprintf("the gateway answered with the redirect %s, which is not followed; it may want a login page: give credentials by a header", statusText(res.StatusCode)))
	}
	to, err := from.Parse(res.Header.Get("Location"))
	if err != nil || to.User != nil || res.Header.Get("Location") == "" {
		return nil, protocolError("the gateway redirects to a malformed URL")
	}
	if originOf(to.Scheme, to.Host) != c.origin {
		return nil, protocolError("the gateway redirects to " + framecodec.SafeText([]byte(to.Scheme+"://"+to.Host)) + ", another origin: credentials are not sent there; use that URL yourself if you trust it")
	}
	return to, nil
}

// statusText names a status. The reason phrase that was sent is not repeated: it
// may hold anything, control characters too.
func statusText(status int) string {
	return strings.TrimRight(fmt.Sprintf("%d %s", status, http.StatusText(status)), " ")
}

func readAnswer(ctx context.Context, body io.Reader, limit int64) (string, error) {
	b, err := io.ReadAll(io.LimitReader(body, limit+1))
	if err != nil {
		return "", transportError(ctx, err)
	}
	if int64(len(b)) > limit {
		return "", protocolError(fmt.Sprintf("the gateway's answer is larger than %d bytes", limit))
	}
	return string(b), nil
}

// transportError names what kept a request from being answered. The *url.Error
// around it is dropped: its text holds the session's URL.
func transportError(ctx context.Context, err error) error {
	if wrapped, ok := errors.AsType[*url.Error](err); ok {
		err = wrapped.Err
	}
	code, text := framecodec.CodeUnreachable, framecodec.SafeText([]byte(err.Error())) // a proxy's words may be in it
	var dns *net.DNSError
	var timeout net.Error
	switch {
	case ctx.Err() != nil:
		return &tunnel.Error{Code: tunnel.CodeOf(ctx.Err()), Text: "no answer from the gateway: " + ctx.Err().Error(), Err: ctx.Err()}
	case errors.As(err, &dns):
		code = framecodec.CodeResolveFailed
	case isRefused(err):
		code = framecodec.CodeRefused
	case isEOF(err):
		text = "the gateway closed the connection before its answer was complete"
	case errors.As(err, &timeout) && timeout.Timeout():
		code = framecodec.CodeTimeout
	}
	return &tunnel.Error{Code: code, Text: text, Err: err}
}
