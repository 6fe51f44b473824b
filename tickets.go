package culvert

import (
	"cmp"
	"context"
	cryptorand "crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/certmagic"
	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"go.uber.org/zap"

	"github.com/culvertgate/culvert/framecodec"
	"github.com/culvertgate/culvert/tunnel"
	"github.com/culvertgate/culvert/tunnel/signal"
)

// Tickets lets whoever holds a ticket open one target, without being anybody: the
// admin API makes links with an end and a count (POST /webrtc_tunnel/tickets).
type Tickets struct {
	// Key signs and checks tickets (HS256): at least 32 bytes. Give a placeholder, {file.*} or {env.*}. Gateways with the
	// same key take each other's tickets. Required.
	Key string `json:"key,omitempty"`

	key     []byte
	keyHash [sha256.Size]byte // what tunnels know the key by
}

const (
	ticketIssuer   = "webrtc_tunnel"
	ticketPrefix   = "ticket:" // of the identity of who holds one
	ticketsFolder  = "tickets"
	minTicketKey   = 32
	defaultTicket  = 24 * time.Hour
	ticketKept     = 24 * time.Hour // behind its end: so long it is said that it is over, or used up
	maxTicketBytes = 4 << 10
)

// provision reads the key.
func (t *Tickets) provision() error {
	if t.Key == "" {
		return errors.New("tickets: key is missing: give {file./run/secrets/...} with at least 32 random bytes")
	}
	key, err := caddy.NewReplacer().ReplaceOrErr(t.Key, true, true)
	if err != nil {
		return fmt.Errorf("tickets: key: %w", err)
	}
	if key = strings.TrimRight(key, "\r\n"); len(key) < minTicketKey {
		return fmt.Errorf("tickets: the key has %d bytes: at least %d are needed, such as those of `openssl rand -base64 32`", len(key), minTicketKey)
	}
	t.key, t.keyHash = []byte(key), sha256.Sum256([]byte(key))
	return nil
}

// ticketClaims are what a ticket says (RFC 7519 section 4.1, and its count).
type ticketClaims struct {
	jwt.Claims
	Uses int `json:"uses"`
}

// sign makes a ticket for a target of an endpoint.
func (t *Tickets) sign(endpoint string, r ticketRecord) (string, error) {
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.HS256, Key: t.key}, (&jose.SignerOptions{}).WithType("JWT"))
	if err != nil {
		return "", err
	}
	return jwt.Signed(signer).Claims(ticketClaims{
		Claims: jwt.Claims{
			Issuer: ticketIssuer, Audience: jwt.Audience{endpoint}, Subject: r.Target, ID: r.ID,
			Expiry: jwt.NewNumericDate(r.Until),
		},
		Uses: r.Uses,
	}).Serialize()
}

// check reads a ticket of an endpoint. The error is a *tunnel.Error:
// ticket_expired, or ticket_invalid for whatever else is wrong with it.
func (t *Tickets) check(endpoint, token string) (signal.Ticket, *tunnel.Error) {
	invalid := func(err error) (signal.Ticket, *tunnel.Error) {
		return signal.Ticket{}, &tunnel.Error{Code: framecodec.CodeTicketInvalid, Text: "this is no ticket of this endpoint", Err: err}
	}
	if len(token) > maxTicketBytes {
		return invalid(nil)
	}
	parsed, err := jwt.ParseSigned(token, []jose.SignatureAlgorithm{jose.HS256})
	if err != nil {
		return invalid(err)
	}
	var c ticketClaims
	if err := parsed.Claims(t.key, &c); err != nil {
		return invalid(err)
	}
	err = c.ValidateWithLeeway(jwt.Expected{Issuer: ticketIssuer, AnyAudience: jwt.Audience{endpoint}, Time: time.Now()}, 0)
	switch {
	case errors.Is(err, jwt.ErrExpired):
		return signal.Ticket{}, &tunnel.Error{Code: framecodec.CodeTicketExpired, Text: "the ticket's time is over"}
	case err != nil:
		return invalid(err)
	case c.Expiry == nil || c.ID == "" || c.Subject == "" || c.Uses < 1 || !validTicketID(c.ID):
		return invalid(errors.New("a claim is missing"))
	}
	return signal.Ticket{ID: c.ID, Target: c.Subject, Until: c.Expiry.Time(), Uses: c.Uses, Key: t.keyHash}, nil
}

