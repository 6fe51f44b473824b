package integration

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/culvertgate/culvert/internal/testkit"
)

// Secrets that the tests plant, or see go by, must be in nothing that Culvert
// tells: all tests of this package run with Caddy's access log on and everything
// logged at debug level, and when they are through, the log and whatever else
// was told is searched.

// alone is a port that is taken while these tests run: the others are fixed, so
// two runs on one machine go one after the other.
const alone = "127.0.0.1:2998"

// TestMain runs the tests and then the search.
func TestMain(m *testing.M) {
	var turn net.Listener
	if err := testkit.WaitFor(10*time.Minute, func() (err error) {
		turn, err = net.Listen("tcp", alone)
		return err
	}); err != nil {
		fmt.Fprintln(os.Stderr, "another run of these tests does not end:", err)
		os.Exit(1)
	}
	dir, err := os.MkdirTemp("", "culvert-integration")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	logFile = filepath.Join(dir, "log")
	code := m.Run()
	if found := search(); len(found) > 0 {
		fmt.Printf("--- FAIL: secrets were told:\n%s\n", strings.Join(found, "\n"))
		code = 1
	}
	os.RemoveAll(dir)
	turn.Close()
	os.Exit(code)
}

// logFile gets the log of every configuration of the tests.
var logFile string

// logging is the part of the global options that has everything written there.
func logging() string {
	return "\tdebug\n\tlog {\n\t\toutput file " + logFile + " {\n\t\t\troll_disabled\n\t\t}\n\t\tlevel DEBUG\n\t}\n"
}

// vault has the secrets, and everything that was told but for the log.
var vault struct {
	sync.Mutex
	secrets map[string]string // to what it is
	told    bytes.Buffer
}

// secret registers a secret and returns it.
func secret(what, value string) string {
	vault.Lock()
	defer vault.Unlock()
	if vault.secrets == nil {
		vault.secrets = map[string]string{}
	}
	vault.secrets[value] = what
	return value
}

// told adds to what is searched.
func told(b []byte) {
	vault.Lock()
	defer vault.Unlock()
	vault.told.Write(b)
	vault.told.WriteByte('\n')
}

// search returns the secrets that are in the log, the events, or what was told.
func search() []string {
	text, err := os.ReadFile(logFile)
	if err != nil {
		return nil // no test wrote one
	}
	for _, e := range events() {
		data, _ := json.Marshal(e.data)
		told(data)
	}
	vault.Lock()
	defer vault.Unlock()
	var found []string
	for value, what := range vault.secrets {
		for place, b := range map[string][]byte{"log": text, "answers, metrics and events": vault.told.Bytes()} {
			if at := bytes.Index(b, []byte(value)); at >= 0 {
				found = append(found, fmt.Sprintf("%s in the %s: ...%s...", what, place, b[max(0, at-200):min(len(b), at+len(value)+100)]))
			}
		}
	}
	return found
}

// watching is a transport that registers the secrets of signalling as they go
// by: in descriptions, session URLs and ICE server links.
type watching struct{ http.RoundTripper }

var (
	iceSecret  = regexp.MustCompile(`a=ice-(ufrag|pwd):(\S+)`)
	linkSecret = regexp.MustCompile(`(?:username|credential)="([^"]+)"`)
)

func (w watching) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.Body != nil {
		body, err := io.ReadAll(req.Body)
		if err != nil {
			return nil, err
		}
		req.Body = io.NopCloser(bytes.NewReader(body))
		watch(body)
	}
	res, err := w.RoundTripper.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	body, err := io.ReadAll(res.Body)
	if err != nil {
		return nil, err
	}
	res.Body.Close()
	res.Body = io.NopCloser(bytes.NewReader(body))
	watch(body)
	if _, s, ok := strings.Cut(res.Header.Get("Location"), "/s/"); ok {
		secret("the secret of a session's URL", s)
	}
	for _, link := range res.Header.Values("Link") {
		for _, m := range linkSecret.FindAllStringSubmatch(link, -1) {
			secret("a TURN credential", m[1])
		}
	}
	if res.Header.Get("Content-Type") == "application/problem+json" {
		told(body)
	}
	return res, nil
}

func watch(body []byte) {
	for _, m := range iceSecret.FindAllSubmatch(body, -1) {
		if len(m[2]) < 8 {
			continue // a test's own, too short to be searched for
		}
		secret("an ICE "+string(m[1]), string(m[2]))
	}
}

// TestSecretsGoBy plants what the other tests don't: credentials of TURN servers
// and of a remote, and requests that fail at every step.
func TestSecretsGoBy(t *testing.T) {
	t.Setenv("CULVERT_TEST_TURN", secret("the TURN secret", "canary-turn-secret-5b1f"))
	t.Setenv("CULVERT_TEST_BEARER", secret("a bearer token", "canary-bearer-90ac"))
	echo := echoServer(t)
	start(t, global(`
		ice_server turn:127.0.0.1:9 {
			secret {env.CULVERT_TEST_TURN}
		}
		ice_server turn:127.0.0.2:9 {
			username `+secret("a TURN user", "canary-turn-user-1d")+`
			credential `+secret("a TURN password", "canary-turn-password-77")+`
		}
		remote here `+siteURL+` {
			header Authorization "Bearer {env.CULVERT_TEST_BEARER}"
		}`, entries("echo")+"\n"+on("1")+"\n\tmetrics")+site("target echo tcp/"+echo))
	header := http.Header{"Authorization": {"Bearer " + secret("a bearer token", "canary-bearer-41")}}
	p := connect(t, siteURL, header)
	if len(p.signal.ICEServers) != 1 || p.signal.ICEServers[0].Credential == "" {
		t.Errorf("ICE servers %+v, want the one with a secret", p.signal.ICEServers)
	}
	c, err := openEither(p, false)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := pingPong(c); err != nil {
		t.Fatal(err)
	}
	if _, err := p.open("nosuch"); err == nil {
		t.Error("an unknown target was opened")
	}
	client := &http.Client{Transport: watching{http.DefaultTransport}}
	for _, method := range []string{http.MethodGet, http.MethodPatch, http.MethodDelete, "BREW"} {
		wrong := secret("the secret of a session's URL", "canary-session-"+strings.ToLower(method))
		req, err := http.NewRequest(method, siteURL+"/s/"+wrong, strings.NewReader("a=ice-pwd:"+secret("an ICE pwd", "canary-ice-pwd-of-nobody")))
		if err != nil {
			t.Fatal(err)
		}
		res, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if res.StatusCode < 400 {
			t.Errorf("%s of a session that is not there: status %d", method, res.StatusCode)
		}
	}
	for _, path := range []string{"/webrtc_tunnel/tunnels", "/webrtc_tunnel/tunnels/" + tunnels(t, "gateway")[0].ID, "/webrtc_tunnel/health", "/metrics"} {
		admin(t, http.MethodGet, path, "", nil)
	}
	// Another request, so that the access log is seen to be on.
	res, err := http.Get("http://" + siteAddr + "/elsewhere")
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	eventually(t, func() error {
		text, err := os.ReadFile(logFile)
		if err == nil && (!bytes.Contains(text, []byte("/elsewhere")) || !bytes.Contains(text, []byte(`"level":"debug"`))) {
			err = errors.New("no access line or no debug line is in the log")
		}
		return err
	})
}
