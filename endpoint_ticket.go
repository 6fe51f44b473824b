package culvert

import (
	"net/http"
	"strings"
	"time"

	"github.com/culvertgate/culvert/framecodec"
	"github.com/culvertgate/culvert/tunnel"
	"github.com/culvertgate/culvert/tunnel/signal"
)

// showTicket takes the ticket of a request that nobody else has put a name to: who
// holds it is ticket:ID, of no group, until its end.
func (e *Endpoint) showTicket(r *http.Request, c *signal.Caller) {
	if e.Tickets == nil || c.Identity != "" {
		return
	}
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if !strings.EqualFold(scheme, "Bearer") || token == "" {
		return
	}
	ticket, err := e.Tickets.check(e.Name, strings.TrimSpace(token))
	if err != nil {
		c.Refused = err
		return
	}
	c.Identity, c.Groups, c.Ticket = ticketPrefix+ticket.ID, nil, &ticket
	if c.Expires.IsZero() || ticket.Until.Before(c.Expires) {
		c.Expires = ticket.Until
	}
}

// expired returns an error with the code of a credential that is over, nil while it
// is not.
func expired(c signal.Caller) error {
	if c.Expires.IsZero() || time.Now().Before(c.Expires) {
		return nil
	}
	if c.Ticket != nil {
		return &tunnel.Error{Code: framecodec.CodeTicketExpired, Text: "the ticket's time is over"}
	}
	return &tunnel.Error{Code: framecodec.CodeAuthExpired, Text: "the credential is over"}
}