func newTicketID() string { return strings.ToLower(cryptorand.Text()) }

// validTicketID: an ID becomes part of a key in storage.
func validTicketID(id string) bool {
	return len(id) <= 64 && strings.Trim(id, "abcdefghijklmnopqrstuvwxyz234567") == ""
}

// ticketRecord is what storage has of a ticket; never the ticket itself.
type ticketRecord struct {
	ID       string    `json:"id"`
	Endpoint string    `json:"endpoint"`
	Target   string    `json:"target"`
	Created  time.Time `json:"created"`
	Until    time.Time `json:"until"`
	Uses     int       `json:"uses"`
	Used     int       `json:"used"`
	Revoked  bool      `json:"revoked,omitempty"`
}

func (r ticketRecord) over() bool { return !time.Now().Before(r.Until) }

var errNoTicket = errors.New("no such ticket")

func ticketKey(id string) string { return ticketsFolder + "/" + id + ".json" }

// use counts one use of a ticket, or says why it cannot be used. Gateways that
// share storage count together.
func (l *ledger) use(ctx context.Context, endpoint string, t signal.Ticket) *tunnel.Error {
	ctx, cancel := context.WithTimeout(ctx, ledgerTimeout)
	defer cancel()
	var r ticketRecord
	var refusal *tunnel.Error
	err := l.update(ctx, ticketKey(t.ID), &r, func() error {
		if refusal = r.refuses(t); refusal != nil {
			return refusal
		}
		// A gateway that shares no storage with the one that made it sees it for the
		// first time.
		r.ID, r.Endpoint, r.Target, r.Until, r.Uses = t.ID, endpoint, t.Target, t.Until, t.Uses
		r.Used++
		return nil
	}, nil)
	switch {
	case refusal != nil:
		return refusal
	case err != nil:
		return unreadable(err)
	}
	return nil
}

// giveBack takes a use back of which no tunnel came.
func (l *ledger) giveBack(id string) {
	ctx, cancel := context.WithTimeout(context.Background(), ledgerTimeout)
	defer cancel()
	var r ticketRecord
	err := l.update(ctx, ticketKey(id), &r, func() error {
		if r.ID == "" {
			return errNoTicket
		}
		r.Used = max(r.Used-1, 0)
		return nil
	}, nil)
	if err != nil {
		l.hub.logger().Error("a use of a ticket that made no tunnel stays spent", zap.String("identity", ticketPrefix+id), zap.Error(err))
	}
}

// refuses returns why a ticket cannot be used, nil if it can; it counts nothing.
func (l *ledger) refuses(ctx context.Context, t signal.Ticket) *tunnel.Error {
	ctx, cancel := context.WithTimeout(ctx, ledgerTimeout)
	defer cancel()
	var r ticketRecord
	if err := l.load(ctx, ticketKey(t.ID), &r); err != nil {
		return unreadable(err)
	}
	return r.refuses(t)
}

// refuses is what the record has against another use.
func (r ticketRecord) refuses(t signal.Ticket) *tunnel.Error {
	switch {
	case r.Revoked:
		return &tunnel.Error{Code: framecodec.CodeTicketInvalid, Text: "the ticket was revoked"}
	case r.Used >= t.Uses:
		return &tunnel.Error{Code: framecodec.CodeTicketUsed, Text: "the ticket is used up"}
	}
	return nil
}

func unreadable(err error) *tunnel.Error {
	return &tunnel.Error{Code: framecodec.CodeOverloaded, Text: "the ticket's count cannot be read", Err: err}
}

