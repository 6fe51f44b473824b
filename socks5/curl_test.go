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
func proxy(l net.Listener, target string, answer Reply) (Request, error) {
	conn, err := l.Accept()
	if err != nil {
		return Request{}, err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(HandshakeTimeout)); err != nil {
		return Request{}, err
	}
	req, err := ReadRequest(conn)
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
	port := web.Listener.Addr().(*net.TCPAddr).AddrPort().Port()

	for _, tc := range []struct {
		name   string
		args   []string // {proxy} stands for the proxy's address
		answer Reply
		want   Request
		err    error  // of ReadRequest
		out    string // part of what curl prints
	}{
		{"name", []string{"--socks5-hostname", "{proxy}", "http://culvert.invalid/"}, Succeeded, Request{Connect, "culvert.invalid", 80}, nil, "hello culvert.invalid"},
		{"IPv4", []string{"--socks5", "{proxy}", "http://127.0.0.1:81/"}, Succeeded, Request{Connect, "127.0.0.1", 81}, nil, "hello 127.0.0.1:81"},
		{"IPv6", []string{"--socks5-hostname", "{proxy}", "http://[::1]:82/"}, Succeeded, Request{Connect, "::1", 82}, nil, "hello [::1]:82"},
		{"not allowed", []string{"--socks5-hostname", "{proxy}", "http://culvert.invalid/"}, NotAllowed, Request{Connect, "culvert.invalid", 80}, nil, "(2)"},
		{"refused", []string{"--socks5-hostname", "{proxy}", "http://culvert.invalid/"}, ConnectionRefused, Request{Connect, "culvert.invalid", 80}, nil, "(5)"},
		{"user name", []string{"--socks5-hostname", "{proxy}", "--proxy-user", "a:b", "http://culvert.invalid/"}, Succeeded, Request{Connect, "culvert.invalid", 80}, nil, "hello"},
		{"SOCKS4", []string{"--socks4", "{proxy}", "http://127.0.0.1/"}, Succeeded, Request{}, &NotSOCKS5Error{SOCKS4}, "curl: "},
		{"HTTP proxy", []string{"--proxy", "http://{proxy}", "http://127.0.0.1/"}, Succeeded, Request{}, &NotSOCKS5Error{HTTP}, "curl: "},
		{"HTTPS proxy", []string{"--proxy", "https://{proxy}", "http://127.0.0.1/"}, Succeeded, Request{}, &NotSOCKS5Error{TLS}, "curl: "},
	} {
		t.Run(tc.name, func(t *testing.T) {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			type outcome struct {
				req Request
				err error
			}
			done := make(chan outcome, 1)
			go func() {
				req, err := proxy(l, netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), port).String(), tc.answer)
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
	return errors.Is(got, want)
}
