package culvert

import (
	"strings"
	"testing"
)

// TestRemoteURLs: what no client would talk to is refused when the configuration
// is loaded, not when the first stream comes.
func TestRemoteURLs(t *testing.T) {
	for url, want := range map[string]string{
		"https://gw.example/tunnel":   "",
		"http://127.0.0.1:80/tunnel":  "",
		"http://[::1]:80/tunnel":      "",
		"http://localhost:80/tunnel":  "",
		"http://gw.example/tunnel":    "use https",
		"http://10.0.0.1/tunnel":      "use https",
		"http://127.0.0.1.example/t":  "use https",
		"https:gw.example/tunnel":     "has no host",
		"https://:443/tunnel":         "want https://host/path",
		"https://user@gw.example/tun": "credentials belong into header",
	} {
		err := validateRemoteURL(url)
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", url, err)
		}
	}
}
