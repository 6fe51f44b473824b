package acceptance

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pion/webrtc/v4"

	"github.com/culvertgate/culvert/internal/testkit"
)

// The credentials that no test but this one uses. Every other exchange of these
// tests is searched as well (pair_test.go).
const (
	turnSecret   = "canary-turn-secret-91b3e7"
	turnPassword = "canary-turn-password-c40d52"
	ownPassword  = "canary-own-turn-password-77e1"
	socksUser    = "canary-socks-user-2d9f"
	socksPass    = "canary-socks-password-b61c"
	wrongBearer  = "canary-wrong-bearer-0ae4"
	guessed      = "canaryGuessedSessionSecret8f"
	rawUfrag     = "canaryUfrag3c7b"
	rawPwd       = "canaryPwdcanaryPwd5e18d2"
	nextUfrag    = "canaryNextUfrag9a"
	nextPwd      = "canaryNextPwdcanary44b0"
)

// canarySetup has every kind of credential there is, with Caddy's access log and
// debug logging on. The TURN servers do not exist: what is logged of that counts.
var canarySetup = setup{
	env: map[string]string{"TURN_SECRET": turnSecret, "TURN_PASSWORD": turnPassword, "OWN_PASSWORD": ownPassword},
	gatewayApp: `
		ice_server turn:127.0.0.1:5349?transport=udp {
			secret {env.TURN_SECRET}
		}
		ice_server turn:127.0.0.1:5350?transport=udp {
			username shared
			credential {env.TURN_PASSWORD}
			share
		}
		timeouts {
			connect 3s
		}
`,
	clientApp: `
		ice_server turn:127.0.0.1:5351?transport=udp {
			username own
			credential {env.OWN_PASSWORD}
		}
`,
	endpoint: `
		target web tcp/127.0.0.1:9000
		dynamic {
			allow tcp/127.0.0.1:9000
		}
		limits {
			tunnels_per_identity 3
		}
`,
}

// TestMustShow11Canaries does everything that handles a secret, right and wrong,
// and looks into all that the processes tell. The looking itself is done by
// startPair when this function has ended.
func TestMustShow11Canaries(t *testing.T) {
	p := startPair(t, canarySetup)
	for what, secret := range map[string]string{
		"TURN secret": turnSecret, "shared TURN password": turnPassword, "our own TURN password": ownPassword,
		"SOCKS user": socksUser, "SOCKS password": socksPass, "wrong bearer": wrongBearer, "guessed session secret": guessed,
		"planted ufrag": rawUfrag, "planted pwd": rawPwd, "ufrag of a restart": nextUfrag, "pwd of a restart": nextPwd,
	} {
		p.tap.plant(what, secret)
	}
	g := startTarget(t, p.net)
	s := p.mustOpen(g, entryPort)
	check(t, s.echo())
	t.Run("SOCKS credentials", func(t *testing.T) { p.showSOCKSCredentials(t) })
	t.Run("session", func(t *testing.T) { p.useSession(t) })
	t.Run("bad requests", func(t *testing.T) { p.askWrongly(t) })
	t.Run("commands", func(t *testing.T) { p.runCommands(t) })
	_, err := p.openBySOCKS(socksPort, "127.0.0.1", 9002, patience) // denied: an event
	if err == nil {
		t.Error("a target without a rule was opened")
	}
	check(t, killTunnel(p.client))
	p.notVacuous(t)
}

// notVacuous makes sure that there was something to find, in every place.
func (p *pair) notVacuous(t *testing.T) {
	t.Helper()
	kinds := p.tap.count()
	for _, kind := range []string{"bearer", "ICE ufrag", "ICE pwd", "session secret", "TURN credential"} {
		if kinds[kind] == 0 {
			t.Errorf("no %s has passed: %v", kind, kinds)
		}
	}
	if p.tap.problems() < 5 {
		t.Errorf("%d problem documents have passed", p.tap.problems())
	}
	testkit.Eventually(t, patience, func() error {
		log := p.gateway.Log()
		for _, want := range []string{
			`"level":"debug"`, `"logger":"http.log.access`, `"msg":"signalling"`, `"msg":"signalling refused"`,
			"tunnel_opened", "tunnel_closed", "tunnel_rejected", "stream_denied",
		} {
			if !strings.Contains(log, want) {
				return fmt.Errorf("the gateway's log has no %s", want)
			}
		}
		return nil
	})
}

