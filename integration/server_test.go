// Package integration runs the real Caddy with Culvert in this process, on
// fixed ports: all such tests are in this one package and none runs in parallel
// (caddytest's admin port is 2999). Caddy goes on running behind the last test,
// so there is no leak check here; each test ends with an empty configuration,
// and those that count goroutines do so themselves.
package integration

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2/caddytest"
	_ "github.com/mholt/caddy-l4"

	_ "github.com/culvertgate/culvert"
	"github.com/culvertgate/culvert/framecodec"
	"github.com/culvertgate/culvert/internal/testkit"
	"github.com/culvertgate/culvert/tunnel"
	"github.com/culvertgate/culvert/tunnel/rtc"
	"github.com/culvertgate/culvert/tunnel/signal"
)

// The fixed addresses of this package. Targets and other peers use free ports.
const (
	adminURL = "http://localhost:2999"
	siteAddr = "127.0.0.1:9080"
	siteURL  = "http://" + siteAddr + "/tunnel"
	udpAddr  = "127.0.0.1:9478"
	entry1   = "127.0.0.1:9022"
	entry2   = "127.0.0.1:9023"
	socks1   = "127.0.0.1:9081"
)

// long bounds everything that should take a moment.
const long = 15 * time.Second

// global is the global options block of most tests, with more lines in it and
// in webrtc_tunnel.
func global(app, more string) string {
	return "{\n\tadmin localhost:2999\n\tauto_https off\n\tpersist_config off\n" + logging() + "\twebrtc_tunnel {\n\t\tlisten udp/" + udpAddr + "\n" + app + "\n\t}\n" + more + "\n}\n"
}

// site is a site with an endpoint for everybody on this machine.
func site(options string) string {
	return "http://" + siteAddr + " {\n\tlog\n\twebrtc_tunnel /tunnel* {\n\t\tname gw\n\t\tallow_anonymous\n" + options + "\n\t}\n}\n"
}

// bare is a configuration with nothing in it.
const bare = "{\n\tadmin localhost:2999\n\tpersist_config off\n}\n"

// launched: Caddy runs in this process. caddytest would launch another one when
// the admin endpoint does not answer at once, which happens while it moves from
// one configuration to the next; so it is asked once.
var launched sync.Once

// start loads a Caddyfile and unloads it at the end of the test.
func start(t *testing.T, caddyfile string) {
	t.Helper()
	launched.Do(func() { caddytest.NewTester(t).InitServer(bare, "caddyfile") })
	if t.Failed() {
		t.FailNow()
	}
	if err := load(caddyfile); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := load(bare); err != nil {
			t.Error(err)
		}
		// Caddy closes listeners behind our back, and a connection that is taken
		// by one that is about to close is lost: the next test should have none.
		eventually(t, func() error {
			for _, address := range []string{siteAddr, entry1, socks1} {
				if c, err := net.Dial("tcp", address); err == nil {
					c.Close()
					return fmt.Errorf("%s still listens", address)
				}
			}
			return nil
		})
	})
}

// load replaces the configuration, as `caddy reload` does. It tries again when
// the connection is lost, because each load moves the admin endpoint, too; one
// that was loaded already is not loaded twice.
func load(caddyfile string) error {
	var status error
	network := testkit.WaitFor(long, func() (err error) {
		status, err = post(adminURL+"/load", caddyfile)
		return err
	})
	return errors.Join(network, status)
}

// post sends a configuration; it tells what Caddy says of it from what the
// network does.
func post(url, caddyfile string) (status, network error) {
	req, err := http.NewRequest(http.MethodPost, url, strings.NewReader(caddyfile))
	if err != nil {
		return err, nil
	}
	req.Header.Set("Content-Type", "text/caddyfile")
	res, err := oneShot.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		return nil, err
	}
	if res.StatusCode != http.StatusOK {
		return errors.New(string(body)), nil
	}
	return nil, nil
}

// oneShot keeps no connections: a reload ends them.
var oneShot = &http.Transport{DisableKeepAlives: true}

