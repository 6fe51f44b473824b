package rtc

import (
	"context"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pion/logging"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/culvertgate/culvert/tunnel/udp"
)

func TestFilter(t *testing.T) {
	for _, c := range []struct {
		words   string
		shown   string
		refused string
	}{
		{"", "10.0.0.1 203.0.113.1 2001:db8::1", ""},
		{"all", "10.0.0.1 203.0.113.1", ""},
		{"public", "203.0.113.1 2a00::1", "10.0.0.1 172.16.0.1 192.168.1.1 100.64.0.1 169.254.1.1 127.0.0.1 fd00::1 fe80::1 ::1"},
		{"10.0.0.0/8 203.0.113.1", "10.2.3.4 203.0.113.1", "203.0.113.2 11.0.0.1"},
		{"public 10.0.0.0/8", "203.0.113.1 10.1.1.1", "192.168.0.1"},
		{"fd00::/8", "fd12::1", "10.0.0.1"},
	} {
		f, err := parseFilter(strings.Fields(c.words))
		if err != nil {
			t.Errorf("%q: %v", c.words, err)
			continue
		}
		for a := range strings.FieldsSeq(c.shown) {
			if !f.shows(netip.MustParseAddr(a)) {
				t.Errorf("%q does not show %s", c.words, a)
			}
		}
		for a := range strings.FieldsSeq(c.refused) {
			if f.shows(netip.MustParseAddr(a)) {
				t.Errorf("%q shows %s", c.words, a)
			}
		}
	}
	for _, bad := range []string{"all public", "private", "10.0.0.0/33", "example.com"} {
		if _, err := parseFilter(strings.Fields(bad)); err == nil {
			t.Errorf("%q was accepted", bad)
		}
	}
}

func TestExternal(t *testing.T) {
	var wg sync.WaitGroup
	defer wg.Wait()
	spawn := func(f func()) bool { wg.Go(f); return true }
	for text, want := range map[string]string{
		"203.0.113.7": "203.0.113.7:3478", "203.0.113.7:80": "203.0.113.7:80", "2001:db8::7": "[2001:db8::7]:3478",
		"[2001:db8::7]:80": "[2001:db8::7]:80", "[2001:db8::7]": "[2001:db8::7]:3478", "::ffff:203.0.113.7": "203.0.113.7:3478",
	} {
		e, err := parseExternal(text)
		if err != nil {
			t.Errorf("%q: %v", text, err)
			continue
		}
		if got := e.addresses(t.Context(), spawn, 3478, time.Now()); len(got) != 1 || got[0].String() != want {
			t.Errorf("%q: %v", text, got)
		}
	}
	for _, bad := range []string{"", ":80", "203.0.113.7:0", "203.0.113.7:x", "0.0.0.0", "224.0.0.1", "fe80::1%eth0", "a b", "http://x"} {
		if _, err := parseExternal(bad); err == nil {
			t.Errorf("%q was accepted", bad)
		}
	}
	// A name is looked up, and again when it is old; localhost needs no network.
	e, err := parseExternal("localhost:99")
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	got := e.addresses(t.Context(), spawn, 3478, now)
	if !slices.ContainsFunc(got, func(a netip.AddrPort) bool { return a.Addr().IsLoopback() && a.Port() == 99 }) {
		t.Errorf("localhost: %v", got)
	}
	e.mu.Lock()
	e.found = []netip.Addr{netip.MustParseAddr("192.0.2.1")} // as if it had moved since
	e.mu.Unlock()
	if got := e.addresses(t.Context(), spawn, 3478, now.Add(time.Second)); got[0].Addr().String() != "192.0.2.1" {
		t.Errorf("looked up again at once: %v", got)
	}
	e.addresses(t.Context(), spawn, 3478, now.Add(2*lookupAgain))
	eventually(t, 5*time.Second, "the name is looked up again", func() bool {
		return e.addresses(t.Context(), spawn, 3478, now.Add(2*lookupAgain))[0].Addr().IsLoopback()
	})
}

