package socks5

import (
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os/exec"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// proxy is a small SOCKS5 server around this package: it serves one connection
// and dials target whatever the client names. It returns the request, or the
// error of ReadRequest.
func proxy(l net.Listener, target string, o Options, answer Reply) (Request, error) {
	conn, err := l.Accept()
	if err != nil {
		return Request{}, err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(HandshakeTimeout)); err != nil {
		return Request{}, err
	}
	req, err := o.ReadRequest(conn)
	if err != nil {
		return Request{}, err
	}
	if answer != Succeeded {
		_, err := conn.Write(AppendReply(nil, answer, netip.AddrPort{}))
		return req, err
	}
	far, err := net.Dial("tcp", target)
	if err != nil {
		return req, err
	}
	defer far.Close()
	bound := far.LocalAddr().(*net.TCPAddr).AddrPort()
	if _, err := conn.Write(AppendReply(nil, Succeeded, bound)); err != nil {
		return req, err
	}
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		_, _ = io.Copy(far, conn)
	}()
	_, err = io.Copy(conn, far)
	conn.Close()
	<-sent
	return req, err
}

// The real curl, in all the ways it asks for a proxy.
func TestCurl(t *testing.T) {
	defer goleak.VerifyNone(t)
	curl, err := exec.LookPath("curl")
	if err != nil {
		t.Fatalf("curl is needed by the tests: %v", err)
	}
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Connection", "close")
		_, _ = io.WriteString(w, "hello "+r.Host)
	}))
	defer web.Close()
	users, err := NewUsers(map[string]string{"alice": "secret", strings.Repeat("u", 255): strings.Repeat("p", 255)})
	if err != nil {
		t.Fatal(err)
	}
	port := web.Listener.Addr().(*net.TCPAddr).AddrPort().Port()

	for _, tc := range []struct {
		name   string
		args   []string // {proxy} stands for the proxy's address
		users  *Users   // nil: nobody is asked
		answer Reply
		want   Request
		err    error  // of ReadRequest
		out    string // part of what curl prints
	}{
		{"name", []string{"--socks5-hostname", "{proxy}", "http://culvert.invalid/"}, nil, Succeeded, Request{Connect, "culvert.invalid", 80, ""}, nil, "hello culvert.invalid"},
		{"IPv4", []string{"--socks5", "{proxy}", "http://127.0.0.1:81/"}, nil, Succeeded, Request{Connect, "127.0.0.1", 81, ""}, nil, "hello 127.0.0.1:81"},
		{"IPv6", []string{"--socks5-hostname", "{proxy}", "http://[::1]:82/"}, nil, Succeeded, Request{Connect, "::1", 82, ""}, nil, "hello [::1]:82"},
		{"not allowed", []string{"--socks5-hostname", "{proxy}", "http://culvert.invalid/"}, nil, NotAllowed, Request{Connect, "culvert.invalid", 80, ""}, nil, "(2)"},
		{"refused", []string{"--socks5-hostname", "{proxy}", "http://culvert.invalid/"}, nil, ConnectionRefused, Request{Connect, "culvert.invalid", 80, ""}, nil, "(5)"},
		{"user name", []string{"--socks5-hostname", "{proxy}", "--proxy-user", "a:b", "http://culvert.invalid/"}, nil, Succeeded, Request{Connect, "culvert.invalid", 80, ""}, nil, "hello"},
		{"SOCKS4", []string{"--socks4", "{proxy}", "http://127.0.0.1/"}, nil, Succeeded, Request{}, &NotSOCKS5Error{SOCKS4}, "curl: "},
		{"HTTP proxy", []string{"--proxy", "http://{proxy}", "http://127.0.0.1/"}, nil, Succeeded, Request{}, &NotSOCKS5Error{HTTP}, "curl: "},
		{"HTTPS proxy", []string{"--proxy", "https://{proxy}", "http://127.0.0.1/"}, nil, Succeeded, Request{}, &NotSOCKS5Error{TLS}, "curl: "},
		{"its user", []string{"--socks5-hostname", "{proxy}", "--proxy-user", "alice:secret", "http://culvert.invalid/"}, users, Succeeded, Request{Connect, "culvert.invalid", 80, "alice"}, nil, "hello culvert.invalid"},
		{"its user, in the URL", []string{"--proxy", "socks5h://alice:secret@{proxy}", "http://culvert.invalid/"}, users, Succeeded, Request{Connect, "culvert.invalid", 80, "alice"}, nil, "hello culvert.invalid"},
		{"its user, password only", []string{"--socks5", "{proxy}", "--socks5-basic", "--proxy-user", "alice:secret", "http://127.0.0.1:81/"}, users, Succeeded, Request{Connect, "127.0.0.1", 81, "alice"}, nil, "hello 127.0.0.1:81"},
		{"longest user", []string{"--socks5-hostname", "{proxy}", "--proxy-user", strings.Repeat("u", 255) + ":" + strings.Repeat("p", 255), "http://culvert.invalid/"}, users, Succeeded, Request{Connect, "culvert.invalid", 80, strings.Repeat("u", 255)}, nil, "hello"},
		{"its user, not allowed", []string{"--socks5-hostname", "{proxy}", "--proxy-user", "alice:secret", "http://culvert.invalid/"}, users, NotAllowed, Request{Connect, "culvert.invalid", 80, "alice"}, nil, "(2)"},
		{"wrong password", []string{"--socks5-hostname", "{proxy}", "--proxy-user", "alice:Secret", "http://culvert.invalid/"}, users, Succeeded, Request{}, &AuthError{"alice", wrong}, "rejected by the SOCKS5 server (1 1)"},
		{"no such user", []string{"--socks5-hostname", "{proxy}", "--proxy-user", "bob:secret", "http://culvert.invalid/"}, users, Succeeded, Request{}, &AuthError{"bob", wrong}, "rejected by the SOCKS5 server (1 1)"},
		{"empty password", []string{"--socks5-hostname", "{proxy}", "--proxy-user", "alice:", "http://culvert.invalid/"}, users, Succeeded, Request{}, &AuthError{"alice", empty}, "rejected by the SOCKS5 server (1 1)"},
		{"empty user", []string{"--socks5-hostname", "{proxy}", "--proxy-user", ":secret", "http://culvert.invalid/"}, users, Succeeded, Request{}, &AuthError{"", empty}, "rejected by the SOCKS5 server (1 1)"},
		{"no user", []string{"--socks5-hostname", "{proxy}", "http://culvert.invalid/"}, users, Succeeded, Request{}, ErrNoMethod, "No authentication method was acceptable"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			var o Options
			if tc.users != nil {
				o.Authenticate = tc.users.Check
			}
			type outcome struct {
				req Request
				err error
			}
			done := make(chan outcome, 1)
			go func() {
				req, err := proxy(l, netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), port).String(), o, tc.answer)
				done <- outcome{req, err}
			}()
			args := []string{"-sS", "--max-time", "20", "--noproxy", ""}
			for _, a := range tc.args {
				args = append(args, strings.ReplaceAll(a, "{proxy}", l.Addr().String()))
			}
			out, _ := exec.CommandContext(t.Context(), curl, args...).CombinedOutput()
			l.Close() // so that proxy ends even if curl never came
			got := <-done
			if got.req != tc.want || !sameError(got.err, tc.err) {
				t.Errorf("%+v, %v; want %+v, %v", got.req, got.err, tc.want, tc.err)
			}
			if !strings.Contains(string(out), tc.out) {
				t.Errorf("curl says %q, want %q in it", out, tc.out)
			}
		})
	}
}

func sameError(got, want error) bool {
	var g, w *NotSOCKS5Error
	if errors.As(want, &w) {
		return errors.As(got, &g) && *g == *w
	}
	var auth, wantAuth *AuthError
	if errors.As(want, &wantAuth) {
		return errors.As(got, &auth) && *auth == *wantAuth
	}
	return errors.Is(got, want)
}
