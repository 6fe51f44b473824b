package integration

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/culvertgate/culvert/framecodec"
	"github.com/culvertgate/culvert/tunnel"
	"github.com/culvertgate/culvert/tunnel/rtc"
)

// kept is a gateway whose storage is a folder, with options of its endpoint. Who
// X-User does not name is nobody.
func kept(folder, options string) string {
	return global("", "\tstorage file_system "+folder+"\n") + users(options)
}

// adminJSON asks the admin API and wants a status.
func adminJSON(t *testing.T, method, path string, body any, want int, v any) {
	t.Helper()
	text := ""
	if body != nil {
		raw, err := json.Marshal(body)
		if err != nil {
			t.Fatal(err)
		}
		text = string(raw)
	}
	if got := admin(t, method, "/webrtc_tunnel"+path, text, v); got != want {
		t.Fatalf("%s %s %s: status %d, want %d", method, path, text, got, want)
	}
}

type values map[string]any

// refusedOffer makes a tunnel and wants the gateway to refuse it.
func refusedOffer(t *testing.T, header http.Header, want framecodec.Code) {
	t.Helper()
	p, err := tryConnect(t.Context(), siteURL, header)
	if err == nil {
		p.close()
	}
	if tunnel.CodeOf(err) != want {
		t.Errorf("an offer as %v: %v, want %v", header, err, want)
	}
}

// TestBlocks: an identity that is kept out loses its tunnels and gets none, over
// reloads and restarts, until the end or until it is taken back.
func TestBlocks(t *testing.T) {
	folder := t.TempDir()
	config := kept(folder, "target echo tcp/"+echoServer(t))
	start(t, config)
	alice, bob := connect(t, siteURL, user("alice")), connect(t, siteURL, user("bob"))
	conn, err := alice.open("echo")
	if err != nil {
		t.Fatal(err)
	}
	adminJSON(t, http.MethodPost, "/blocks", values{"endpoint": "gw", "identity": "alice"}, http.StatusCreated, nil)
	select {
	case <-alice.session.Done():
		wantCode(t, alice.session.Err(), framecodec.CodeClosedByAdmin)
	case <-time.After(long):
		t.Fatal("alice's tunnel goes on")
	}
	_ = conn.Close()
	refusedOffer(t, user("alice"), framecodec.CodeNotAllowed)
	if c, err := bob.open("echo"); err != nil || pingPong(c) != nil {
		t.Errorf("bob is kept out too: %v", err)
	}
	if got := explain(t, "alice", "echo"); got.Code != framecodec.CodeNotAllowed || got.Rule.List != "blocks" {
		t.Errorf("explain says %+v", got)
	}
	for _, step := range []string{"a reload", "a restart"} {
		if step == "a restart" {
			if err := load(bare); err != nil {
				t.Fatal(err)
			}
		}
		if err := load(strings.Replace(config, "target echo", "target more tcp/127.0.0.1:9\ntarget echo", 1)); err != nil {
			t.Fatal(err)
		}
		var list []struct{ Endpoint, Identity string }
		adminJSON(t, http.MethodGet, "/blocks", nil, http.StatusOK, &list)
		if len(list) != 1 || list[0].Identity != "alice" {
			t.Errorf("behind %s: %v", step, list)
		}
		refusedOffer(t, user("alice"), framecodec.CodeNotAllowed)
	}
	what := "/blocks?" + url.Values{"endpoint": {"gw"}, "identity": {"alice"}}.Encode()
	adminJSON(t, http.MethodDelete, what, nil, http.StatusNoContent, nil)
	adminJSON(t, http.MethodDelete, what, nil, http.StatusNotFound, nil)
	connect(t, siteURL, user("alice"))
	// One with an end.
	adminJSON(t, http.MethodPost, "/blocks", values{"endpoint": "gw", "identity": "carol", "until": time.Now().Add(2 * time.Second)}, http.StatusCreated, nil)
	refusedOffer(t, user("carol"), framecodec.CodeNotAllowed)
	eventually(t, func() error {
		p, err := tryConnect(t.Context(), siteURL, user("carol"))
		if err == nil {
			p.close()
		}
		return err
	})
	for name, test := range map[string]struct {
		body values
		want int
	}{
		"no endpoint": {values{"endpoint": "nosuch", "identity": "x"}, http.StatusNotFound},
		"no identity": {values{"endpoint": "gw"}, http.StatusBadRequest},
		"over":        {values{"endpoint": "gw", "identity": "x", "until": time.Now().Add(-time.Second)}, http.StatusBadRequest},
		"a typo":      {values{"endpoint": "gw", "identity": "x", "til": time.Now()}, http.StatusBadRequest},
	} {
		t.Log(name)
		adminJSON(t, http.MethodPost, "/blocks", test.body, test.want, nil)
	}
}

