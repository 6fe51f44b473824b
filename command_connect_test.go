package culvert

import (
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/culvertgate/culvert/framecodec"
	"github.com/culvertgate/culvert/tunnel"
)

// TestCommandWrongPath: a server that answers everything with 200, as Caddy does
// where it has no route, is no gateway however often it is asked.
func TestCommandWrongPath(t *testing.T) {
	g := commandGateway(t)
	g.Intercept(func(w http.ResponseWriter, _ *http.Request) bool {
		w.WriteHeader(http.StatusOK)
		return true
	})
	c := start(t, nil, "connect", "--url", g.URL(), "--forward", "0=echo", "--token-file", secretFile(t, "alice"))
	if err := c.wait(t); tunnel.CodeOf(err) != framecodec.CodeProtocolError || !strings.Contains(err.Error(), "check the path in the URL") {
		t.Errorf("%v", err)
	}
}

// TestCommandExposeFlags: what cannot be published is said before anything is
// connected.
func TestCommandExposeFlags(t *testing.T) {
	for name, test := range map[string]struct {
		args []string
		want string
	}{
		"no address":         {[]string{"--expose", "sshd"}, "want NAME=ADDRESS"},
		"an empty address":   {[]string{"--expose", "sshd="}, "want NAME=ADDRESS"},
		"no network":         {[]string{"--expose", "sshd=127.0.0.1:22"}, "write it as tcp/host:port"},
		"a wrong name":       {[]string{"--expose", "SSH=tcp/127.0.0.1:22"}, "a service's name is [a-z0-9-]"},
		"a name beyond DNS":  {[]string{"--expose", "a.b=tcp/127.0.0.1:22"}, "a service's name is [a-z0-9-]"},
		"twice":              {[]string{"--expose", "a=tcp/127.0.0.1:22", "--expose", "a=tcp/127.0.0.1:23"}, "there twice"},
		"with --stdio":       {[]string{"--target", "x", "--stdio", "--expose", "a=tcp/127.0.0.1:22"}, "neither --listen, --forward nor --expose"},
		"in dialect 1":       {[]string{"--dialect", "1", "--expose", "a=tcp/127.0.0.1:22"}, "dialect 1 has no services"},
		"a listener's own":   {[]string{"--expose", "a=tcp/0.0.0.0:22"}, "write 127.0.0.1 for this host"},
		"nothing to publish": {nil, "--forward, or --expose"},
	} {
		c := start(t, nil, append([]string{"connect", "--url", "https://127.0.0.1:1/tunnel"}, test.args...)...)
		if err := c.wait(t); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v, want %q", name, err, test.want)
		}
	}
}

// TestCommandExposeRefused: a gateway without services is said once, and ends the
// command with --once.
func TestCommandExposeRefused(t *testing.T) {
	g := commandGateway(t)
	args := []string{"connect", "--url", g.URL(), "--token-file", secretFile(t, "alice"), "--expose", "sshd=tcp/127.0.0.1:22"}
	c := start(t, nil, append(args, "--once")...)
	if err := c.wait(t); tunnel.CodeOf(err) != framecodec.CodeNotAllowed || !strings.Contains(err.Error(), "publishing sshd") {
		t.Errorf("with --once: %v", err)
	}
	c = start(t, nil, args...)
	c.says(t, "the gateway's endpoint needs an expose block")
	c.cancel()
	if err := c.wait(t); err != nil {
		t.Error(err)
	}
	if said := strings.Count(c.err.String(), "is not published"); said != 1 {
		t.Errorf("said %d times:\n%s", said, c.err.String())
	}
}

// TestCommandTicket: a ticket comes from a file, with the address and the target
// that it is for; never from the argument list.
func TestCommandTicket(t *testing.T) {
	g := commandGateway(t)
	link := secretFile(t, g.URL()+"#ticket=canary.ticket.text\n")
	c := start(t, strings.NewReader("over"), "connect", "--ticket-file", link, "--stdio")
	if err := c.wait(t); err != nil || c.out.String() != "over" {
		t.Errorf("%v, %q, %s", err, c.out.String(), c.err.String())
	}
	if got := g.LastIdentity(); got != "canary.ticket.text" {
		t.Errorf("the gateway saw %q", got)
	}
	for name, test := range map[string]struct {
		args []string
		want string
	}{
		"in the argument list": {[]string{"--url", g.URL() + "#ticket=canary", "--target", "x", "--stdio"}, "give --ticket-file"},
		"a link without one":   {[]string{"--ticket-file", secretFile(t, "https://gw.example.com/canary"), "--stdio"}, "the link has no #ticket="},
		"no address":           {[]string{"--ticket-file", secretFile(t, "canary"), "--stdio"}, "which gateway?"},
		"no file":              {[]string{"--ticket-file", "/does/not/exist", "--stdio"}, "--ticket-file: "},
		"and a token":          {[]string{"--url", g.URL(), "--ticket-file", link, "--token-file", link, "--stdio"}, "give one of"},
	} {
		c := start(t, nil, append([]string{"connect"}, test.args...)...)
		if err := c.wait(t); err == nil || !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), "canary") {
			t.Errorf("%s: %v, want %q", name, err, test.want)
		}
	}
}

// TestCommandTicketNotTaken: a ticket that was revoked, or is over, ends the command;
// one that is used up does not, for a use of which no tunnel came is given back.
func TestCommandTicketNotTaken(t *testing.T) {
	g := commandGateway(t)
	var code atomic.Value
	g.Intercept(func(w http.ResponseWriter, _ *http.Request) bool {
		w.Header().Set("Content-Type", "application/problem+json")
		w.WriteHeader(http.StatusForbidden)
		fmt.Fprintf(w, `{"status":403,"code":%q}`, code.Load())
		return true
	})
	args := []string{"connect", "--ticket-file", secretFile(t, g.URL()+"#ticket=t"), "--listen", "0"}
	for _, final := range []framecodec.Code{framecodec.CodeTicketInvalid, framecodec.CodeTicketExpired} {
		code.Store(final.String())
		c := start(t, nil, args...)
		if err := c.wait(t); tunnel.CodeOf(err) != final {
			t.Errorf("%v: it ended with %v", final, err)
		}
	}
	code.Store(framecodec.CodeTicketUsed.String())
	c := start(t, nil, args...)
	c.says(t, "ticket_used.*trying again")
	c.cancel()
	if err := c.wait(t); err != nil {
		t.Error(err)
	}
}
