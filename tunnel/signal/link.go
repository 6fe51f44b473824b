package signal

import (
	"net/http"
	"strings"

	"github.com/culvertgate/culvert/tunnel/rtc"
)

// Limits on the Link headers that a client looks at.
const (
	maxICEServers = 16
	maxLink       = 4 << 10 // bytes of one header
)

// relICEServer is the link relation of RFC 9725 section 4.6.
const relICEServer = "ice-server"

// addICEServers adds one Link header for each URL of each server.
func addICEServers(h http.Header, servers []rtc.ICEServer) {
	for _, s := range servers {
		for _, u := range s.URLs {
			if link, ok := formatICEServer(u, s.Username, s.Credential); ok {
				h.Add("Link", link)
			}
		}
	}
}

// formatICEServer writes a server as RFC 9725 section 4.6 has it; false when a
// part of it cannot stand in a header.
func formatICEServer(url, username, credential string) (string, bool) {
	if strings.ContainsAny(url, "<> ") || !isHeaderText(url) || !isHeaderText(username) || !isHeaderText(credential) {
		return "", false
	}
	link := "<" + url + `>; rel="` + relICEServer + `"`
	if username != "" || credential != "" {
		link += "; username=" + quote(username) + "; credential=" + quote(credential) + `; credential-type="password"`
	}
	return link, true
}

// isHeaderText reports whether s is made of printable ASCII.
func isHeaderText(s string) bool {
	for i := range len(s) {
		if s[i] < 0x20 || s[i] > 0x7e {
			return false
		}
	}
	return true
}

// quote writes a quoted-string (RFC 9110 section 5.6.4).
func quote(s string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s) + `"`
}

// ParseICEServers returns the ICE servers in the Link headers of an answer, at
// most 16. Links with another relation, of another URI scheme or that are not
// well formed are left out, and TURN servers without credentials: they take
// nobody (RFC 8656 section 5), and a peer connection refuses to begin with one.
func ParseICEServers(h http.Header) []rtc.ICEServer {
	var servers []rtc.ICEServer
	for _, value := range h.Values("Link") {
		if len(value) > maxLink {
			continue
		}
		for value != "" && len(servers) < maxICEServers {
			var l link
			var ok bool
			if l, value, ok = parseLink(value); !ok {
				break
			}
			if s, ok := l.iceServer(); ok {
				servers = append(servers, s)
			}
		}
	}
	return servers
}

// link is one link-value of RFC 8288 section 3.
type link struct {
	uri    string
	params map[string]string // the first of each name counts
}

// iceServer returns the server a link describes.
func (l link) iceServer() (rtc.ICEServer, bool) {
	scheme, _, ok := strings.Cut(l.uri, ":")
	if !ok || !hasWord(l.params["rel"], relICEServer) {
		return rtc.ICEServer{}, false
	}
	switch strings.ToLower(scheme) {
	case "stun", "stuns":
	case "turn", "turns":
		if l.params["username"] == "" || l.params["credential"] == "" {
			return rtc.ICEServer{}, false
		}
	default:
		return rtc.ICEServer{}, false
	}
	if kind := l.params["credential-type"]; kind != "" && kind != "password" {
		return rtc.ICEServer{}, false
	}
	return rtc.ICEServer{URLs: []string{l.uri}, Username: l.params["username"], Credential: l.params["credential"]}, true
}

func hasWord(list, word string) bool {
	for w := range strings.FieldsSeq(list) {
		if strings.EqualFold(w, word) {
			return true
		}
	}
	return false
}

// parseLink reads the first link-value of s and returns what follows its comma.
func parseLink(s string) (l link, rest string, ok bool) {
	s = strings.TrimLeft(s, " \t,")
	if s == "" || s[0] != '<' {
		return link{}, "", false
	}
	uri, s, found := strings.Cut(s[1:], ">")
	if !found {
		return link{}, "", false
	}
	l = link{uri: strings.TrimSpace(uri), params: make(map[string]string)}
	for {
		s = strings.TrimLeft(s, " \t")
		if s == "" {
			return l, "", true
		}
		if s[0] == ',' {
			return l, s[1:], true
		}
		if s[0] != ';' {
			return link{}, "", false
		}
		var name, value string
		if name, value, s, ok = parseParam(s[1:]); !ok {
			return link{}, "", false
		}
		if _, dup := l.params[name]; !dup && name != "" {
			l.params[name] = value
		}
	}
}

// parseParam reads name[=token|=quoted-string]; an empty one ("; ;") is legal.
func parseParam(s string) (name, value, rest string, ok bool) {
	s = strings.TrimLeft(s, " \t")
	end := strings.IndexAny(s, "=;,")
	if end < 0 {
		end = len(s)
	}
	name, s = strings.ToLower(strings.TrimRight(s[:end], " \t")), s[end:]
	if s == "" || s[0] != '=' {
		return name, "", s, true
	}
	s = strings.TrimLeft(s[1:], " \t")
	if s != "" && s[0] == '"' {
		value, rest, ok = unquote(s[1:])
		return name, value, rest, ok
	}
	end = strings.IndexAny(s, ";,")
	if end < 0 {
		end = len(s)
	}
	return name, strings.TrimRight(s[:end], " \t"), s[end:], true
}

// unquote reads a quoted-string behind its first quote.
func unquote(s string) (value, rest string, ok bool) {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		switch s[i] {
		case '"':
			return b.String(), s[i+1:], true
		case '\\':
			i++
			if i == len(s) {
				return "", "", false
			}
		}
		b.WriteByte(s[i])
	}
	return "", "", false
}