// TestBytesPerDay: who has used up the bytes of the day loses the streams and gets
// none, also behind a restart; others go on.
func TestBytesPerDay(t *testing.T) {
	folder := t.TempDir()
	config := kept(folder, "target echo tcp/"+echoServer(t)+"\nlimits {\nbytes_per_day 4MiB\n}")
	start(t, config)
	alice, bob := connect(t, siteURL, user("alice")), connect(t, siteURL, user("bob"))
	conn, err := alice.open("echo")
	if err != nil {
		t.Fatal(err)
	}
	go func() { _, _ = conn.Write(make([]byte, 64<<20)) }()
	_ = conn.SetReadDeadline(time.Now().Add(long))
	buf := make([]byte, 1<<16)
	for err == nil {
		_, err = conn.Read(buf)
	}
	wantCode(t, err, framecodec.CodeQuotaExceeded)
	if _, err := alice.open("echo"); tunnel.CodeOf(err) != framecodec.CodeQuotaExceeded {
		t.Errorf("another stream: %v", err)
	}
	refusedOffer(t, user("alice"), framecodec.CodeQuotaExceeded)
	if got := explain(t, "alice", "echo"); got.Code != framecodec.CodeQuotaExceeded || got.Rule.List != "limits.bytes_per_day" {
		t.Errorf("explain says %+v", got)
	}
	if c, err := bob.open("echo"); err != nil || pingPong(c) != nil {
		t.Errorf("bob's quota: %v", err)
	}
	if err := load(bare); err != nil { // what was counted is written
		t.Fatal(err)
	}
	files, _ := filepath.Glob(filepath.Join(folder, "webrtc_tunnel", "usage", "*.json"))
	if len(files) != 1 {
		t.Fatalf("%q in storage", files)
	}
	if raw, err := os.ReadFile(files[0]); err != nil || !strings.Contains(string(raw), `"identity":"alice"`) {
		t.Errorf("%s, %v", raw, err)
	}
	if err := load(config); err != nil {
		t.Fatal(err)
	}
	refusedOffer(t, user("alice"), framecodec.CodeQuotaExceeded)
	connect(t, siteURL, user("bob"))
	if err := load(strings.Replace(config, "4MiB", "4GiB", 1)); err != nil {
		t.Fatal(err)
	}
	connect(t, siteURL, user("alice"))
}

// madeTicket is what the admin API answers.
type madeTicket struct {
	ID, Ticket, URL, Target string
	Uses                    int
	Until                   time.Time
}

