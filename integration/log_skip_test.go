package integration

import (
	"bytes"
	"errors"
	"net/http"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/culvertgate/culvert/framecodec"
)

// recipe returns the Caddyfiles behind a heading of a document: that of
// gw.example.com with the name of the tests' site, and the part "format" of
// global options.
func recipe(t *testing.T, document, heading string) (site, format string) {
	t.Helper()
	text, err := os.ReadFile(document)
	if err != nil {
		t.Fatal(err)
	}
	_, section, found := strings.Cut(string(text), "\n## "+heading+"\n")
	section, _, _ = strings.Cut(section, "\n## ")
	blocks := regexp.MustCompile("(?s)\n```caddyfile\n(.*?)```").FindAllStringSubmatch(section, -1)
	if !found || len(blocks) != 2 || !strings.HasPrefix(blocks[0][1], "gw.example.com {\n") {
		t.Fatalf("%s has no Caddyfile of gw.example.com, and one of global options, under %q", document, heading)
	}
	format = regexp.MustCompile(`(?s)\t\tformat .*?\n\t\t}\n`).FindString(blocks[1][1])
	return "http://" + siteAddr + strings.TrimPrefix(blocks[0][1], "gw.example.com"), format
}

// quiet is global without debug.
func quiet() string {
	return strings.NewReplacer("\tdebug\n", "", "level DEBUG", "level INFO").Replace(global("", ""))
}

// TestRefusedSessionURLsAreNotLogged: with the documented recipe the URL of a
// session stays out of the logs also when authentication refuses the request;
// without it the URL is there.
func TestRefusedSessionURLsAreNotLogged(t *testing.T) {
	site, format := recipe(t, "../docs/authentication.md", "Session URLs and the access log")
	without := regexp.MustCompile(`(?m)^\s*log_skip .*\n`).ReplaceAllString(site, "")
	filtered := strings.Replace(global("", ""), "\t\tlevel DEBUG\n", "\t\tlevel DEBUG\n"+format, 1)
	if site == without || format == "" {
		t.Fatalf("the recipe has no line log_skip, or no format:\n%s%s", site, format)
	}
	for name, test := range map[string]struct {
		config string
		logged bool
	}{
		"as-documented":      {quiet() + site, false},
		"no-log_skip":        {quiet() + without, true},
		"debug":              {filtered + site, false},
		"debug-no-log_skip":  {filtered + without, false},
		"debug-not-filtered": {global("", "") + site, true},
	} {
		t.Run(name, func(t *testing.T) {
			start(t, test.config)
			canary := "canary-refused-" + name + "."
			if !test.logged {
				secret("the secret of a refused request's URL", canary)
			}
			header := http.Header{"Content-Type": {"application/trickle-ice-sdpfrag"}, "If-Match": {"*"}}
			for _, method := range []string{http.MethodPatch, http.MethodPost, http.MethodDelete, http.MethodGet} {
				for _, path := range []string{"", "/renew", "/status?x"} {
					if res, _ := request(t, method, siteURL+"/s/"+canary+path, header, ""); res.StatusCode != http.StatusUnauthorized {
						t.Errorf("%s: status %d, want 401", method, res.StatusCode)
					}
				}
			}
			// The access line of a later request shows that those before are written.
			later := "/later-" + name + "."
			if res, _ := request(t, http.MethodGet, "http://"+siteAddr+later, nil, ""); res.StatusCode != http.StatusUnauthorized {
				t.Errorf("another URL: status %d, want 401", res.StatusCode)
			}
			var text []byte
			eventually(t, func() (err error) {
				if text, err = os.ReadFile(logFile); err == nil && !bytes.Contains(text, []byte(later)) {
					err = errors.New("no access line is in the log")
				}
				return err
			})
			if got := bytes.Contains(text, []byte(canary)); got != test.logged {
				t.Errorf("the URL of a session is in the log: %v, want %v", got, test.logged)
			}
		})
	}
}

// TestRecipeServes: the same recipe lets its user in, and keeps the URL of the
// session out of the log: what is registered there is searched for at the end.
func TestRecipeServes(t *testing.T) {
	site, _ := recipe(t, "../docs/authentication.md", "Session URLs and the access log")
	// The documented hash is nobody's to know.
	site = regexp.MustCompile(`alice \S+`).ReplaceAllLiteralString(site, "alice $2a$04$7FEotkncVq4n3ZFiAuDRy.64/BRgH5s9UaqvQJd9Z2yol8LhjUVnm")
	start(t, quiet()+site)
	location, _ := postOffer(t, siteURL, password(t, "alice"))
	if res, body := request(t, http.MethodPost, location+"/renew", nil, ""); res.StatusCode != http.StatusUnauthorized {
		t.Errorf("nobody's renew: %d %s", res.StatusCode, body)
	}
	res, body := request(t, http.MethodPatch, location, password(t, "alice"), "")
	wantProblem(t, res, body, http.StatusUnsupportedMediaType, framecodec.CodeUnsupportedMedia)
	if res, body := request(t, http.MethodDelete, location, password(t, "alice"), ""); res.StatusCode != http.StatusOK {
		t.Errorf("its DELETE: %d %s", res.StatusCode, body)
	}
}
