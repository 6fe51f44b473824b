package culvert

import (
	"cmp"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/culvertgate/culvert/tunnel"
	"github.com/culvertgate/culvert/tunnel/policy"
)

// ticketRequest is the body of POST /tickets.
type ticketRequest struct {
	Endpoint  string    `json:"endpoint"`
	Target    string    `json:"target"`
	Until     time.Time `json:"until"`      // RFC 3339
	ExpiresIn string    `json:"expires_in"` // instead, such as 24h; neither: 24h
	Uses      int       `json:"uses"`       // tunnels that may be made; none: 1
	URL       string    `json:"url"`        // the endpoint as clients reach it, for the link; none: no link
}

// madeTicket is the answer: the only time that the ticket is shown.
type madeTicket struct {
	ticketRecord
	Ticket string `json:"ticket"`
	URL    string `json:"url,omitempty"`
}

// makeTicket answers POST /tickets.
func (*Admin) makeTicket(w http.ResponseWriter, r *http.Request) error {
	var q ticketRequest
	if err := readJSON(w, r, &q); err != nil {
		return err
	}
	h, s, err := endpointNamed(q.Endpoint)
	if err != nil {
		return err
	}
	if s.tickets == nil {
		return apiError(http.StatusConflict, fmt.Errorf("the endpoint %q takes no tickets: give it a tickets block with a key", q.Endpoint))
	}
	record, err := q.record(s.policy)
	if err != nil {
		return apiError(http.StatusBadRequest, err)
	}
	made := madeTicket{ticketRecord: record}
	if made.Ticket, err = s.tickets.sign(s.name, record); err != nil {
		return apiError(http.StatusInternalServerError, err)
	}
	if made.URL, err = q.link(made.Ticket); err != nil {
		return apiError(http.StatusBadRequest, err)
	}
	var stored ticketRecord
	if err := h.ledger.update(r.Context(), ticketKey(record.ID), &stored, func() error { stored = record; return nil }, nil); err != nil {
		return apiError(http.StatusInternalServerError, err)
	}
	w.Header().Set("Cache-Control", "no-store")
	return writeJSON(w, http.StatusCreated, made)
}

// record is what is asked for, checked.
func (q ticketRequest) record(p *policy.Policy) (ticketRecord, error) {
	now := time.Now().UTC().Truncate(time.Second)
	r := ticketRecord{ID: newTicketID(), Endpoint: q.Endpoint, Target: q.Target, Created: now, Until: q.Until, Uses: q.Uses}
	target, err := tunnel.ParseTarget(q.Target)
	_, _, service := target.Service()
	switch {
	case err != nil:
		return r, err
	case !target.Named() || !service && !p.Has(q.Target):
		return r, fmt.Errorf("the endpoint has no target %q: a ticket is for a named target, or for client:IDENTITY/NAME", q.Target)
	case q.Uses < 0:
		return r, errors.New("uses must be at least 1")
	case !q.Until.IsZero() && q.ExpiresIn != "":
		return r, errors.New("give either until or expires_in")
	}
	if r.Uses == 0 {
		r.Uses = 1
	}
	if r.Until.IsZero() {
		lasts := defaultTicket
		if q.ExpiresIn != "" {
			if lasts, err = time.ParseDuration(q.ExpiresIn); err != nil {
				return r, fmt.Errorf("expires_in: %w", err)
			}
		}
		r.Until = now.Add(lasts)
	}
	r.Until = r.Until.UTC().Truncate(time.Second)
	if r.over() {
		return r, errors.New("the end is over already")
	}
	return r, nil
}

// link is the address with the ticket in its fragment, which no client sends.
func (q ticketRequest) link(ticket string) (string, error) {
	if q.URL == "" {
		return "", nil
	}
	u, err := url.Parse(q.URL)
	if err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" || u.Fragment != "" {
		return "", errors.New("url is the endpoint as clients reach it, such as https://gw.example.com/tunnel")
	}
	u.Fragment = "ticket=" + ticket
	return u.String(), nil
}

// listTickets answers GET /tickets: what there is of each but the ticket itself, the
// newest first.
func (*Admin) listTickets(w http.ResponseWriter, r *http.Request) error {
	list := []ticketRecord{}
	seen := map[string]bool{}
	for _, h := range runningHubs() {
		some, err := h.ledger.tickets(r.Context())
		if err != nil && !errors.Is(err, errNoStorage) {
			return apiError(http.StatusInternalServerError, err)
		}
		for _, t := range some {
			if !seen[t.ID] { // hubs of one process share storage
				seen[t.ID] = true
				list = append(list, t)
			}
		}
	}
	slices.SortStableFunc(list, func(a, b ticketRecord) int {
		return cmp.Or(b.Created.Compare(a.Created), strings.Compare(a.ID, b.ID))
	})
	return writeJSON(w, http.StatusOK, list)
}

// revokeTicket answers DELETE /tickets/{id}.
func (*Admin) revokeTicket(w http.ResponseWriter, r *http.Request) error {
	id, found := r.PathValue("id"), false
	if validTicketID(id) && id != "" {
		for _, h := range runningHubs() { // each has tunnels of its own to end
			here, err := h.ledger.revoke(r.Context(), id)
			if err != nil && !errors.Is(err, errNoStorage) {
				return apiError(http.StatusInternalServerError, err)
			}
			found = found || here
		}
	}
	if !found {
		return apiError(http.StatusNotFound, fmt.Errorf("no ticket %q", id))
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}
