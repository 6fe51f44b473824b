package integration

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/culvertgate/culvert/framecodec"
	"github.com/culvertgate/culvert/tunnel"
	"github.com/culvertgate/culvert/tunnel/client"
)

// bobsService is what the remote of bob exposes.
const bobsService = "client:bob/sshd"

// exposing is a gateway whose clients are who X-User says, with rules, remotes of
// this Caddy as more of the app, and entries.
func exposing(rules, app string, entries ...string) string {
	var b strings.Builder
	for i, e := range entries {
		fmt.Fprintf(&b, "%s {\nroute {\n%s\n}\n}\n", []string{entry1, entry2, "udp/" + udpEntry}[i], e)
	}
	return global(app, "\tlayer4 {\n"+b.String()+"\t}\n") +
		"http://" + siteAddr + " {\n\twebrtc_tunnel /tunnel* {\n\t\tname gw\n\t\tidentity {http.request.header.X-User}\n\t\texpose {\n" + rules + "\n\t\t}\n\t}\n}\n"
}

// remoteOf is a remote of a user that exposes services.
func remoteOf(user string, services ...string) string {
	lines := ""
	for _, s := range services {
		lines += "expose " + s + "\n"
	}
	return "remote " + user + "s " + siteURL + " {\nheader X-User " + user + "\n" + lines + "}\n"
}

// targetsOf lists the names that a user's target list has.
func targetsOf(t *testing.T, name string) []string {
	t.Helper()
	req, _ := http.NewRequest(http.MethodGet, siteURL+"/targets", nil)
	req.Header = user(name)
	res, err := patiently(req)
	if err != nil {
		t.Fatal(err)
	}
	var list struct {
		Targets []struct {
			Name, Kind string
			Usable     bool
		}
	}
	decode(t, res, &list)
	names := []string{}
	for _, one := range list.Targets {
		if !one.Usable {
			t.Errorf("%s is not usable", one.Name)
		}
		names = append(names, one.Name+" "+one.Kind)
	}
	return names
}

// listed waits for a user's target list.
func listed(t *testing.T, name string, want ...string) {
	t.Helper()
	eventually(t, func() error {
		if got := targetsOf(t, name); fmt.Sprint(got) != fmt.Sprint(want) {
			return fmt.Errorf("%s sees %q, want %q", name, got, want)
		}
		return nil
	})
}

// TestReverse: a service that a client exposes is reached by an entry of the
// gateway and by another client, where a rule lets that, by TCP and by UDP.
func TestReverse(t *testing.T) {
	echo, unix := echoServer(t), t.TempDir()+"/s"
	l, err := net.Listen("unix", unix)
	if err != nil {
		t.Fatal(err)
	}
	serveListener(t, l, func(c net.Conn) { _, _ = io.Copy(c, c) })
	rules := "allow sshd app {\nusers bob\nreachable_by alice\n}\nallow dns {\nusers bob\nreachable_by alice\n}"
	start(t, exposing(rules, remoteOf("bob", "sshd tcp/"+echo, "app unix/"+unix, "dns udp/"+echoUDP(t)),
		"webrtc_tunnel local "+bobsService, "webrtc_tunnel local client:bob/app {\nendpoint gw\n}", "webrtc_tunnel local client:bob/dns"))
	listed(t, "alice", "client:bob/app stream", "client:bob/dns datagram", "client:bob/sshd stream")
	listed(t, "mallory")
	for _, entry := range []string{entry1, entry2} {
		c, err := net.Dial("tcp", entry)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if err := pingPong(c); err != nil {
			t.Errorf("by the entry %s: %v", entry, err)
		}
	}
	u, err := net.Dial("udp", udpEntry)
	if err != nil {
		t.Fatal(err)
	}
	defer u.Close()
	if err := askUDP(u, []byte("a question")); err != nil {
		t.Error("by the UDP entry:", err)
	}
	alice := connect(t, siteURL, user("alice"))
	conn, err := alice.open(bobsService)
	if err != nil {
		t.Fatal(err)
	}
	if err := pingPong(conn); err != nil {
		t.Error("by another client:", err)
	}
	if err := bulk(conn, 20<<20); err != nil {
		t.Error(err)
	}
	before := len(logged(t))
	for name, header := range map[string]http.Header{"mallory": user("mallory"), "bob himself": user("bob")} {
		p := connect(t, siteURL, header)
		_, err := p.open(bobsService)
		if tunnel.CodeOf(err) != framecodec.CodeNotAllowed {
			t.Errorf("%s: %v", name, err)
		}
		if text := fmt.Sprint(err); strings.Contains(text, "rule") {
			t.Errorf("%s is told of the rule: %s", name, text)
		}
	}
	eventually(t, func() error {
		if text := logged(t)[before:]; !strings.Contains(text, ": expose.rules[0] (allow sshd app)") {
			return fmt.Errorf("the log does not name the rule: %s", text)
		}
		return nil
	})
	for target, want := range map[string]framecodec.Code{
		"client:bob/nosuch": framecodec.CodeNotAllowed, "client:carol/sshd": framecodec.CodeNotAllowed,
	} {
		if _, err := alice.open(target); tunnel.CodeOf(err) != want {
			t.Errorf("%s: %v", target, err)
		}
	}
}

