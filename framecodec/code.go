package framecodec

import (
	"fmt"
	"strconv"
)

// Code says why a stream or a tunnel ended. It is the only vocabulary for ends:
// on the wire (Reset, GoAway, Close), over HTTP (problem documents), in logs,
// metrics, events and in the client libraries. SPEC.md section 3.4.
type Code uint16

// The codes. Their numbers are part of the wire protocol and never change.
const (
	CodeNormal             Code = 0
	CodeInternal           Code = 1
	CodeProtocolError      Code = 2
	CodeTimeout            Code = 3
	CodeRefused            Code = 4
	CodeUnreachable        Code = 5
	CodeResolveFailed      Code = 6
	CodeNotAllowed         Code = 7
	CodeUnknownTarget      Code = 8
	CodeBreakerOpen        Code = 9
	CodeTargetClosed       Code = 10
	CodeCancelled          Code = 11
	CodeIdleTimeout        Code = 12
	CodeSlowConsumer       Code = 13
	CodeTooManyStreams     Code = 14
	CodeOutOfMemoryBudget  Code = 15
	CodeOverloaded         Code = 16
	CodeDraining           Code = 17
	CodeClosedByAdmin      Code = 18
	CodePolicyChanged      Code = 19
	CodeTunnelClosed       Code = 20
	CodeTunnelLost         Code = 21
	CodeGuacdError         Code = 22
	CodeTooManyTunnels     Code = 23
	CodeBadOffer           Code = 24
	CodeUnsupportedMedia   Code = 25
	CodeUnauthenticated    Code = 26
	CodeForbiddenOrigin    Code = 27
	CodeAuthExpired        Code = 28
	CodeTicketInvalid      Code = 29
	CodeTicketExpired      Code = 30
	CodeTicketUsed         Code = 31
	CodeQuotaExceeded      Code = 32
	CodeTooLarge           Code = 33
	CodeNotFound           Code = 34
	CodeMethodNotAllowed   Code = 35
	CodePreconditionFailed Code = 36
	CodeConflict           Code = 37
)

// Who is at fault for an end, as problem documents say it (RFC 9457 member
// "fault").
const (
	FaultClient  = "client"
	FaultPolicy  = "policy"
	FaultTarget  = "target"
	FaultGateway = "gateway"
	FaultNetwork = "network"
)

type codeRow struct {
	name      string
	reason    Reason // dialect 1 CloseConnection
	socks     byte   // RFC 1928 section 6; 1 where the table has none
	http      int    // first status of the column; 0 where a code never travels over HTTP
	fault     string
	retryable bool
}

