package client

import (
	"crypto/tls"
	"errors"
	"net/http"
	"slices"
	"time"

	"github.com/culvertgate/culvert/framecodec"
	"github.com/culvertgate/culvert/tunnel"
	"github.com/culvertgate/culvert/tunnel/signal"
)

// Step is a part of making a tunnel.
type Step int

// The steps, in their order. The last two are not of making a tunnel: StepOpen
// is that of a stream, StepTargets that of the target list.
const (
	StepResolve Step = iota // the gateway's name
	StepConnect             // TCP to the gateway
	StepTLS                 // its certificate
	StepSignal              // offer and answer over HTTP
	StepICE                 // a network path over UDP
	StepDTLS                // the encrypted connection
	StepChannel             // the data channel
	StepHello               // the first frame of each side
	StepOpen                // a stream to a target
	StepTargets             // the list of targets
)

var stepNames = [...]string{"resolve", "connect", "tls", "signal", "ice", "dtls", "channel", "hello", "open", "targets"}

// String returns the step's word, such as "ice".
func (s Step) String() string { return stepNames[s] }

// Describe returns what the step does, for people.
func (s Step) Describe() string {
	return [...]string{
		"looking up the gateway's name", "connecting to the gateway", "checking the gateway's certificate",
		"exchanging offer and answer", "finding a network path (UDP)", "setting up encryption (DTLS)",
		"opening the data channel", "greeting the gateway", "opening a stream", "asking for the targets",
	}[s]
}

// Progress tells of one step of an attempt: once when it begins, once when it
// is over.
type Progress struct {
	Step   Step
	URL    string // of the gateway, without query
	Done   bool   // the step is over
	Err    error  // why it failed; with Done
	Took   time.Duration
	Detail string // what was found, such as an address; may be empty
}

// StepError says which step of connecting failed, where, why, and what to try.
type StepError struct {
	Step Step
	URL  string // of the gateway, without query
	Err  error
	Hint string // what to try; may be empty
}

// Error returns all of it in one line.
func (e *StepError) Error() string {
	text := e.Step.Describe() + " failed: " + e.Err.Error() + " [" + e.URL + "]"
	if e.Hint != "" {
		text += "; " + e.Hint
	}
	return text
}

// Unwrap returns the cause.
func (e *StepError) Unwrap() error { return e.Err }

// newStepError adds the hint that fits.
func newStepError(step Step, url string, err error) *StepError {
	return &StepError{Step: step, URL: url, Err: err, Hint: hint(step, err)}
}

// hint says what a person may try.
func hint(step Step, err error) string {
	var cert *tls.CertificateVerificationError
	switch {
	case errors.As(err, &cert):
		return "the gateway's certificate is not trusted here: give its authority with --ca or tls_trust_pool, or use the name that the certificate has, in the URL or as tls_server_name"
	case step == StepResolve:
		return "check the host name in the URL and this machine's DNS"
	case step == StepConnect:
		return "check the URL's host and port, that the gateway runs, and that no firewall or proxy is in between"
	case step == StepTLS:
		return "check that the URL's port speaks TLS and whether the gateway asks for a client certificate"
	case step == StepSignal, step == StepTargets:
		return signalHint(err)
	case step == StepICE:
		return "UDP between this machine and the gateway is blocked: open the gateway's UDP port (3478 unless configured) in firewalls, set external_address at the gateway if it is behind NAT, or configure a TURN server"
	case step == StepDTLS:
		return "something on the way drops large UDP packets or changes them; check the path's MTU"
	case step == StepChannel, step == StepHello:
		return "the peer is connected but does not speak this protocol: check `dialects` at the gateway and `dialect` here"
	}
	return ""
}

func signalHint(err error) string {
	if answer, ok := errors.AsType[*signal.ResponseError](err); ok && answer.Status == http.StatusMisdirectedRequest {
		return "the gateway's site serves its own name only: the URL's host must be the TLS server name (tls_server_name)"
	}
	switch tunnel.CodeOf(err) {
	case framecodec.CodeUnreachable: // connected, and TLS 1.3 hears of a refused certificate behind its handshake
		return "the gateway ended the connection before it answered: see its log; if its site asks for client certificates, give one that it accepts (--cert with --key, tls_client_auth)"
	case framecodec.CodeUnauthenticated, framecodec.CodeAuthExpired:
		return "give credentials (--user with --password-file, --token-file or --header-file; `header` of a remote) or renew them"
	case framecodec.CodeNotAllowed, framecodec.CodeForbiddenOrigin:
		return "this user may not use this endpoint"
	case framecodec.CodeNotFound, framecodec.CodeMethodNotAllowed, framecodec.CodeProtocolError:
		return "check the path in the URL: it is the endpoint's base_path, such as /tunnel"
	case framecodec.CodeUnknownTarget:
		return "`caddy webrtc-tunnel targets` lists the targets of this gateway"
	case framecodec.CodeTooManyTunnels:
		return "this user has as many tunnels as the endpoint's limit tunnels_per_identity allows, or sets up too many at once (handshakes_per_client): " +
			"end one that is not needed any more (`caddy webrtc-tunnel list` and `kill` at the gateway do that too), or have the gateway's operator raise the limit"
	case framecodec.CodeOverloaded:
		return "the gateway is at one of its limits (limits tunnels, handshakes): try again later; its operator can end tunnels or raise the limit"
	case framecodec.CodeOutOfMemoryBudget:
		return "the gateway is at one of its limits (limits memory, memory_per_identity, tunnel_memory): end tunnels that are not needed, or have its operator raise the limit"
	case framecodec.CodeDraining:
		return "the gateway is shutting down or starting: try again when it is back"
	case framecodec.CodeInternal:
		return "this is the gateway's fault, and its log says what it is: ask its operator"
	default:
		return ""
	}
}

// several are the errors of attempts at more than one URL.
type several interface {
	error
	Unwrap() []error
}

// temporary reports whether the same attempt may succeed later without anybody
// changing a configuration or a credential: with one of the URLs is enough.
func temporary(err error) bool {
	if list, ok := errors.AsType[several](err); ok {
		return slices.ContainsFunc(list.Unwrap(), temporary)
	}
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return false
	}
	if answer, ok := errors.AsType[*signal.ResponseError](err); ok {
		return answer.Retryable() && answer.Status != http.StatusUnauthorized
	}
	return tunnel.CodeOf(err).Retryable()
}

// beingReplaced reports whether a gateway answered that this process or
// configuration of it takes no more: the next one may be there already.
func beingReplaced(err error) bool {
	if list, ok := errors.AsType[several](err); ok {
		return slices.ContainsFunc(list.Unwrap(), beingReplaced)
	}
	answer, ok := errors.AsType[*signal.ResponseError](err)
	return ok && tunnel.CodeOf(answer) == framecodec.CodeDraining
}

// retryAfter returns how long the gateway asked to wait, 0 if it did not; of
// several gateways the longest time, since the next attempt begins with all.
func retryAfter(err error) time.Duration {
	if list, ok := errors.AsType[several](err); ok {
		var longest time.Duration
		for _, e := range list.Unwrap() {
			longest = max(longest, retryAfter(e))
		}
		return longest
	}
	if answer, ok := errors.AsType[*signal.ResponseError](err); ok {
		return answer.RetryAfter
	}
	return 0
}