// logged returns what Caddy has logged so far.
func logged(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile(logFile)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// bulk sends n bytes and wants them back.
func bulk(c *tunnel.Conn, n int) error {
	data := make([]byte, n)
	for i := range data {
		data[i] = byte(i * 7)
	}
	_ = c.SetDeadline(time.Now().Add(4 * long))
	go func() {
		_, _ = c.Write(data)
		_ = c.CloseWrite()
	}()
	hash := sha256.New()
	got, err := io.Copy(hash, c)
	if err == nil && (got != int64(n) || [32]byte(hash.Sum(nil)) != sha256.Sum256(data)) {
		err = fmt.Errorf("%d of %d bytes came back, or others", got, n)
	}
	return err
}

// TestReverseComesAndGoes: the streams of a tunnel that ends are told, the service
// is gone with it and there again with the next.
func TestReverseComesAndGoes(t *testing.T) {
	start(t, exposing("allow sshd {\nusers bob\nreachable_by alice\n}", remoteOf("bob", "sshd tcp/"+echoServer(t)), "webrtc_tunnel local "+bobsService))
	listed(t, "alice", bobsService+" stream")
	alice := connect(t, siteURL, user("alice"))
	conn, err := alice.open(bobsService)
	if err != nil {
		t.Fatal(err)
	}
	if err := pingPong(conn); err != nil {
		t.Fatal(err)
	}
	second := exposer(t, "bob", "sshd") // the name is taken: refused, not replaced
	if code := tunnel.CodeOf((<-second).Err); code != framecodec.CodeConflict {
		t.Errorf("a second one: %v", code)
	}
	for _, one := range tunnels(t, "gateway") {
		if one.Identity == "bob" {
			admin(t, http.MethodDelete, "/webrtc_tunnel/tunnels/"+one.ID, "", nil)
		}
	}
	_ = conn.SetReadDeadline(time.Now().Add(long))
	if _, err := conn.Read(make([]byte, 1)); tunnel.CodeOf(err) != framecodec.CodeTunnelLost && tunnel.CodeOf(err) != framecodec.CodeClosedByAdmin {
		t.Errorf("the stream ended with %v", err)
	}
	listed(t, "alice", bobsService+" stream") // the remote is eager
	eventually(t, func() error {
		c, err := alice.open(bobsService)
		if err != nil {
			return err
		}
		return pingPong(c)
	})
}

// refusing serves no stream.
type refusing struct{}

func (refusing) Accept(in *tunnel.Incoming) { in.Refuse(framecodec.CodeRefused, "") }
func (refusing) Close()                     {}
func (refusing) Wait()                      {}

// exposer is a client of its own that exposes a service, and what becomes of that.
func exposer(t *testing.T, name, service string) <-chan client.Publication {
	t.Helper()
	published := make(chan client.Publication, 64)
	p, err := client.Dial(t.Context(), client.Config{
		URLs: []string{siteURL}, Header: func(context.Context) (http.Header, error) { return user(name), nil },
		Services: []client.Service{{Name: service}}, Serve: func() client.Server { return refusing{} },
		Published: func(_ *client.Tunnel, p client.Publication) { published <- p },
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Close() })
	return published
}

// TestReverseReload: what the new rules no longer let anybody publish or reach
// ends with the reload, what they allow again comes back by itself.
func TestReverseReload(t *testing.T) {
	app := remoteOf("bob", "sshd tcp/"+echoServer(t))
	entry := "webrtc_tunnel local " + bobsService
	allowed := exposing("allow sshd {\nusers bob\nreachable_by alice\n}", app, entry)
	start(t, allowed)
	listed(t, "alice", bobsService+" stream")
	alice := connect(t, siteURL, user("alice"))
	open := func() *tunnel.Conn {
		t.Helper()
		var conn *tunnel.Conn
		eventually(t, func() (err error) { conn, err = alice.open(bobsService); return err })
		return conn
	}
	local, err := net.Dial("tcp", entry1)
	if err != nil {
		t.Fatal(err)
	}
	defer local.Close()
	if err := pingPong(local); err != nil {
		t.Fatal(err)
	}
	conn := open()
	// Alice may no longer reach it, the entry may.
	if err := load(exposing("allow sshd {\nusers bob\nreachable_by carol\n}", app, entry)); err != nil {
		t.Fatal(err)
	}
	_ = conn.SetReadDeadline(time.Now().Add(long))
	if _, err := conn.Read(make([]byte, 1)); tunnel.CodeOf(err) != framecodec.CodePolicyChanged {
		t.Errorf("alice's stream ended with %v", err)
	}
	if err := pingPong(local); err != nil {
		t.Error("the entry's stream ended:", err)
	}
	listed(t, "carol", bobsService+" stream")
	// Nobody may publish it.
	if err := load(exposing("allow other {\nusers bob\n}", app, entry)); err != nil {
		t.Fatal(err)
	}
	_ = local.SetReadDeadline(time.Now().Add(long))
	if n, err := local.Read(make([]byte, 1)); n > 0 || err == nil {
		t.Errorf("the entry's stream goes on: %d, %v", n, err)
	}
	listed(t, "carol")
	eventually(t, func() error { // the client says so
		var h struct{ Reasons []string }
		admin(t, http.MethodGet, "/webrtc_tunnel/health", "", &h)
		if !strings.Contains(fmt.Sprint(h.Reasons), "sshd (not_allowed)") {
			return fmt.Errorf("health says %q", h.Reasons)
		}
		return nil
	})
	if err := load(allowed); err != nil {
		t.Fatal(err)
	}
	listed(t, "alice", bobsService+" stream")
	if err := pingPong(open()); err != nil {
		t.Error(err)
	}
}

// TestReverseRefusals: what cannot work is said at load.
func TestReverseRefusals(t *testing.T) {
	start(t, bare)
	rule := "allow sshd {\nusers bob\n}"
	for name, test := range map[string]struct{ caddyfile, want string }{
		"no endpoint exposes": {global("", "\tlayer4 {\n"+entry1+" {\nroute {\nwebrtc_tunnel local "+bobsService+"\n}\n}\n}\n") + site(""), "no endpoint of this Caddy has an expose block"},
		"another endpoint":    {exposing(rule, "", "webrtc_tunnel local "+bobsService+" {\nendpoint nosuch\n}"), `nosuch\" with an expose block`},
		"no service":          {exposing(rule, "", "webrtc_tunnel local ssh"), "give client:IDENTITY/NAME"},
		"SOCKS":               {exposing(rule, "", "webrtc_tunnel local socks5"), "give client:IDENTITY/NAME"},
		"endpoint elsewhere":  {exposing(rule, remoteOf("bob"), "webrtc_tunnel bobs ssh {\nendpoint gw\n}"), "endpoint belongs to the remote local"},
		"a wrong name":        {exposing("allow SSHD", ""), "cannot name a service"},
		"no name":             {exposing("allow", ""), "wrong argument count"},
		"lazy":                {exposing(rule, "remote bobs "+siteURL+" {\nconnect lazy\nexpose sshd tcp/127.0.0.1:22\n}"), "always eager"},
		"dialect 1":           {exposing(rule, "remote bobs "+siteURL+" {\ndialect 1\nexpose sshd tcp/127.0.0.1:22\n}"), "dialect 1 has no services"},
		"no address":          {exposing(rule, "remote bobs "+siteURL+" {\nexpose sshd\n}"), "wrong argument count"},
		"a wrong address":     {exposing(rule, "remote bobs "+siteURL+" {\nexpose sshd 127.0.0.1:22\n}"), "write it as tcp/host:port"},
		"a name of dots":      {exposing(rule, "remote bobs "+siteURL+" {\nexpose a.b tcp/127.0.0.1:22\n}"), "a service's name is"},
		"twice":               {exposing(rule, "remote bobs "+siteURL+" {\nexpose a tcp/127.0.0.1:22\nexpose a tcp/127.0.0.1:23\n}"), "duplicate service"},
	} {
		err := load(test.caddyfile)
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v, want %q", name, err, test.want)
		}
	}
}

// TestOffersAreLimited: a client that offers and withdraws on and on is refused, and
// its tunnel goes on.
func TestOffersAreLimited(t *testing.T) {
	start(t, exposing("allow * {\nusers bob\n}", "", "webrtc_tunnel local "+bobsService))
	c, err := client.Dial(t.Context(), client.Config{
		URLs: []string{siteURL}, Header: func(context.Context) (http.Header, error) { return user("bob"), nil },
		Services: []client.Service{{Name: "first"}}, Serve: func() client.Server { return refusing{} },
	})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	for i := range 4 * tunnel.MaxServices {
		ctx, cancel := context.WithTimeout(t.Context(), long)
		s, err := c.Session().Expose(ctx, tunnel.KindNamed, fmt.Sprintf("s%d", i))
		cancel()
		if err != nil {
			if tunnel.CodeOf(err) != framecodec.CodeOverloaded || i < tunnel.MaxServices {
				t.Errorf("offer %d: %v", i, err)
			}
			return
		}
		s.Withdraw()
	}
	t.Error("no offer was refused")
}