// showSOCKSCredentials gives a SOCKS server without users credentials: where it
// may ask for them, where it did not, and by curl.
func (p *pair) showSOCKSCredentials(t *testing.T) {
	auth := append(append([]byte{1, byte(len(socksUser))}, socksUser...), append([]byte{byte(len(socksPass))}, socksPass...)...)
	for _, greeting := range [][]byte{{5, 1, 2}, {5, 2, 2, 0}, {5, 1, 0}} {
		c, err := p.dial(socksPort)
		check(t, err)
		_, err = c.Write(append(greeting, auth...))
		check(t, err)
		_ = c.CloseWrite()
		_ = c.SetReadDeadline(time.Now().Add(patience))
		_, _ = io.Copy(io.Discard, c) // refused in some way
		_ = c.Close()
	}
	out, _ := p.net.Command("curl", "--silent", "--noproxy", "", "--max-time", "10", "--socks5-hostname",
		"127.0.0.1:1080", "--proxy-user", socksUser+":"+socksPass, "http://127.0.0.1:9002/").CombinedOutput() // it is denied
	p.tap.search(t, "what curl says", string(out))
}

// useSession makes a session by hand, with credentials that are known.
func (p *pair) useSession(t *testing.T) {
	status, header, _ := p.ask(t, bearer, "POST", "/tunnel", "application/sdp", "", rawOffer())
	location := header.Get("Location")
	if status != http.StatusCreated || location == "" {
		t.Fatalf("offer: %d", status)
	}
	fragment := func(ufrag, pwd string) string {
		return "a=ice-ufrag:" + ufrag + "\r\na=ice-pwd:" + pwd + "\r\nm=application 9 UDP/DTLS/SCTP webrtc-datachannel\r\na=mid:0\r\n" +
			"a=candidate:1 1 udp 2130706431 127.0.0.1 9 typ host\r\n"
	}
	const sdpfrag = "application/trickle-ice-sdpfrag"
	for _, request := range []struct {
		token, method, path, contentType, match, body string
		status                                        int
	}{
		{bearer, "GET", location, "", "", "", 204},
		{bearer, "GET", location + "/status", "", "", "", 200},
		{bearer, "POST", location + "/renew", "", "", "", 204},
		{bearer, "PATCH", location, sdpfrag, header.Get("ETag"), fragment(rawUfrag, rawPwd), 204},
		{bearer, "PATCH", location, sdpfrag, `"another"`, fragment(rawUfrag, rawPwd), 412},
		{bearer, "PATCH", location, sdpfrag, "", fragment(rawUfrag, rawPwd), 428},
		{bearer, "PATCH", location, sdpfrag, "*", fragment(nextUfrag, "canaryShortPwd"), 0},
		{bearer, "PATCH", location, sdpfrag, "*", fragment(nextUfrag, nextPwd), 0},
		{bearer, "PATCH", location, sdpfrag, "*", "a=ice-pwd:" + nextPwd + "\r\nnot a line of SDP", 0},
		{bearer, "PUT", location, "", "", "", 405},
		{bearer, "GET", location + "/nothing", "", "", "", 404},
		{wrongBearer, "DELETE", location, "", "", "", 401},
		{bearer, "DELETE", location, "", "", "", 200},
		{bearer, "DELETE", location, "", "", "", 404},
	} {
		status, _, body := p.ask(t, request.token, request.method, request.path, request.contentType, request.match, request.body)
		if request.status != 0 && status != request.status {
			t.Errorf("%s: %d, want %d: %s", request.method, status, request.status, body)
		}
	}
}

// askWrongly is answered with problem documents.
func (p *pair) askWrongly(t *testing.T) {
	for _, request := range []struct {
		token, method, path, contentType, body string
		status                                 int
	}{
		{wrongBearer, "POST", "/tunnel", "application/sdp", rawOffer(), 401},
		{bearer, "POST", "/tunnel", "text/plain", rawOffer(), 415},
		{bearer, "POST", "/tunnel", "application/sdp", "v=0\r\na=ice-pwd:" + rawPwd + "\r\n", 400},
		{bearer, "POST", "/tunnel", "application/sdp", strings.ReplaceAll(rawOffer(), "m=application", "m=audio"), 0},
		{bearer, "POST", "/tunnel?target=nobody", "application/sdp", rawOffer(), 404},
		{bearer, "GET", "/tunnel/s/" + guessed, "", "", 404},
		{bearer, "DELETE", "/tunnel/s/" + guessed, "", "", 404},
		{bearer, "POST", "/tunnel/s/" + guessed + "/renew", "", "", 404},
		{bearer, "GET", "/tunnel/s/" + guessed + "/more/of/it", "", "", 404},
		{bearer, "GET", "/elsewhere", "", "", 200}, // the site's own, and in its access log
	} {
		status, _, body := p.ask(t, request.token, request.method, request.path, request.contentType, "", request.body)
		if request.status != 0 && status != request.status || status == http.StatusCreated {
			t.Errorf("%s %s: %d, want %d: %s", request.method, request.path, status, request.status, body)
		}
	}
}

