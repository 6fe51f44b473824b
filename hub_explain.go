package culvert

import (
	"context"
	"net/netip"
	"strings"

	"github.com/culvertgate/culvert/framecodec"
	"github.com/culvertgate/culvert/tunnel"
	"github.com/culvertgate/culvert/tunnel/policy"
)

// explain says what an open would be told, or, with expose, the offer of a
// service: what stands before the policy first, then the policy itself.
func (h *hub) explain(ctx context.Context, s *endpointState, subject policy.Subject, target tunnel.Target, expose string) policy.Explanation {
	if d := h.explainTicket(ctx, s, &subject); !d.Allowed {
		return policy.Explained(d)
	}
	// An anonymous client's bytes are counted by its address, which nobody gave.
	if d := h.gate(s, subject.Identity, identityKey(s.name, subject.Identity, netip.Addr{})); !d.Allowed {
		return policy.Explained(d)
	}
	if expose != "" {
		return policy.Explained(s.policy.MayExpose(subject, expose))
	}
	if identity, name, ok := target.Service(); ok {
		owner := policy.Subject{Endpoint: s.name, Identity: identity}
		if now := h.services.find(serviceKey{s.name, identity, name}); now != nil {
			owner = now.Owner()
		}
		return policy.Explained(s.policy.MayReach(subject, owner, name))
	}
	if target.Named() {
		target = s.policy.Named(target.Host) // whoever opens it asks for what it is
	}
	return s.policy.Explain(ctx, subject, target, nil)
}

// explainTicket fills in what the ticket of an identity ticket:ID is for, or says
// why it is good for nothing.
func (h *hub) explainTicket(ctx context.Context, s *endpointState, subject *policy.Subject) policy.Decision {
	id, ok := strings.CutPrefix(subject.Identity, ticketPrefix)
	if !ok || !validTicketID(id) {
		return policy.Decision{Allowed: true}
	}
	var r ticketRecord
	refused := func(code tunnel.Code, reason string) policy.Decision {
		return policy.Decision{Code: code, Reason: reason, Rule: policy.RuleRef{Endpoint: s.name, List: "tickets", Index: -1}}
	}
	switch err := h.ledger.load(ctx, ticketKey(id), &r); {
	case err != nil:
		return refused(framecodec.CodeOverloaded, err.Error())
	case r.ID == "" || r.Endpoint != s.name:
		return refused(framecodec.CodeTicketInvalid, "storage knows no such ticket of this endpoint")
	case r.Revoked:
		return refused(framecodec.CodeTicketInvalid, "the ticket was revoked")
	case r.over():
		return refused(framecodec.CodeTicketExpired, "the ticket's time is over")
	}
	subject.Ticket, subject.Groups = r.Target, nil
	return policy.Decision{Allowed: true}
}