func makeTicket(t *testing.T, body values) madeTicket {
	t.Helper()
	raw, err := json.Marshal(body)
	if err != nil {
		t.Fatal(err)
	}
	req, _ := http.NewRequest(http.MethodPost, adminURL+"/webrtc_tunnel/tickets", bytes.NewReader(raw))
	res, err := patiently(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	var made madeTicket // the one answer that shows it, so it is not told
	if err := json.NewDecoder(res.Body).Decode(&made); err != nil || res.StatusCode != http.StatusCreated {
		t.Fatalf("POST tickets %s: status %d, %v", raw, res.StatusCode, err)
	}
	secret("a ticket", made.Ticket)
	return made
}

func bearer(token string) http.Header { return http.Header{"Authorization": {"Bearer " + token}} }

const ticketKey = "a key for tickets of at least 32 bytes"

// TestTickets: a ticket opens its target and nothing else, as often and as long as
// it says.
func TestTickets(t *testing.T) {
	folder, echo := t.TempDir(), echoServer(t)
	options := "target echo tcp/" + echo + " {\nusers alice\n}\ntarget other tcp/" + echo + "\ndynamic {\nallow tcp/" + echo + "\n}\ntickets {\nkey \"" + ticketKey + "\"\n}"
	config := kept(folder, options)
	start(t, config)
	made := makeTicket(t, values{"endpoint": "gw", "target": "echo", "expires_in": "1h", "uses": 2, "url": "https://gw.example.com/tunnel"})
	if made.Uses != 2 || made.Target != "echo" || made.URL != "https://gw.example.com/tunnel#ticket="+made.Ticket {
		t.Errorf("made %+v", made)
	}
	p := connect(t, siteURL, bearer(made.Ticket))
	if c, err := p.open("echo"); err != nil || pingPong(c) != nil {
		t.Errorf("the target of the ticket: %v", err)
	}
	for _, target := range []string{"other", "tcp/" + echo, "nosuch"} {
		if _, err := p.open(target); tunnel.CodeOf(err) != framecodec.CodeNotAllowed {
			t.Errorf("%s by a ticket: %v", target, err)
		}
		if got := explain(t, "ticket:"+made.ID, target); got.Code != framecodec.CodeNotAllowed || got.Rule.List != "tickets" {
			t.Errorf("explain %s says %+v", target, got)
		}
	}
	if got := explain(t, "ticket:"+made.ID, "echo"); !got.Allowed {
		t.Errorf("explain says %+v", got)
	}
	listing := func() (list struct{ Targets []struct{ Name string } }) {
		req, _ := http.NewRequest(http.MethodGet, siteURL+"/targets", nil)
		req.Header = bearer(made.Ticket)
		res, err := patiently(req)
		if err != nil {
			t.Fatal(err)
		}
		decode(t, res, &list)
		return list
	}
	if list := listing(); len(list.Targets) != 1 || list.Targets[0].Name != "echo" {
		t.Errorf("its targets: %+v", list)
	}
	for _, one := range tunnels(t, "gateway") {
		if one.Identity != "ticket:"+made.ID {
			t.Errorf("the identity is %q", one.Identity)
		}
	}
	connect(t, siteURL, bearer(made.Ticket))
	refusedOffer(t, bearer(made.Ticket), framecodec.CodeTicketUsed)
	// Altered, of another key, of another endpoint, none at all.
	altered := []byte(makeTicket(t, values{"endpoint": "gw", "target": "echo"}).Ticket)
	altered[len(altered)/2] ^= 1
	refusedOffer(t, bearer(string(altered)), framecodec.CodeTicketInvalid)
	refusedOffer(t, bearer("nonsense"), framecodec.CodeTicketInvalid)
	refusedOffer(t, bearer(strings.Repeat("x", 5000)), framecodec.CodeTicketInvalid)
	refusedOffer(t, http.Header{}, framecodec.CodeUnauthenticated)
	// Over, also for a tunnel that runs.
	short := makeTicket(t, values{"endpoint": "gw", "target": "echo", "expires_in": "2s"})
	q := connect(t, siteURL, bearer(short.Ticket))
	select {
	case <-q.session.Done():
		wantCode(t, q.session.Err(), framecodec.CodeTicketExpired)
	case <-time.After(long):
		t.Error("the tunnel outlives its ticket")
	}
	refusedOffer(t, bearer(short.Ticket), framecodec.CodeTicketExpired)
	// Revoked.
	gone := makeTicket(t, values{"endpoint": "gw", "target": "echo", "uses": 10})
	q = connect(t, siteURL, bearer(gone.Ticket))
	adminJSON(t, http.MethodDelete, "/tickets/"+gone.ID, nil, http.StatusNoContent, nil)
	select {
	case <-q.session.Done():
		wantCode(t, q.session.Err(), framecodec.CodeClosedByAdmin)
	case <-time.After(long):
		t.Error("the tunnel outlives its ticket's revocation")
	}
	refusedOffer(t, bearer(gone.Ticket), framecodec.CodeTicketInvalid)
	adminJSON(t, http.MethodDelete, "/tickets/nosuch", nil, http.StatusNotFound, nil)
	var list []struct {
		ID      string
		Used    int
		Revoked bool
	}
	adminJSON(t, http.MethodGet, "/tickets", nil, http.StatusOK, &list)
	for _, one := range list {
		if one.ID == made.ID && one.Used != 2 || one.Revoked != (one.ID == gone.ID) {
			t.Errorf("listed as %+v", one)
		}
	}
	// Counts and revocations survive a restart; another key takes none of them.
	if err := load(bare); err != nil {
		t.Fatal(err)
	}
	if err := load(config); err != nil {
		t.Fatal(err)
	}
	refusedOffer(t, bearer(made.Ticket), framecodec.CodeTicketUsed)
	refusedOffer(t, bearer(gone.Ticket), framecodec.CodeTicketInvalid)
	fresh := makeTicket(t, values{"endpoint": "gw", "target": "echo", "uses": 5})
	if err := load(strings.Replace(config, ticketKey, "another "+ticketKey, 1)); err != nil {
		t.Fatal(err)
	}
	refusedOffer(t, bearer(fresh.Ticket), framecodec.CodeTicketInvalid)
}

// offered asks an endpoint, as a client does before its offer, for ICE servers and
// targets.
func offered(t *testing.T, header http.Header) (servers []string, targets int, status int) {
	t.Helper()
	ask := func(method, url string) *http.Response {
		req, err := http.NewRequest(method, url, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header = header
		res, err := patiently(req)
		if err != nil {
			t.Fatal(err)
		}
		return res
	}
	res := ask(http.MethodOptions, siteURL)
	res.Body.Close()
	if res.StatusCode != http.StatusNoContent {
		t.Errorf("OPTIONS: status %d", res.StatusCode)
	}
	for _, link := range res.Header.Values("Link") {
		if strings.Contains(link, `rel="ice-server"`) {
			servers = append(servers, link)
		}
	}
	var list struct{ Targets []struct{ Name string } }
	res = ask(http.MethodGet, siteURL+"/targets")
	decode(t, res, &list)
	return servers, len(list.Targets), res.StatusCode
}

// TestNothingForWhoIsRefused: whose offers are refused by a block, a quota, or a ticket
// or credential that is over is told no TURN credentials and no targets, which would serve as long
// as the gateway's secret.
func TestNothingForWhoIsRefused(t *testing.T) {
	start(t, global("\t\tice_server turn:127.0.0.1:5349 {\n\t\t\tsecret for-turn\n\t\t}", "\tstorage file_system "+t.TempDir()+"\n")+
		users("target echo tcp/"+echoServer(t)+"\nlimits {\nbytes_per_day 1MiB\n}\nexpires {http.request.header.X-Expires}\ntickets {\nkey \""+ticketKey+"\"\n}"))
	ticket := func(uses int) madeTicket {
		return makeTicket(t, values{"endpoint": "gw", "target": "echo", "uses": uses})
	}
	everything := func(who string, header http.Header) {
		t.Helper()
		if servers, targets, status := offered(t, header); len(servers) != 1 || targets != 1 || status != http.StatusOK {
			t.Errorf("%s: %d ICE servers, %d targets, status %d", who, len(servers), targets, status)
		}
	}
	nothing := func(who string, header http.Header, want int) {
		t.Helper()
		if servers, targets, status := offered(t, header); len(servers) != 0 || targets != 0 || status != want {
			t.Errorf("%s: %d ICE servers, %d targets, status %d, want none and %d", who, len(servers), targets, status, want)
		}
	}
	everything("alice", user("alice"))
	adminJSON(t, http.MethodPost, "/blocks", values{"endpoint": "gw", "identity": "alice"}, http.StatusCreated, nil)
	nothing("alice, kept out", user("alice"), http.StatusForbidden)

	bob := connect(t, siteURL, user("bob"))
	everything("bob", user("bob"))
	conn, err := bob.open("echo")
	if err != nil {
		t.Fatal(err)
	}
	go func() { _, _ = conn.Write(make([]byte, 8<<20)) }()
	_ = conn.SetReadDeadline(time.Now().Add(long))
	for buf := make([]byte, 1<<16); err == nil; {
		_, err = conn.Read(buf)
	}
	wantCode(t, err, framecodec.CodeQuotaExceeded)
	nothing("bob, whose quota is used up", user("bob"), http.StatusTooManyRequests)

	revoked := ticket(9)
	everything("a ticket", bearer(revoked.Ticket))
	adminJSON(t, http.MethodDelete, "/tickets/"+revoked.ID, nil, http.StatusNoContent, nil)
	nothing("a revoked ticket", bearer(revoked.Ticket), http.StatusForbidden)

	once := ticket(1)
	p := connect(t, siteURL, bearer(once.Ticket))
	everything("a ticket whose only tunnel runs", bearer(once.Ticket)) // an ICE restart needs servers
	p.close()
	eventually(t, func() error {
		if n := len(tunnels(t, "gateway")); n > 1 { // bob's
			return fmt.Errorf("%d tunnels", n)
		}
		return nil
	})
	nothing("a ticket that is used up", bearer(once.Ticket), http.StatusForbidden)

	over := user("carol")
	over.Set("X-Expires", "1700000000")
	nothing("carol, whose credential is over", over, http.StatusUnauthorized)
}

// TestTicketRefusals: what cannot be made is said, by the admin API and at load.
func TestTicketRefusals(t *testing.T) {
	start(t, kept(t.TempDir(), "target echo tcp/127.0.0.1:9\ntickets {\nkey \""+ticketKey+"\"\n}"))
	for name, test := range map[string]struct {
		body values
		want int
	}{
		"no endpoint":    {values{"endpoint": "nosuch", "target": "echo"}, http.StatusNotFound},
		"no target":      {values{"endpoint": "gw"}, http.StatusBadRequest},
		"a wrong target": {values{"endpoint": "gw", "target": "nosuch"}, http.StatusBadRequest},
		"an address":     {values{"endpoint": "gw", "target": "tcp/10.0.0.1:22"}, http.StatusBadRequest},
		"uses":           {values{"endpoint": "gw", "target": "echo", "uses": -1}, http.StatusBadRequest},
		"over":           {values{"endpoint": "gw", "target": "echo", "until": time.Now().Add(-time.Hour)}, http.StatusBadRequest},
		"two ends":       {values{"endpoint": "gw", "target": "echo", "until": time.Now().Add(time.Hour), "expires_in": "1h"}, http.StatusBadRequest},
		"no time":        {values{"endpoint": "gw", "target": "echo", "expires_in": "soon"}, http.StatusBadRequest},
		"a wrong url":    {values{"endpoint": "gw", "target": "echo", "url": "gw.example.com"}, http.StatusBadRequest},
	} {
		t.Log(name)
		adminJSON(t, http.MethodPost, "/tickets", test.body, test.want, nil)
	}
	if err := load(kept(t.TempDir(), "target echo tcp/127.0.0.1:9")); err != nil {
		t.Fatal(err)
	}
	adminJSON(t, http.MethodPost, "/tickets", values{"endpoint": "gw", "target": "echo"}, http.StatusConflict, nil)
	for options, want := range map[string]string{
		"tickets":                            "key is missing",
		"tickets {\nkey short\n}":            "at least 32 are needed",
		"tickets {\nkey {env.NOT_SET_AT}\n}": "tickets: key",
	} {
		if err := load(kept(t.TempDir(), options)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", options, fmt.Sprint(err), want)
		}
	}
}

// TestTicketsOfAnotherKey: a reload that changes the key, or takes tickets away, ends
// the tunnels of tickets and no others; any other reload ends none.
func TestTicketsOfAnotherKey(t *testing.T) {
	folder, echo := t.TempDir(), echoServer(t)
	with := func(key string) string {
		return kept(folder, "target echo tcp/"+echo+"\ntickets {\nkey \""+key+"\"\n}")
	}
	for name, next := range map[string]string{
		"another key": with("another " + ticketKey),
		"no tickets":  kept(folder, "target echo tcp/"+echo),
	} {
		t.Run(name, func(t *testing.T) {
			start(t, with(ticketKey))
			made := makeTicket(t, values{"endpoint": "gw", "target": "echo", "expires_in": "720h"})
			alice, p := connect(t, siteURL, user("alice")), connect(t, siteURL, bearer(made.Ticket))
			if err := load(strings.Replace(with(ticketKey), "target echo", "target more tcp/127.0.0.1:9\ntarget echo", 1)); err != nil {
				t.Fatal(err)
			}
			for who, one := range map[string]*peer{"alice": alice, "the ticket": p} {
				if c, err := one.open("echo"); err != nil || pingPong(c) != nil {
					t.Errorf("%s behind a reload that is not their affair: %v", who, err)
				}
			}
			if err := load(next); err != nil {
				t.Fatal(err)
			}
			select {
			case <-p.session.Done():
				wantCode(t, p.session.Err(), framecodec.CodePolicyChanged)
			case <-time.After(long):
				t.Error("the tunnel outlives the key of its ticket")
			}
			if c, err := alice.open("echo"); err != nil || pingPong(c) != nil {
				t.Errorf("alice has no ticket: %v", err)
			}
		})
	}
}

// TestTicketWithoutName: who holds a ticket names no target, and gets the ticket's, be
// it a service that a client exposes; what becomes of that is the ticket's target's
// affair, not that of default_target.
func TestTicketWithoutName(t *testing.T) {
	nameless := tunnel.Target{Kind: tunnel.KindNamed}
	t.Run("a service", func(t *testing.T) {
		config := exposing("allow sshd {\nusers bob\n}", remoteOf("bob", "sshd tcp/"+echoServer(t)), "webrtc_tunnel local "+bobsService)
		start(t, strings.Replace(config, "\t\tname gw\n", "\t\tname gw\ntickets {\nkey \""+ticketKey+"\"\n}\n", 1))
		p := connect(t, siteURL, bearer(makeTicket(t, values{"endpoint": "gw", "target": bobsService}).Ticket))
		eventually(t, func() error { // bob's tunnel is on its way
			if code := openCode(p, nameless); code != framecodec.CodeNormal {
				return errors.New(code.String())
			}
			return nil
		})
	})
	t.Run("datagrams", func(t *testing.T) {
		start(t, kept(t.TempDir(), "target dns udp/"+echoUDP(t)+"\ntickets {\nkey \""+ticketKey+"\"\n}"))
		p := connect(t, siteURL, bearer(makeTicket(t, values{"endpoint": "gw", "target": "dns"}).Ticket))
		if err := p.rtc.OpenChannel(datagramChannel); err != nil {
			t.Fatal(err)
		}
		conn, ep := tunnel.NewDatagramConn(tunnel.Addr{}, tunnel.Addr{})
		ctx, cancel := context.WithTimeout(t.Context(), long)
		defer cancel()
		if _, err := p.session.Open(ctx, tunnel.Target{Kind: tunnel.KindNamedDatagram}, ep); err != nil {
			t.Fatal(err)
		}
		if err := askUDP(conn, []byte("hello")); err != nil {
			t.Error(err)
		}
		_ = conn.Close()
	})
	t.Run("its breaker", func(t *testing.T) {
		start(t, kept(t.TempDir(), "default_target echo\ntarget echo tcp/"+echoServer(t)+"\ntarget press tcp/127.0.0.1:9\ntickets {\nkey \""+ticketKey+"\"\n}"))
		p := connect(t, siteURL, bearer(makeTicket(t, values{"endpoint": "gw", "target": "press"}).Ticket))
		var codes []framecodec.Code
		for range 10 {
			codes = append(codes, openCode(p, nameless))
		}
		if codes[0] != framecodec.CodeRefused || codes[9] != framecodec.CodeBreakerOpen {
			t.Errorf("the ticket's target is answered with %v", codes)
		}
		if code := openCode(p, tunnel.Target{Kind: tunnel.KindNamed, Host: "press"}); code != framecodec.CodeBreakerOpen {
			t.Errorf("by its name: %v", code)
		}
		alice := connect(t, siteURL, user("alice"))
		for _, target := range []tunnel.Target{nameless, {Kind: tunnel.KindNamed, Host: "echo"}} {
			if code := openCode(alice, target); code != framecodec.CodeNormal {
				t.Errorf("alice's open of %q: %v", target.Host, code)
			}
		}
	})
}

// TestTicketUseIsGivenBack: a use is a tunnel that was made, not an offer that failed.
func TestTicketUseIsGivenBack(t *testing.T) {
	start(t, global("\t\ttimeouts {\n\t\t\tconnect 1s\n\t\t}", "\tstorage file_system "+t.TempDir()+"\n")+
		users("target echo tcp/"+echoServer(t)+"\ntickets {\nkey \""+ticketKey+"\"\n}"))
	made := makeTicket(t, values{"endpoint": "gw", "target": "echo"})
	client := newSignal(t, bearer(made.Ticket))
	if _, err := client.Offer(t.Context(), "v=0 nonsense", ""); tunnel.CodeOf(err) != framecodec.CodeBadOffer {
		t.Fatalf("an offer that is none: %v", err)
	}
	// A client whose UDP comes to nothing: it has the answer, and does not accept it.
	dialer := rtc.NewDialer(rtc.DialerConfig{Loopback: true, ListenAddress: "127.0.0.1:0"})
	deaf, offer, err := dialer.Offer(t.Context(), []rtc.ChannelSpec{{Label: "tunnel", Protocol: "culvert.2"}}, nil, rtc.Handler{})
	if err != nil {
		t.Fatal(err)
	}
	defer deaf.Close(framecodec.CodeTunnelClosed)
	if _, err := client.Offer(t.Context(), offer, ""); err != nil {
		t.Fatal(err)
	}
	refusedOffer(t, bearer(made.Ticket), framecodec.CodeTicketUsed) // it may come to something yet
	var p *peer
	eventually(t, func() (err error) {
		p, err = tryConnect(t.Context(), siteURL, bearer(made.Ticket))
		return err
	})
	p.close()
	refusedOffer(t, bearer(made.Ticket), framecodec.CodeTicketUsed)
}

// TestTicketRecords: a record that cannot be read is skipped, and the others are listed,
// the newest first.
func TestTicketRecords(t *testing.T) {
	folder := t.TempDir()
	start(t, kept(folder, "target echo tcp/"+echoServer(t)+"\ntickets {\nkey \""+ticketKey+"\"\n}"))
	var want, got []string
	for i := range 4 {
		if i > 0 { // what is listed goes by the second
			from := time.Now().Unix()
			eventually(t, func() error {
				if time.Now().Unix() == from {
					return errors.New("the same second")
				}
				return nil
			})
		}
		want = append([]string{makeTicket(t, values{"endpoint": "gw", "target": "echo"}).ID}, want...)
	}
	if err := os.WriteFile(filepath.Join(folder, "webrtc_tunnel", "tickets", "aaaa.json"), []byte(`{"id":`), 0o600); err != nil {
		t.Fatal(err)
	}
	var list []struct{ ID string }
	adminJSON(t, http.MethodGet, "/tickets", nil, http.StatusOK, &list)
	for _, one := range list {
		got = append(got, one.ID)
	}
	if !slices.Equal(got, want) {
		t.Errorf("listed %q, want %q", got, want)
	}
}