// ask sends a request to the gateway through the tap.
func (p *pair) ask(t *testing.T, token, method, path, contentType, match, body string) (int, http.Header, string) {
	t.Helper()
	ctx, cancel := adminContext()
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, "http://"+loopback(tapPort).String()+path, strings.NewReader(body))
	check(t, err)
	req.Header.Set("Authorization", "Bearer "+token)
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	if match != "" {
		req.Header.Set("If-Match", match)
	}
	resp, err := p.net.HTTPClient().Do(req)
	check(t, err)
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	check(t, err)
	return resp.StatusCode, resp.Header, string(text)
}

// rawOffer has the planted credentials and a candidate.
func rawOffer() string {
	return offerOf(webrtc.ICEParameters{UsernameFragment: rawUfrag, Password: rawPwd}, anyFingerprint)
}

// runCommands runs what people type; what they print has no secret either.
func (p *pair) runCommands(t *testing.T) {
	dir := t.TempDir()
	good, bad := filepath.Join(dir, "good"), filepath.Join(dir, "bad")
	check(t, os.WriteFile(good, []byte(bearer), 0o600), os.WriteFile(bad, []byte(wrongBearer), 0o600))
	url := "http://" + loopback(tapPort).String() + "/tunnel"
	for _, args := range [][]string{
		{"targets", "--url", url, "--token-file", good},
		{"targets", "--url", url, "--token-file", bad},
		{"doctor", "--url", url, "--token-file", good},
		{"doctor", "--url", url, "--token-file", bad},
		{"connect", "--once", "--url", url, "--token-file", bad, "--target", "web", "--stdio"},
		{"list", "--address", strings.TrimPrefix(p.gateway.AdminURL, "http://")},
	} {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		cmd := p.gateway.Command(p.net, append([]string{"webrtc-tunnel"}, args...)...)
		done := context.AfterFunc(ctx, func() {
			if cmd.Process != nil {
				_ = cmd.Process.Kill() // its output says why
			}
		})
		out, err := cmd.CombinedOutput()
		done()
		cancel()
		wantFailure := strings.Contains(strings.Join(args, " "), bad)
		if len(out) == 0 || (err != nil) != wantFailure {
			t.Errorf("caddy webrtc-tunnel %s: %v: %s", strings.Join(args, " "), err, out)
		}
		p.tap.search(t, "what webrtc-tunnel "+args[0]+" prints", string(out))
	}
}

// finder is a test that only remembers what was said.
type finder struct {
	testing.TB
	said []string
}

func (f *finder) Helper() {}
func (f *finder) Errorf(format string, args ...any) {
	f.said = append(f.said, fmt.Sprintf(format, args...))
}

// TestTheTapFinds shows that a secret that is told would be found.
func TestTheTapFinds(t *testing.T) {
	x := &tap{t: t, secrets: map[string]string{}}
	header := http.Header{"Location": {"/tunnel/s/0123456789abcdef"}, "Link": {`<turn:a>; rel="ice-server"; username="u"; credential="abcd/efgh"; credential-type="password"`}}
	x.readAnswer(header, []byte("v=0\r\na=ice-ufrag:ufragufrag\r\na=ice-pwd:pwdpwdpwdpwd\r\n"))
	for _, text := range []string{
		`{"uri":"/tunnel/s/0123456789abcdef"}`, "credential abcd/efgh", `{"link":"abcd\/efgh"}`, "ufragufrag:other", `"pwdpwdpwdpwd"`,
	} {
		f := &finder{TB: t}
		x.search(f, "here", text)
		if len(f.said) != 1 {
			t.Errorf("%s: %d finds, want 1", text, len(f.said))
		}
	}
	f := &finder{TB: t}
	if x.search(f, "here", `{"msg":"nothing of interest"}`); len(f.said) != 0 {
		t.Errorf("found %v", f.said)
	}
}
