package badinput

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/culvertgate/culvert/internal/testkit"
)

// without returns the offer without the lines that begin with prefix.
func without(prefix string) string { return withoutLines(offer, prefix) }

func withoutLines(text, prefix string) string {
	var kept strings.Builder
	for line := range strings.Lines(text) {
		if !strings.HasPrefix(line, prefix) {
			kept.WriteString(line)
		}
	}
	return kept.String()
}

// replace returns the offer with other words in one place.
func replace(old, with string) string {
	if !strings.Contains(offer, old) {
		panic("the offer has no " + old)
	}
	return strings.Replace(offer, old, with, 1)
}

var (
	digests   = regexp.MustCompile(`sha-256 [0-9A-F:]+`)
	passwords = regexp.MustCompile(`a=ice-pwd:\S+`)
)

// answer is what came back.
type answer struct {
	status int
	header http.Header
	body   string
}

// problem is the problem document of an answer (RFC 9457).
type problem struct {
	Type, Title, Detail, Code, Fault string
	Status                           int
}

// send sends one request. Header lines are "Name: value".
func (w *world) send(from, who, methodAndPath, headers, body string) (answer, error) {
	method, path, _ := strings.Cut(methodAndPath, " ")
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, "http://"+w.site[from]+path, strings.NewReader(body))
	if err != nil {
		return answer{}, err
	}
	if body == "" {
		req.Body = http.NoBody
	}
	if who != nobody {
		req.Header.Set("X-User", who)
	}
	for line := range strings.Lines(headers) {
		name, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ": ")
		switch name {
		case "Host":
			req.Host = value
		case "Transfer-Encoding":
			req.ContentLength = -1
		default:
			req.Header.Add(name, value)
		}
	}
	client := *w.client[from]
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	res, err := client.Do(req)
	if err != nil {
		return answer{}, err
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	return answer{res.StatusCode, res.Header, string(text)}, err
}

// place is a session's URL and its ETag.
type place struct{ path, tag string }

// fresh has the gateway answer the good offer of nobody in particular.
func (w *world) fresh(who string) (place, error) {
	a, err := w.send(near, who, "POST /tunnel", sdp, offer)
	if err == nil && a.status != http.StatusCreated {
		err = fmt.Errorf("a good offer was answered %d %s", a.status, a.body)
	}
	return place{a.header.Get("Location"), a.header.Get("ETag")}, err
}

// end takes a session back.
func (w *world) end(t *testing.T, who string, p place) {
	t.Helper()
	a, err := w.send(near, who, "DELETE "+p.path, "", "")
	check(t, err)
	if a.status != http.StatusOK {
		t.Errorf("DELETE of a session: %d %s", a.status, a.body)
	}
}

// request runs a row.
func (w *world) request(t *testing.T, r request) {
	before := w.mustTunnels(t)
	trap, err := w.net.ListenPacket("udp", "127.0.0.1:9003")
	check(t, err)
	defer trap.Close()
	open := w.bystander.place
	names := []string{"{open}", open.path, "{tag}", open.tag, "{other}", strings.Replace(open.path, "/tunnel/", "/other/", 1)}
	var fresh place
	if strings.Contains(r.send, "{fresh}") {
		fresh, err = w.fresh(r.who)
		check(t, err)
		names = append(names, "{fresh}", fresh.path, "{freshtag}", fresh.tag)
	}
	fill := strings.NewReplacer(names...).Replace
	a, err := w.send(r.from, r.who, fill(r.send), fill(r.headers), r.body)
	check(t, err)
	w.judge(t, r, a)
	if r.left == handshake {
		i, err := w.newcomer(before)
		check(t, err)
		if i.State != "connecting" || i.Identity != r.who {
			t.Errorf("the tunnel is %+v, want one of %s that is connecting", i, r.who)
		}
		fresh = place{path: a.header.Get("Location")}
	} else if r.left != nothing {
		t.Fatal("the row does not say what is left")
	}
	if fresh.path != "" {
		w.end(t, r.who, fresh)
	}
	w.left(t, before)
	silent(t, trap)
}

// judge compares an answer with its row.
func (w *world) judge(t *testing.T, r request, a answer) {
	t.Helper()
	if a.status != r.status {
		t.Errorf("status %d, want %d: %s", a.status, r.status, a.body)
	}
	if name, value, ok := strings.Cut(r.header, ": "); ok && a.header.Get(name) != value {
		t.Errorf("%s is %q, want %q", name, a.header.Get(name), value)
	}
	if r.code == "" {
		return
	}
	p, err := readProblem(a)
	check(t, err)
	if p.Code != r.code || p.Fault != "client" && p.Fault != "policy" {
		t.Errorf("code %s, fault of the %s; want %s: %s", p.Code, p.Fault, r.code, a.body)
	}
	if cors := a.header.Get("Access-Control-Allow-Origin"); p.Code == "forbidden_origin" && cors != "" {
		t.Errorf("a foreign page may read the answer: Access-Control-Allow-Origin is %q", cors)
	}
}