// patiently asks again when the network fails: a reload closes the old listener of
// the admin API behind its answer, and what waits in that one's queue is reset.
// Only what changes nothing can be asked twice.
func patiently(req *http.Request) (res *http.Response, err error) {
	for range 5 {
		if res, err = oneShot.RoundTrip(req); err == nil || req.Method != http.MethodGet {
			return res, err
		}
	}
	return res, err
}

// admin asks the admin API and decodes its answer into v, which may be nil.
func admin(t *testing.T, method, path, body string, v any) int {
	t.Helper()
	req, err := http.NewRequest(method, adminURL+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	res, err := patiently(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	raw, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	told(raw)
	if v != nil && res.StatusCode < 300 {
		if err := json.Unmarshal(raw, v); err != nil {
			t.Fatalf("%s %s: %v in %s", method, path, err, raw)
		}
	}
	return res.StatusCode
}

// decode reads an answer's body, which must be JSON, into v.
func decode(t *testing.T, res *http.Response, v any) {
	t.Helper()
	defer res.Body.Close()
	raw, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	told(raw)
	if err := json.Unmarshal(raw, v); err != nil {
		t.Fatalf("%v in %s", err, raw)
	}
}

// tunnelJSON is what the tests read of a tunnel in the admin API.
type tunnelJSON struct {
	ID, Side, Remote, Endpoint, Identity, State string
	ClientIP                                    string `json:"client_ip"`
	CandidatePair                               string `json:"candidate_pair"`
	Dialect, Streams                            int
	BytesIn                                     uint64 `json:"bytes_in"`
	BytesOut                                    uint64 `json:"bytes_out"`
	StreamList                                  []struct {
		ID     uint32
		Target string
	} `json:"stream_list"`
}

// tunnels lists the tunnels of a side.
func tunnels(t *testing.T, side string) []tunnelJSON {
	t.Helper()
	var all, of []tunnelJSON
	if status := admin(t, http.MethodGet, "/webrtc_tunnel/tunnels", "", &all); status != http.StatusOK {
		t.Fatalf("GET tunnels: status %d", status)
	}
	for _, one := range all {
		if one.Side == side {
			of = append(of, one)
		}
	}
	return of
}

// peer is a client that is made here step by step, so that a test can leave one
// out or do it wrong.
type peer struct {
	rtc     *rtc.Peer
	signal  *signal.ClientSession
	session *tunnel.Session
}

// connect makes a tunnel and its session. A connection that Caddy's old listener
// took just before it closed, in a reload, is lost: then it tries again.
func connect(t *testing.T, url string, header http.Header) *peer {
	t.Helper()
	var p *peer
	eventually(t, func() error {
		var err error
		if p, err = tryConnect(t.Context(), url, header); err != nil && tunnel.CodeOf(err) != framecodec.CodeUnreachable {
			t.Fatal(err)
		}
		return err
	})
	t.Cleanup(p.close)
	return p
}

func tryConnect(ctx context.Context, url string, header http.Header) (*peer, error) {
	ctx, cancel := context.WithTimeout(ctx, long)
	defer cancel()
	client, err := signalClient(url, header)
	if err != nil {
		return nil, err
	}
	channels := make(chan *rtc.Channel, 4)
	dialer := rtc.NewDialer(rtc.DialerConfig{Loopback: true, ListenAddress: "127.0.0.1:0"})
	p := &peer{}
	var offer string
	p.rtc, offer, err = dialer.Offer(ctx, []rtc.ChannelSpec{{Label: "tunnel", Protocol: "culvert.2"}}, nil,
		rtc.Handler{OnChannel: func(_ *rtc.Peer, c *rtc.Channel) {
			if c.Protocol() == datagramChannel.Protocol { // a test has asked for it, since the session is there
				p.session.AttachDatagrams(c)
				return
			}
			channels <- c
		}})
	if err != nil {
		return nil, err
	}
	if p.signal, err = client.Offer(ctx, offer, ""); err == nil {
		err = p.rtc.Accept(p.signal.Answer)
	}
	if err != nil {
		p.close()
		return nil, err
	}
	select {
	case c := <-channels:
		p.session = tunnel.NewSession(c, tunnel.Config{Dialect: tunnel.Dialect2, Role: tunnel.RoleClient})
	case <-p.rtc.Done():
		err = p.rtc.Err()
	case <-ctx.Done():
		err = ctx.Err()
	}
	if err == nil {
		select {
		case <-p.session.Ready():
		case <-p.session.Done():
			err = p.session.Err()
		}
	}
	if err != nil {
		p.close()
		return nil, err
	}
	return p, nil
}

// signalClient talks to the endpoint, and its secrets are seen going by.
func signalClient(url string, header http.Header) (*signal.Client, error) {
	return signal.NewClient(signal.ClientConfig{
		URL: url, HTTP: &http.Client{Transport: watching{oneShot}},
		Header: func(context.Context) (http.Header, error) { return header, nil },
	})
}

func newSignal(t *testing.T, header http.Header) *signal.Client {
	t.Helper()
	client, err := signalClient(siteURL, header)
	if err != nil {
		t.Fatal(err)
	}
	return client
}

func (p *peer) close() {
	if p.session != nil {
		p.session.Close(framecodec.CodeTunnelClosed, "")
		<-p.session.Done()
	}
	p.rtc.Close(framecodec.CodeTunnelClosed)
}

// open opens a stream.
func (p *peer) open(target string) (*tunnel.Conn, error) {
	parsed, err := tunnel.ParseTarget(target)
	if err != nil {
		return nil, err
	}
	conn, ep := tunnel.NewConn(tunnel.Addr{Net: "webrtc"}, tunnel.Addr{Net: "webrtc", Text: target})
	ctx, cancel := context.WithTimeout(context.Background(), long)
	defer cancel()
	if _, err := p.session.Open(ctx, parsed, ep); err != nil {
		return nil, err
	}
	return conn, nil
}

// echoServer is a TCP server that sends back what it gets, half close included.
func echoServer(t *testing.T) (address string) {
	t.Helper()
	return serveOn(t, "127.0.0.1:0")
}

// serve accepts connections on a free port of loopback until the test ends.
func serve(t *testing.T, handle func(net.Conn)) (address string) {
	t.Helper()
	return serveAt(t, "127.0.0.1:0", handle)
}

// serveOn is echoServer at an address.
func serveOn(t *testing.T, at string) (address string) {
	t.Helper()
	return serveAt(t, at, func(c net.Conn) { _, _ = io.Copy(c, c) })
}

func serveAt(t *testing.T, at string, handle func(net.Conn)) (address string) {
	t.Helper()
	l, err := net.Listen("tcp", at)
	if err != nil {
		t.Fatal(err)
	}
	serveListener(t, l, handle)
	return l.Addr().String()
}

// serveListener takes connections until the test ends, each in a goroutine.
func serveListener(t *testing.T, l net.Listener, handle func(net.Conn)) {
	t.Helper()
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				handle(c)
			}()
		}
	}()
}

// pingPong sends a few bytes and wants them back.
func pingPong(c net.Conn) error {
	if err := c.SetDeadline(time.Now().Add(long)); err != nil {
		return err
	}
	defer c.SetDeadline(time.Time{})
	sent := []byte(fmt.Sprintf("ping %d", time.Now().UnixNano()))
	if _, err := c.Write(sent); err != nil {
		return err
	}
	got := make([]byte, len(sent))
	if _, err := io.ReadFull(c, got); err != nil {
		return err
	}
	if !bytes.Equal(sent, got) {
		return fmt.Errorf("sent %q, got %q", sent, got)
	}
	return nil
}

// codeOf wants an error with a code.
func wantCode(t *testing.T, err error, want tunnel.Code) {
	t.Helper()
	if got := tunnel.CodeOf(err); err == nil || got != want {
		t.Errorf("error %v has code %v, want %v", err, got, want)
	}
}

// eventually waits for a condition.
func eventually(t *testing.T, check func() error) {
	t.Helper()
	testkit.Eventually(t, long, check)
}
