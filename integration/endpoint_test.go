package integration

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"strings"
	"testing"

	"github.com/culvertgate/culvert/framecodec"
	"github.com/culvertgate/culvert/tunnel"
	"github.com/culvertgate/culvert/tunnel/rtc"
)

// request sends a request as somebody and returns the answer and its body. It
// tries again when the network fails: a server that refuses a body may close
// the connection while it is still being sent.
func request(t *testing.T, method, url string, header http.Header, body string) (res *http.Response, text string) {
	t.Helper()
	client := &http.Client{
		Transport:     watching{oneShot},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	eventually(t, func() error {
		req, err := http.NewRequest(method, url, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		maps.Copy(req.Header, header)
		if res, err = client.Do(req); err != nil {
			return err
		}
		defer res.Body.Close()
		raw, err := io.ReadAll(res.Body)
		text = string(raw)
		return err
	})
	return res, text
}

// wantProblem wants a problem document with a status and code.
func wantProblem(t *testing.T, res *http.Response, body string, status int, code framecodec.Code) {
	t.Helper()
	var problem struct {
		Status int
		Code   framecodec.Code
		Type   string
	}
	if err := json.Unmarshal([]byte(body), &problem); err != nil {
		t.Fatalf("status %d, %q: %v", res.StatusCode, body, err)
	}
	if res.StatusCode != status || problem.Status != status || problem.Code != code || problem.Type == "" || res.Header.Get("Content-Type") != "application/problem+json" {
		t.Errorf("status %d, %s %s; want %d %v", res.StatusCode, res.Header.Get("Content-Type"), body, status, code)
	}
}

// offerOf makes an offer without sending it, and returns its session's URL and
// ETag when it is posted.
func postOffer(t *testing.T, url string, header http.Header) (location, etag string) {
	t.Helper()
	dialer := rtc.NewDialer(rtc.DialerConfig{Loopback: true, ListenAddress: "127.0.0.1:0"})
	p, offer, err := dialer.Offer(t.Context(), []rtc.ChannelSpec{{Protocol: "culvert.2"}}, nil, rtc.Handler{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close(framecodec.CodeTunnelClosed) })
	header = header.Clone()
	if header == nil {
		header = http.Header{}
	}
	header.Set("Content-Type", "application/sdp")
	res, body := request(t, http.MethodPost, url, header, offer)
	if res.StatusCode != http.StatusCreated {
		t.Fatalf("POST: status %d %s", res.StatusCode, body)
	}
	return "http://" + siteAddr + res.Header.Get("Location"), res.Header.Get("ETag")
}

// TestSessionBelongsToItsIdentity: to everybody else it is not there.
func TestSessionBelongsToItsIdentity(t *testing.T) {
	start(t, global("", "")+users("")+site2("webrtc_tunnel /tunnel* {\nname gw2\nidentity {http.request.header.X-User}\n}"))
	location, _ := postOffer(t, siteURL, user("alice"))
	fragment := http.Header{"Content-Type": {"application/trickle-ice-sdpfrag"}, "If-Match": {"*"}}
	elsewhere := strings.Replace(location, siteAddr, "127.0.0.1:9082", 1)
	for name, test := range map[string]struct {
		method, url, body string
	}{
		"PATCH":                    {http.MethodPatch, location, "a=ice-ufrag:abcd\r\n"},
		"DELETE":                   {http.MethodDelete, location, ""},
		"GET":                      {http.MethodGet, location, ""},
		"renew":                    {http.MethodPost, location + "/renew", ""},
		"status":                   {http.MethodGet, location + "/status", ""},
		"another endpoint, DELETE": {http.MethodDelete, elsewhere, ""},
	} {
		t.Run(name, func(t *testing.T) {
			header := user("mallory")
			if strings.HasPrefix(name, "another endpoint") {
				header = user("alice")
			}
			maps.Copy(header, fragment)
			res, body := request(t, test.method, test.url, header, test.body)
			wantProblem(t, res, body, http.StatusNotFound, framecodec.CodeNotFound)
		})
	}
	if res, _ := request(t, http.MethodGet, location, user("alice"), ""); res.StatusCode != http.StatusNoContent {
		t.Errorf("GET by its owner: %d, want 204", res.StatusCode)
	}
	if res, body := request(t, http.MethodGet, location+"/status", user("alice"), ""); res.StatusCode != 200 || !strings.Contains(body, `"state":"connecting"`) {
		t.Errorf("status: %d %s", res.StatusCode, body)
	}
	if res, _ := request(t, http.MethodPost, location+"/renew", user("alice"), ""); res.StatusCode != http.StatusNoContent {
		t.Errorf("renew: %d, want 204", res.StatusCode)
	}
	if res, _ := request(t, http.MethodDelete, location, user("alice"), ""); res.StatusCode != http.StatusOK {
		t.Errorf("DELETE: %d, want 200", res.StatusCode)
	}
	res, body := request(t, http.MethodDelete, location, user("alice"), "")
	wantProblem(t, res, body, http.StatusNotFound, framecodec.CodeNotFound)
}

// TestEndpointAnswers has the answer to each request that makes no tunnel.
func TestEndpointAnswers(t *testing.T) {
	start(t, global("", "")+"http://"+siteAddr+` {
	log
	handle_path /inner* {
		webrtc_tunnel {
			base_path /inner
			name inner
			allow_anonymous
			target there tcp/127.0.0.1:1
		}
	}
	handle {
		webrtc_tunnel /tunnel* {
			name gw
			identity {http.request.header.X-User}
			origin https://app.example.com
			target web tcp/127.0.0.1:1 {
				title "The web"
			}
			target alices tcp/127.0.0.1:2 {
				users alice
			}
		}
		respond "elsewhere" 418
	}
}
`)
	base := "http://" + siteAddr
	for name, test := range map[string]struct {
		method, path string
		header       http.Header
		body         string
		status       int
		code         framecodec.Code // of a problem
		want         string          // in the body otherwise
	}{
		"not ours":                     {"GET", "/tunnelfoo", nil, "", 418, 0, "elsewhere"},
		"above":                        {"GET", "/", nil, "", 418, 0, "elsewhere"},
		"the endpoint":                 {"GET", "/tunnel", user("bob"), "", 308, 0, ""},
		"its index":                    {"GET", "/tunnel/", user("bob"), "", 204, 0, ""},
		"nothing there":                {"GET", "/tunnel/client.js", user("bob"), "", 404, framecodec.CodeNotFound, ""},
		"wrong method":                 {"PUT", "/tunnel", user("bob"), "", 405, framecodec.CodeMethodNotAllowed, ""},
		"nobody":                       {"GET", "/tunnel/targets", nil, "", 401, framecodec.CodeUnauthenticated, ""},
		"targets of bob":               {"GET", "/tunnel/targets", user("bob"), "", 200, 0, `{"targets":[{"name":"web","kind":"stream","title":"The web","usable":true}],"dynamic":false}`},
		"targets of alice":             {"GET", "/tunnel/targets", user("alice"), "", 200, 0, `"name":"alices"`},
		"an offer of a wrong type":     {"POST", "/tunnel", http.Header{"X-User": {"bob"}, "Content-Type": {"text/plain"}}, "v=0", 415, framecodec.CodeUnsupportedMedia, ""},
		"an offer that is none":        {"POST", "/tunnel", http.Header{"X-User": {"bob"}, "Content-Type": {"application/sdp"}}, "hello", 400, framecodec.CodeBadOffer, ""},
		"an offer too large":           {"POST", "/tunnel", http.Header{"X-User": {"bob"}, "Content-Type": {"application/sdp"}}, strings.Repeat("x", 65<<10), 413, framecodec.CodeTooLarge, ""},
		"an unknown target":            {"POST", "/tunnel?target=nosuch", http.Header{"X-User": {"bob"}, "Content-Type": {"application/sdp"}}, "v=0", 404, framecodec.CodeUnknownTarget, ""},
		"another's target":             {"POST", "/tunnel?target=alices", http.Header{"X-User": {"bob"}, "Content-Type": {"application/sdp"}}, "v=0", 403, framecodec.CodeNotAllowed, ""},
		"a foreign origin":             {"POST", "/tunnel", http.Header{"X-User": {"bob"}, "Origin": {"https://evil.example"}}, "", 403, framecodec.CodeForbiddenOrigin, ""},
		"origin null":                  {"POST", "/tunnel", http.Header{"X-User": {"bob"}, "Origin": {"null"}}, "", 403, framecodec.CodeForbiddenOrigin, ""},
		"a listed origin":              {"GET", "/tunnel/targets", http.Header{"X-User": {"bob"}, "Origin": {"https://app.example.com"}}, "", 200, 0, "targets"},
		"forwarded by nobody we trust": {"POST", "/tunnel", http.Header{"X-User": {"bob"}, "X-Forwarded-For": {"192.0.2.1"}, "X-Forwarded-Proto": {"https"}}, "", 403, framecodec.CodeNotAllowed, ""},
		"below handle_path":            {"GET", "/inner/targets", nil, "", 200, 0, `"there"`},
	} {
		t.Run(name, func(t *testing.T) {
			res, body := request(t, test.method, base+test.path, test.header, test.body)
			if test.code != 0 {
				wantProblem(t, res, body, test.status, test.code)
			} else if res.StatusCode != test.status || !strings.Contains(body, test.want) {
				t.Errorf("status %d %q, want %d %q", res.StatusCode, body, test.status, test.want)
			}
		})
	}
	location, _ := postOffer(t, base+"/inner", nil)
	if !strings.HasPrefix(location, base+"/inner/s/") {
		t.Errorf("the session of a handle_path endpoint is at %s", strings.SplitAfter(location, "/s/")[0])
	}
}

// TestTrustedProxy: a proxy that is trusted speaks for its clients: who they
// are, and whether they came by https.
func TestTrustedProxy(t *testing.T) {
	config := strings.Replace(global("", ""), "auto_https off", "auto_https off\n\tservers {\n\t\ttrusted_proxies static 127.0.0.0/8\n\t}", 1)
	start(t, config+users(""))
	offer := func(proto string) http.Header {
		h := user("alice")
		h.Set("Content-Type", "application/sdp")
		h.Set("X-Forwarded-For", "192.0.2.7")
		h.Set("X-Forwarded-Proto", proto)
		return h
	}
	res, body := request(t, http.MethodPost, siteURL, offer("http"), "v=0")
	wantProblem(t, res, body, http.StatusForbidden, framecodec.CodeNotAllowed)
	postOffer(t, siteURL, offer("https"))
	if list := tunnels(t, "gateway"); len(list) != 1 || list[0].ClientIP != "192.0.2.7" {
		t.Errorf("tunnels %+v, want one of 192.0.2.7", list)
	}
}

// TestChannels: a tunnel has one session and one channel for its datagrams; a
// channel that is neither, nor a target, is closed, and the tunnel lives on.
func TestChannels(t *testing.T) {
	echo := echoServer(t)
	start(t, global("", "")+users("target echo tcp/"+echo))
	p, channels := openChannels(t, []rtc.ChannelSpec{
		{Protocol: "culvert.2"}, {Protocol: "culvert.2"}, {Protocol: ""}, {Protocol: "nosuch"},
		{Protocol: "culvert.2.datagrams", Unordered: true}, {Protocol: "culvert.2.datagrams", Unordered: true},
		{Protocol: "culvert.2.datagrams"}, {Protocol: "raw:nosuch"}, {Protocol: "raw:echo"},
	})
	var sessions, ended int
	datagrams := make(chan error, 2)
	for _, ch := range channels {
		switch {
		case ch.Protocol() == "raw:echo":
			if err := ch.WriteMessage([]byte("ping")); err != nil {
				t.Fatal(err)
			}
			if err := ch.Wait(); err != nil {
				t.Errorf("the raw channel: %v", err)
			}
		case ch.Protocol() == "culvert.2" && sessions == 0:
			s := tunnel.NewSession(ch, tunnel.Config{Dialect: tunnel.Dialect2, Role: tunnel.RoleClient})
			select {
			case <-s.Ready():
				sessions++
				p.session = s
			case <-s.Done(): // it was the other one
				ended++
			}
		case ch.Protocol() == "culvert.2.datagrams" && !ch.Ordered():
			go func() { datagrams <- ch.Wait() }()
		default:
			if err := ch.Wait(); err == nil {
				t.Errorf("a channel with protocol %q was taken", ch.Protocol())
			}
			ended++
		}
	}
	if err := <-datagrams; err == nil {
		t.Error("datagrams came that nobody sent")
	}
	if sessions != 1 || ended != 5 {
		t.Fatalf("%d sessions, %d channels ended; want 1 and 5", sessions, ended)
	}
	c, err := p.open("echo")
	if err == nil {
		err = pingPong(c)
	}
	if err != nil {
		t.Errorf("the session beside them: %v", err)
	}
	if len(datagrams) != 0 {
		t.Error("both channels for datagrams were closed")
	}
	p.close()
	if err := <-datagrams; err == nil {
		t.Error("datagrams came that nobody sent")
	}
}

// TestDialectsAdmitted: only those of the configuration.
func TestDialectsAdmitted(t *testing.T) {
	echo := echoServer(t)
	for dialects, protocol := range map[string]string{"dialects 1": "", "dialects 2": "culvert.2", "dialects 1 2": ""} {
		t.Run(dialects, func(t *testing.T) {
			start(t, global("", "")+users("target echo tcp/"+echo+"\ndefault_target echo\n"+dialects))
			_, ch := openChannel(t, protocol, false)
			d := tunnel.Dialect2
			if protocol == "" {
				d = tunnel.Dialect1
			}
			s := tunnel.NewSession(ch, tunnel.Config{Dialect: d, Role: tunnel.RoleClient})
			conn, ep := tunnel.NewConn(tunnel.Addr{}, tunnel.Addr{})
			target := tunnel.Target{Kind: tunnel.KindNamed, Host: "echo"}
			if d == tunnel.Dialect1 {
				target.Host = "" // it can't name one
			}
			if _, err := s.Open(t.Context(), target, ep); err != nil {
				t.Fatal(err)
			}
			if err := pingPong(conn); err != nil {
				t.Error(err)
			}
			s.Close(framecodec.CodeTunnelClosed, "")
			<-s.Done()
		})
	}
	t.Run("not admitted", func(t *testing.T) {
		start(t, global("", "")+users("target echo tcp/"+echo+"\ndefault_target echo"))
		_, ch := openChannel(t, "", false)
		if err := ch.Wait(); err == nil {
			t.Error("a dialect 1 channel was taken")
		}
	})
}

// TestRestart: an ICE restart by the client gets a new ETag; the old one no
// longer holds.
func TestRestart(t *testing.T) {
	echo := echoServer(t)
	start(t, global("", "")+users("target echo tcp/"+echo))
	p := connect(t, siteURL, user("alice"))
	c, err := p.open("echo")
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		f, err := p.rtc.OfferRestart(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		secret("an ICE ufrag", f.Ufrag)
		secret("an ICE pwd", f.Pwd)
		answer, err := p.signal.Restart(t.Context(), f)
		if err != nil {
			t.Fatal(err)
		}
		secret("an ICE pwd", answer.Pwd)
		if err := p.rtc.AcceptRestart(answer); err != nil {
			t.Fatal(err)
		}
		if err := pingPong(c); err != nil {
			t.Fatalf("after the restart: %v", err)
		}
	}
	location, etag := postOffer(t, siteURL, user("alice"))
	candidate := "a=mid:0\r\na=candidate:1 1 UDP 2113929471 192.0.2.1 54609 typ host\r\n"
	header := func(match string) http.Header {
		h := user("alice")
		h.Set("Content-Type", "application/trickle-ice-sdpfrag")
		if match != "" {
			h.Set("If-Match", match)
		}
		return h
	}
	res, body := request(t, http.MethodPatch, location, header(""), candidate)
	wantProblem(t, res, body, http.StatusPreconditionRequired, framecodec.CodePreconditionFailed)
	res, body = request(t, http.MethodPatch, location, header(`"another"`), candidate)
	wantProblem(t, res, body, http.StatusPreconditionFailed, framecodec.CodePreconditionFailed)
	if res, body := request(t, http.MethodPatch, location, header(etag), candidate); res.StatusCode != http.StatusNoContent {
		t.Errorf("a candidate: %d %s, want 204", res.StatusCode, body)
	}
}

// TestEndedTunnelIsGone: its URL, its place in the lists, its limits.
func TestEndedTunnelIsGone(t *testing.T) {
	start(t, global("", "")+users("limits {\ntunnels_per_identity 1\n}"))
	for range 3 {
		p := connect(t, siteURL, user("alice"))
		if err := p.signal.Delete(t.Context()); err != nil {
			t.Fatal(err)
		}
		<-p.session.Done()
		if err := p.signal.Delete(t.Context()); tunnel.CodeOf(err) != framecodec.CodeNotFound {
			t.Errorf("a second DELETE: %v", err)
		}
		p.close()
		eventually(t, func() error {
			if n := len(tunnels(t, "gateway")); n > 0 {
				return errors.New(fmt.Sprint(n, " tunnels are left"))
			}
			return nil
		})
	}
}