// TestExternalLookup: all who ask for a name that is not known yet wait for the
// one look-up, each as long as it likes; nobody waits once something is known.
func TestExternalLookup(t *testing.T) {
	checkLeaks(t)
	var wg sync.WaitGroup
	defer wg.Wait()
	spawn := func(f func()) bool { wg.Go(f); return true }
	e, err := parseExternal("gateway.example")
	if err != nil {
		t.Fatal(err)
	}
	var lookups atomic.Int32
	answer := make(chan netip.Addr)
	e.resolve = func(context.Context, string, string) ([]netip.Addr, error) {
		lookups.Add(1)
		return []netip.Addr{<-answer}, nil
	}
	now := time.Now()
	gone, leave := context.WithCancel(t.Context())
	leave()
	if got := e.addresses(gone, spawn, 3478, now); len(got) != 0 {
		t.Errorf("before the look-up: %v", got)
	}
	got := make(chan []netip.AddrPort)
	for range 3 {
		go func() { got <- e.addresses(t.Context(), spawn, 3478, now) }()
	}
	answer <- netip.MustParseAddr("192.0.2.1")
	for range 3 {
		if list := <-got; len(list) != 1 || list[0].String() != "192.0.2.1:3478" {
			t.Errorf("after the first look-up: %v", list)
		}
	}
	if list := e.addresses(t.Context(), spawn, 3478, now.Add(2*lookupAgain)); len(list) != 1 {
		t.Errorf("during the second look-up: %v", list)
	}
	answer <- netip.MustParseAddr("192.0.2.2")
	eventually(t, 5*time.Second, "the second look-up counts", func() bool {
		return e.addresses(t.Context(), spawn, 3478, now.Add(2*lookupAgain))[0].Addr() == netip.MustParseAddr("192.0.2.2")
	})
	if n := lookups.Load(); n != 2 {
		t.Errorf("%d look-ups", n)
	}
	g := testGateway(t, Options{})
	g.Close()
	unknown, err := parseExternal("gateway.example")
	if err != nil {
		t.Fatal(err)
	}
	unknown.resolve = e.resolve
	if list := unknown.addresses(t.Context(), g.spawn, 3478, now); len(list) != 0 || lookups.Load() != 2 {
		t.Errorf("a closed gateway looks up: %v", list)
	}
}