// readProblem reads a problem document, which repeats the status and no secret.
func readProblem(a answer) (problem, error) {
	var p problem
	if media := a.header.Get("Content-Type"); media != "application/problem+json" {
		return p, fmt.Errorf("the answer %d is of type %q: %s", a.status, media, a.body)
	}
	if err := json.Unmarshal([]byte(a.body), &p); err != nil {
		return p, err
	}
	if p.Status != a.status || p.Title == "" || !strings.HasSuffix(p.Type, "#"+p.Code) || strings.Contains(a.body, "P2uYro0UCO") {
		return p, fmt.Errorf("the problem document is incomplete, or tells a password: %s", a.body)
	}
	return p, nil
}

// silent fails the test when a packet has come. A gateway that uses a candidate
// checks it at once, long before the tunnel is gone again.
func silent(t *testing.T, trap net.PacketConn) {
	t.Helper()
	check(t, trap.SetReadDeadline(time.Now().Add(time.Millisecond)))
	if n, from, err := trap.ReadFrom(make([]byte, 1500)); err == nil {
		t.Errorf("%v sent %d bytes to a client's candidate", from, n)
	}
}

// generatedOffers damages the good offer at random. Whatever becomes of it, the
// answer is 201 or a client's fault.
func (w *world) generatedOffers(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	dice := rand.New(rand.NewPCG(seed, 10))
	before := w.mustTunnels(t)
	answers := map[int]int{}
	for range 300 {
		body := damaged(dice)
		a, err := w.send(near, alice, "POST /tunnel", sdp, body)
		check(t, err)
		answers[a.status]++
		switch a.status {
		case http.StatusCreated:
			w.end(t, alice, place{path: a.header.Get("Location")})
			w.left(t, before)
		case http.StatusBadRequest, http.StatusUnprocessableEntity:
			if p, err := readProblem(a); err != nil || p.Code != "bad_offer" {
				t.Errorf("%+v, %v", p, err)
			}
		default:
			t.Errorf("%d %s\nto %q", a.status, a.body, body)
		}
	}
	if answers[http.StatusCreated] == 0 || answers[http.StatusBadRequest] == 0 {
		t.Errorf("answers %v: the damage is too great or too small", answers)
	}
	w.left(t, before)
}

// damaged changes the good offer in one to three places: bytes, lines, order.
func damaged(dice *rand.Rand) string {
	b := []byte(offer + candidate)
	for range 1 + dice.IntN(3) {
		lines := bytes.SplitAfter(b, []byte("\n"))
		i, j := dice.IntN(len(lines)), dice.IntN(len(lines))
		switch at := dice.IntN(len(b)); dice.IntN(6) {
		case 0:
			b[at] = byte(dice.IntN(256))
		case 1:
			b = append(b[:at:at], b[min(len(b), at+dice.IntN(20)):]...)
		case 2:
			b = append(b[:at:at], append(bytes.Repeat([]byte{byte(dice.IntN(256))}, dice.IntN(300)), b[at:]...)...)
		case 3:
			lines[i], lines[j] = lines[j], lines[i]
			b = bytes.Join(lines, nil)
		case 4:
			b = append(b, lines[i]...)
		default:
			lines[i] = nil
			b = bytes.Join(lines, nil)
		}
		if len(b) == 0 {
			return "v"
		}
	}
	return string(b)
}

// limits has a client ask for more than it may: nothing is made for what is
// beyond, and what never connects is gone after timeouts.connect.
func (w *world) limits(t *testing.T) {
	const perClient = 8 // the default of limits.handshakes_per_client
	before := w.mustTunnels(t)
	started := time.Now()
	var first place
	for i := range perClient {
		p, err := w.fresh(carol)
		check(t, err)
		if i == 0 {
			first = p
		}
	}
	a, err := w.send(near, carol, "POST /tunnel", sdp, offer)
	check(t, err)
	p, err := readProblem(a)
	check(t, err)
	after, _ := strconv.Atoi(a.header.Get("Retry-After"))
	if a.status != http.StatusTooManyRequests || p.Code != "too_many_tunnels" || p.Fault == "gateway" || after < 1 {
		t.Errorf("one offer too many: %d %s, Retry-After %q", a.status, a.body, a.header.Get("Retry-After"))
	}
	if n := len(w.mustTunnels(t)) - len(before); n > perClient {
		t.Errorf("%d tunnels are being set up, want at most %d", n, perClient)
	}
	// All candidates of a session count, in how many messages they may come.
	for n, want := range []int{http.StatusNoContent, http.StatusBadRequest} {
		a, err := w.send(near, carol, "PATCH "+first.path, fragment+"If-Match: "+first.tag+"\n", section+strings.Repeat(candidate, 64-n*63))
		check(t, err)
		if a.status != want {
			t.Errorf("message %d of candidates: %d %s, want %d", n, a.status, a.body, want)
		}
	}
	testkit.Eventually(t, connectTimeout+patience, func() error {
		now, err := w.tunnels()
		if err == nil && len(now) != len(before) {
			err = fmt.Errorf("%d tunnels, want %d", len(now), len(before))
		}
		return err
	})
	if took := time.Since(started); took < connectTimeout {
		t.Errorf("the handshakes were given up after %v, want %v", took, connectTimeout)
	}
	w.left(t, before)
}