// codes is the table of SPEC.md section 3.4; a test holds it against the text.
var codes = [...]codeRow{
	CodeNormal:             {"normal", ReasonNormal, 1, 0, FaultClient, false},
	CodeInternal:           {"internal", ReasonError, 1, 500, FaultGateway, true},
	CodeProtocolError:      {"protocol_error", ReasonProtocolError, 1, 400, FaultClient, false},
	CodeTimeout:            {"timeout", ReasonTimeout, 6, 504, FaultTarget, true},
	CodeRefused:            {"refused", ReasonServerRefuse, 5, 502, FaultTarget, true},
	CodeUnreachable:        {"unreachable", ReasonConnectionFailed, 4, 502, FaultTarget, true},
	CodeResolveFailed:      {"resolve_failed", ReasonAddressResolutionFailed, 4, 502, FaultTarget, true},
	CodeNotAllowed:         {"not_allowed", ReasonServerRefuse, 2, 403, FaultPolicy, false},
	CodeUnknownTarget:      {"unknown_target", ReasonConfigurationError, 4, 404, FaultClient, false},
	CodeBreakerOpen:        {"breaker_open", ReasonConnectionFailed, 1, 503, FaultTarget, true},
	CodeTargetClosed:       {"target_closed", ReasonUpstreamClosed, 1, 0, FaultTarget, true},
	CodeCancelled:          {"cancelled", ReasonClient, 1, 0, FaultClient, false},
	CodeIdleTimeout:        {"idle_timeout", ReasonTimeout, 1, 0, FaultClient, true},
	CodeSlowConsumer:       {"slow_consumer", ReasonTimeout, 1, 0, FaultClient, true},
	CodeTooManyStreams:     {"too_many_streams", ReasonServerRefuse, 1, 429, FaultClient, true},
	CodeOutOfMemoryBudget:  {"out_of_memory_budget", ReasonServerRefuse, 1, 503, FaultGateway, true},
	CodeOverloaded:         {"overloaded", ReasonServerRefuse, 1, 503, FaultGateway, true},
	CodeDraining:           {"draining", ReasonTunnelClosed, 1, 503, FaultGateway, true},
	CodeClosedByAdmin:      {"closed_by_admin", ReasonAdminClosed, 1, 0, FaultPolicy, false},
	CodePolicyChanged:      {"policy_changed", ReasonAdminClosed, 1, 0, FaultPolicy, false},
	CodeTunnelClosed:       {"tunnel_closed", ReasonTunnelClosed, 1, 0, FaultClient, true},
	CodeTunnelLost:         {"tunnel_lost", ReasonConnectionLost, 1, 0, FaultNetwork, true},
	CodeGuacdError:         {"guacd_error", ReasonGuacdError, 1, 502, FaultTarget, true},
	CodeTooManyTunnels:     {"too_many_tunnels", ReasonServerRefuse, 1, 429, FaultClient, true},
	CodeBadOffer:           {"bad_offer", ReasonProtocolError, 1, 400, FaultClient, false},
	CodeUnsupportedMedia:   {"unsupported_media", ReasonProtocolError, 1, 415, FaultClient, false},
	CodeUnauthenticated:    {"unauthenticated", ReasonServerRefuse, 1, 401, FaultPolicy, false},
	CodeForbiddenOrigin:    {"forbidden_origin", ReasonServerRefuse, 1, 403, FaultPolicy, false},
	CodeAuthExpired:        {"auth_expired", ReasonAdminClosed, 1, 401, FaultPolicy, false},
	CodeTicketInvalid:      {"ticket_invalid", ReasonServerRefuse, 1, 403, FaultPolicy, false},
	CodeTicketExpired:      {"ticket_expired", ReasonServerRefuse, 1, 403, FaultPolicy, false},
	CodeTicketUsed:         {"ticket_used", ReasonServerRefuse, 1, 403, FaultPolicy, false},
	CodeQuotaExceeded:      {"quota_exceeded", ReasonServerRefuse, 2, 429, FaultPolicy, true},
	CodeTooLarge:           {"too_large", ReasonProtocolError, 1, 413, FaultClient, false},
	CodeNotFound:           {"not_found", ReasonError, 1, 404, FaultClient, false},
	CodeMethodNotAllowed:   {"method_not_allowed", ReasonError, 1, 405, FaultClient, false},
	CodePreconditionFailed: {"precondition_failed", ReasonError, 1, 412, FaultClient, true},
	CodeConflict:           {"conflict", ReasonError, 1, 409, FaultClient, true},
}

// codeByName is the table turned round; read only after package initialisation.
var codeByName = func() map[string]Code {
	m := make(map[string]Code, len(codes))
	for c, row := range codes {
		m[row.name] = Code(c)
	}
	return m
}()

// Known reports whether c is in the table.
func (c Code) Known() bool { return int(c) < len(codes) }

// row answers unknown codes (a newer peer's) as internal ones.
func (c Code) row() codeRow {
	if !c.Known() {
		return codes[CodeInternal]
	}
	return codes[c]
}

// String returns the token, such as "tunnel_lost", or "code_1234" for a code
// this version does not know.
func (c Code) String() string {
	if !c.Known() {
		return "code_" + strconv.Itoa(int(c))
	}
	return codes[c].name
}

// ParseCode returns the code with that token.
func ParseCode(token string) (Code, bool) {
	c, ok := codeByName[token]
	return c, ok
}

// Reason returns the close reason that a dialect 1 peer is told.
func (c Code) Reason() Reason { return c.row().reason }

// SOCKSReply returns the reply field of RFC 1928 section 6: 1 (general failure)
// where nothing fits better.
func (c Code) SOCKSReply() byte { return c.row().socks }

// HTTPStatus returns the status of a problem document with this code, 0 for
// codes that never travel over HTTP.
func (c Code) HTTPStatus() int { return c.row().http }

// Fault says who has to change something: one of the Fault constants.
func (c Code) Fault() string { return c.row().fault }

// Retryable reports whether the same request may succeed later.
func (c Code) Retryable() bool { return c.row().retryable }

// MarshalText writes the token, so that JSON shows codes by name.
func (c Code) MarshalText() ([]byte, error) { return []byte(c.String()), nil }

// UnmarshalText reads a token.
func (c *Code) UnmarshalText(b []byte) error {
	v, ok := ParseCode(string(b))
	if !ok {
		return fmt.Errorf("unknown code %q", b)
	}
	*c = v
	return nil
}
