package policy

import (
	"fmt"

	"github.com/culvertgate/culvert/framecodec"
	"github.com/culvertgate/culvert/tunnel"
)

// RuleRef points at what decided: a target or rule of the configuration, or one
// of the built-in refusals.
type RuleRef struct {
	Endpoint string `json:"endpoint"`
	// List is targets, dynamic.rules or expose.rules; for what is built in: expose (no
	// rule allows it), dynamic (no rule
	// allows it), targets (no such target), host (not a host), resolve,
	// addresses.CLASS or addresses.forbidden.
	List     string `json:"list"`
	Index    int    `json:"index"` // in the list; -1 for what is built in
	Text     string `json:"text,omitempty"`
	Position string `json:"position,omitempty"` // in the Caddyfile, where known
}

// String returns dynamic.rules[2]: one of a few values that the configuration
// bounds, fit for a metric's label.
func (r RuleRef) String() string {
	if r.Index < 0 {
		return r.List
	}
	return fmt.Sprintf("%s[%d]", r.List, r.Index)
}

// Describe names the rule with its text and its place in the Caddyfile, for logs and
// errors at load.
func (r RuleRef) Describe() string {
	text := r.String()
	if r.Text != "" {
		text += " (" + r.Text + ")"
	}
	if r.Position != "" {
		text = r.Position + ": " + text
	}
	return text
}

// Decision is what the policy says of a target or an address. Reason and Rule
// are for the operator: they may tell addresses that the client must not learn.
type Decision struct {
	Allowed bool `json:"allowed"`
	// Code is what the client is told: normal when allowed, mostly not_allowed or
	// unknown_target when not.
	Code   tunnel.Code `json:"-"`
	Rule   RuleRef     `json:"rule"`
	Reason string      `json:"reason"`
	// NeedsResolve: the target is allowed if the addresses of its name are.
	NeedsResolve bool `json:"-"`
}

// Err returns nil if allowed, else an error fit for the client: a code and a
// text without addresses. errors.As finds the *DenialError inside.
func (d Decision) Err() error {
	if d.Allowed {
		return nil
	}
	return &tunnel.Error{Code: d.Code, Text: ClientText(d.Code), Err: &DenialError{d}}
}

// DenialError is a refusal by policy as an error for logs.
type DenialError struct{ Decision Decision }

// Error tells rule and reason; it is not for the client.
func (d *DenialError) Error() string {
	return fmt.Sprintf("%s: %s", d.Decision.Rule, d.Decision.Reason)
}

// ClientText is all that a client learns about a stream that did not open,
// besides the code: it never holds an address.
func ClientText(c tunnel.Code) string {
	switch c {
	case framecodec.CodeNotAllowed:
		return "not allowed"
	case framecodec.CodeUnknownTarget:
		return "no such target"
	case framecodec.CodeTimeout:
		return "the target did not answer in time"
	case framecodec.CodeRefused:
		return "the target refused the connection"
	case framecodec.CodeUnreachable:
		return "the target cannot be reached"
	case framecodec.CodeResolveFailed:
		return "the name cannot be resolved"
	case framecodec.CodeBreakerOpen:
		return "the target has failed too often and is given a rest, try again later"
	case framecodec.CodeOverloaded:
		return "too many connections are being opened"
	case framecodec.CodeCancelled:
		return "cancelled"
	case framecodec.CodeTunnelClosed:
		return "the tunnel is closed"
	case framecodec.CodeQuotaExceeded:
		return "the quota is used up"
	case framecodec.CodePolicyChanged:
		return "no longer allowed"
	default:
		return ""
	}
}

func (p *Policy) allow(by RuleRef, reason string) Decision {
	return Decision{Allowed: true, Rule: by, Reason: reason}
}

func (p *Policy) deny(by RuleRef, format string, args ...any) Decision {
	return Decision{Code: framecodec.CodeNotAllowed, Rule: by, Reason: fmt.Sprintf(format, args...)}
}

// builtin refers to a refusal that no configuration wrote.
func (p *Policy) builtin(list string) RuleRef {
	return RuleRef{Endpoint: p.endpoint, List: list, Index: -1}
}