// revoke takes a ticket back and ends its tunnels; false: there is none.
func (l *ledger) revoke(ctx context.Context, id string) (found bool, _ error) {
	var r ticketRecord
	err := l.update(ctx, ticketKey(id), &r, func() error {
		if r.ID == "" {
			return errNoTicket
		}
		r.Revoked = true
		return nil
	}, nil)
	if errors.Is(err, errNoTicket) {
		return false, nil
	}
	if err == nil {
		l.endRevoked(id)
	}
	return err == nil, err
}

func (l *ledger) endRevoked(id string) {
	for _, t := range l.hub.tunnels.all() {
		if t.identity == ticketPrefix+id && t.ticket != "" {
			t.close(framecodec.CodeClosedByAdmin, "the ticket was revoked")
		}
	}
}

// checkTickets ends the tunnels of tickets that another gateway has revoked. One whose
// record cannot be read keeps nobody from hearing of the others.
func (l *ledger) checkTickets(ctx context.Context) (errs error) {
	seen := map[string]bool{}
	for _, t := range l.hub.tunnels.all() {
		id, ok := strings.CutPrefix(t.identity, ticketPrefix)
		if !ok || t.ticket == "" || seen[id] {
			continue
		}
		seen[id] = true
		var r ticketRecord
		if err := l.load(ctx, ticketKey(id), &r); err != nil {
			errs = errors.Join(errs, err)
			continue
		}
		if r.Revoked {
			l.endRevoked(id)
		}
	}
	return errs
}

// tickets lists those that storage knows, in no order. Records that cannot be read are
// told to the log and skipped.
func (l *ledger) tickets(ctx context.Context) ([]ticketRecord, error) {
	storage := l.storage()
	if storage == nil {
		return nil, errNoStorage
	}
	list := []ticketRecord{}
	err := l.eachTicket(ctx, storage, func(r ticketRecord) { list = append(list, r) })
	return list, err
}

// eachTicket calls f with each ticket that storage knows, in an order that is another
// one each time: where the time is not enough for all, it is not always the same ones
// that are left out. The error is that of the list, or of a time that was not enough.
func (l *ledger) eachTicket(ctx context.Context, storage certmagic.Storage, f func(ticketRecord)) error {
	keys, err := storage.List(ctx, ledgerPrefix+ticketsFolder, false)
	if errors.Is(err, fs.ErrNotExist) { // none was made yet
		return nil
	}
	if err != nil {
		return fmt.Errorf("listing tickets in storage: %w", err)
	}
	rand.Shuffle(len(keys), func(i, j int) { keys[i], keys[j] = keys[j], keys[i] })
	var unread error // the first
	failed := 0
	for _, key := range keys {
		var r ticketRecord
		err := l.load(ctx, strings.TrimPrefix(key, ledgerPrefix), &r)
		switch {
		case ctx.Err() != nil:
			return fmt.Errorf("reading tickets from storage: %w", ctx.Err())
		case err != nil:
			unread = cmp.Or(unread, err)
			failed++
		case r.ID != "":
			f(r)
		}
	}
	if failed == 0 {
		return nil
	}
	if suppressed, ok := l.hub.warnings.allow("tickets"); ok {
		l.hub.logger().Error("tickets in storage that cannot be read admit nobody; remove the file of one only when its time is over, for its count goes with it", zap.Int("tickets", failed), zap.NamedError("first", unread), zap.Int("suppressed_before", suppressed))
	}
	return nil
}

// pruneTickets removes those that were over for a while.
func (l *ledger) pruneTickets(ctx context.Context, storage certmagic.Storage) {
	_ = l.eachTicket(ctx, storage, func(r ticketRecord) { // an error: the next time, then
		if time.Since(r.Until) > ticketKept {
			_ = storage.Delete(ctx, ledgerPrefix+ticketKey(r.ID))
		}
	})
}