// TestAddresses: what answers show, and that a gateway which would show nothing
// says so.
func TestAddresses(t *testing.T) {
	checkLeaks(t)
	open := func(address string) *udp.Socket {
		s, err := udp.Listen(context.Background(), "udp", address, udp.Config{})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	s := open("127.0.0.1:0")
	if _, err := NewGateway(GatewayConfig{Socket: s}); err == nil || !strings.Contains(err.Error(), "loopback") {
		t.Errorf("a loopback socket without the option: %v", err)
	}
	for _, o := range []Options{{Candidates: []string{"x"}}, {ExternalAddresses: []string{"0.0.0.0"}}} {
		o.Loopback = true
		if _, err := NewGateway(GatewayConfig{Socket: s, Options: o}); err == nil {
			t.Errorf("%+v was accepted", o)
		}
	}
	g, err := NewGateway(GatewayConfig{Socket: s, Options: Options{Loopback: true}})
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	show := func(o Options) string {
		t.Helper()
		o.Loopback = true
		if err := g.SetOptions(o); err != nil {
			t.Fatal(err)
		}
		list, err := g.Addresses(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		var hosts []string
		for _, a := range list {
			hosts = append(hosts, a.Addr().String())
		}
		return strings.Join(hosts, " ")
	}
	external := []string{"203.0.113.7", "2001:db8::7"}
	for _, c := range []struct {
		o    Options
		want string
	}{
		{Options{}, "127.0.0.1"},
		{Options{Candidates: []string{"public"}}, ""},
		{Options{ExternalAddresses: external}, "203.0.113.7 2001:db8::7"},
		{Options{ExternalAddresses: external, KeepPrivate: true}, "203.0.113.7 2001:db8::7 127.0.0.1"},
		{Options{ExternalAddresses: external, Candidates: []string{"10.0.0.0/8"}, KeepPrivate: true}, "203.0.113.7 2001:db8::7"},
	} {
		if got := show(c.o); got != c.want {
			t.Errorf("%+v shows %q, want %q", c.o, got, c.want)
		}
	}
	show(Options{Candidates: []string{"public"}})
	if _, _, err := g.Answer(t.Context(), goodOffer, Handler{}); err == nil || !strings.Contains(err.Error(), "external_address") {
		t.Errorf("an answer without any candidate: %v", err)
	}
	show(Options{ExternalAddresses: external})
	e := newEnd()
	_, answer, err := g.Answer(t.Context(), goodOffer, e.handler())
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(answer, "a=candidate"); n != 2 || !strings.Contains(answer, " 203.0.113.7 ") || strings.Contains(answer, "127.0.0.1") {
		t.Errorf("%d candidates in\n%s", n, answer)
	}
}

// TestLogs: pion's words are lowered and sampled, and hold no credentials.
func TestLogs(t *testing.T) {
	core, logs := observer.New(zap.DebugLevel)
	log := zap.New(core)
	factory := newLoggers(func() *zap.Logger { return log })
	var _ logging.LoggerFactory = factory
	ice := factory.NewLogger("ice")
	if factory.NewLogger("ice") != ice {
		t.Error("two loggers for one scope")
	}
	ice.Debugf("Started agent: remoteUfrag: %q, remotePwd: %q", "secretufrag", "secretpwd")
	ice.Warnf("Discard request with wrong username from (%s), %v", "x", "secretufrag")
	for range 100 {
		ice.Errorf("dropping candidate with ufrag %s", "secretufrag")
	}
	factory.NewLogger("dtls").Warnf("handshake: %v", context.DeadlineExceeded)
	debug, warn := 0, 0
	for _, entry := range logs.All() {
		if text := entry.Message; strings.Contains(text, "secret") {
			t.Errorf("logged: %s", text)
		}
		for _, f := range entry.Context {
			if strings.Contains(f.String, "secret") {
				t.Errorf("logged: %s", f.String)
			}
		}
		switch entry.Level {
		case zap.DebugLevel:
			debug++
		case zap.WarnLevel:
			warn++
		default:
			t.Errorf("level %v", entry.Level)
		}
	}
	if debug != 2 || warn < pionLogsPerSecond || warn > 2*pionLogsPerSecond {
		t.Errorf("%d debug lines and %d warnings", debug, warn)
	}
	if last := logs.All()[logs.Len()-1]; last.ContextMap()["error"] == nil {
		t.Errorf("the cause of a DTLS failure is not logged: %v", last.ContextMap())
	}
}

// TestNoSecretsLogged: a connection with its restart and its end, with debug
// logging, names no credential in the log.
func TestNoSecretsLogged(t *testing.T) {
	checkLeaks(t)
	core, logs := observer.New(zap.DebugLevel)
	log := func() *zap.Logger { return zap.New(core) }
	s, err := udp.Listen(context.Background(), "udp", anyPort, udp.Config{})
	if err != nil {
		t.Fatal(err)
	}
	g, err := NewGateway(GatewayConfig{Socket: s, Logger: log, Options: Options{Loopback: true}})
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	d := NewDialer(DialerConfig{Logger: log, Loopback: true, ListenAddress: anyPort})
	p := connect(t, g, d)
	f, err := p.client.OfferRestart(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	answer, err := p.server.Restart(t.Context(), f)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.client.AcceptRestart(answer); err != nil {
		t.Fatal(err)
	}
	through(t, p, "after the restart")
	newOutside(t, s).send(stunMessage(stunRequest, 1, answer.Ufrag+":wrong"))
	p.client.Close(0)
	p.serverEnd.waitEnd(t, 5*time.Second, 20)
	secrets := []string{f.Ufrag, f.Pwd, answer.Ufrag, answer.Pwd}
	if logs.Len() == 0 {
		t.Error("nothing was logged, so nothing was tested")
	}
	for _, entry := range logs.All() {
		text := entry.Message
		for _, field := range entry.Context {
			text += " " + field.String
		}
		for _, secret := range secrets {
			if strings.Contains(text, secret) {
				t.Errorf("a credential was logged: %s", text)
			}
		}
	}
}
