package integration

import (
	"errors"
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/culvertgate/culvert/framecodec"
	"github.com/culvertgate/culvert/internal/testkit"
	"github.com/culvertgate/culvert/tunnel/rtc"
	"github.com/culvertgate/culvert/tunnel/signal"
)

// user is a request header that the tests' endpoints take the identity from.
func user(name string) http.Header { return http.Header{"X-User": {name}} }

// users is an endpoint that knows identities.
func users(options string) string {
	return "http://" + siteAddr + " {\n\tlog\n\twebrtc_tunnel /tunnel* {\n\t\tname gw\n\t\tidentity {http.request.header.X-User}\n" + options + "\n\t}\n}\n"
}

// TestTunnelLimits: of one identity, and of all.
func TestTunnelLimits(t *testing.T) {
	start(t, global("\t\tlimits {\n\t\t\ttunnels 3\n\t\t}", "")+users("limits {\ntunnels_per_identity 2\n}"))
	first := connect(t, siteURL, user("alice"))
	connect(t, siteURL, user("alice"))
	_, err := tryConnect(t.Context(), siteURL, user("alice"))
	wantCode(t, err, framecodec.CodeTooManyTunnels)
	connect(t, siteURL, user("bob"))
	_, err = tryConnect(t.Context(), siteURL, user("carol"))
	wantCode(t, err, framecodec.CodeOverloaded)
	var answer *signal.ResponseError
	if !errors.As(err, &answer) || answer.Status != http.StatusServiceUnavailable || answer.RetryAfter <= 0 {
		t.Errorf("%+v, want status 503 with Retry-After", answer)
	}
	first.close()
	eventually(t, func() error {
		p, err := tryConnect(t.Context(), siteURL, user("alice"))
		if err == nil {
			p.close()
		}
		return err
	})
}

// TestStreamLimits: of one tunnel, of all, and of opens a second.
func TestStreamLimits(t *testing.T) {
	echo := echoServer(t)
	for name, test := range map[string]struct {
		app, endpoint string
		opens         int
		want          framecodec.Code
	}{
		"of a tunnel":      {"", "limits {\nstreams_per_tunnel 3\n}", 3, framecodec.CodeTooManyStreams},
		"of all":           {"\t\tlimits {\n\t\t\tstreams 3\n\t\t}", "", 3, framecodec.CodeTooManyStreams},
		"opens per second": {"", "limits {\nopens_per_second 3\n}", 3, framecodec.CodeOverloaded},
	} {
		t.Run(name, func(t *testing.T) {
			start(t, global(test.app, "")+site("target echo tcp/"+echo+"\n"+test.endpoint))
			p := connect(t, siteURL, nil)
			for i := range test.opens {
				c, err := p.open("echo")
				if err != nil {
					t.Fatalf("open %d: %v", i, err)
				}
				defer c.Close()
				if err := pingPong(c); err != nil {
					t.Fatal(err)
				}
			}
			c, err := p.open("echo")
			for range 50 { // a second may have gone by meanwhile
				if err != nil || test.want != framecodec.CodeOverloaded {
					break
				}
				_ = c.Close()
				c, err = p.open("echo")
			}
			wantCode(t, err, test.want)
		})
	}
}

// offerOnly sends an offer and leaves the answer: a handshake that goes no
// further.
func offerOnly(t *testing.T, header http.Header) (*signal.ClientSession, error) {
	t.Helper()
	dialer := rtc.NewDialer(rtc.DialerConfig{Loopback: true, ListenAddress: "127.0.0.1:0"})
	p, offer, err := dialer.Offer(t.Context(), []rtc.ChannelSpec{{Protocol: "culvert.2"}}, nil, rtc.Handler{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close(framecodec.CodeTunnelClosed) })
	return newSignal(t, header).Offer(t.Context(), offer, "")
}

// TestHandshakeLimits: offers that go no further are bounded for each client,
// end after timeouts.connect, and then make room.
func TestHandshakeLimits(t *testing.T) {
	start(t, global("\t\tlimits {\n\t\t\thandshakes_per_client 3\n\t\t}\n\t\ttimeouts {\n\t\t\tconnect 5s\n\t\t}", "")+users(""))
	for i := range 3 {
		if _, err := offerOnly(t, user(fmt.Sprint("user", i))); err != nil {
			t.Fatal(err)
		}
	}
	// Another identity, but the same address.
	_, err := offerOnly(t, user("late"))
	wantCode(t, err, framecodec.CodeTooManyTunnels)
	var answer *signal.ResponseError
	if !errors.As(err, &answer) || answer.Status != http.StatusTooManyRequests || answer.RetryAfter <= 0 {
		t.Errorf("%+v, want status 429 with Retry-After", answer)
	}
	eventually(t, func() error {
		if list := tunnels(t, "gateway"); len(list) != 0 {
			return fmt.Errorf("%d handshakes are left", len(list))
		}
		return nil
	})
	connect(t, siteURL, user("late"))
}

// TestHandshakesFull: when all are in use the oldest of the busiest client goes.
// All come from one address here, so identities tell them apart.
func TestHandshakesFull(t *testing.T) {
	start(t, global("\t\tlimits {\n\t\t\thandshakes 3\n\t\t}", "")+users(""))
	if _, err := offerOnly(t, user("quiet")); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if _, err := offerOnly(t, user("busy")); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := offerOnly(t, user("new")); err != nil {
		t.Fatalf("an offer was refused although an older one could go: %v", err)
	}
	eventually(t, func() error {
		if list := tunnels(t, "gateway"); len(list) != 3 {
			return fmt.Errorf("%d tunnels, want 3", len(list))
		}
		return nil
	})
}

func tryKeep(t *testing.T, header http.Header) (*peer, error) {
	p, err := tryConnect(t.Context(), siteURL, header)
	if err == nil {
		t.Cleanup(p.close)
	}
	return p, err
}

// TestMaxAge: an identity's time is over unless it is renewed.
func TestMaxAge(t *testing.T) {
	start(t, global("", "")+users("max_age 5s"))
	stays, goes := connect(t, siteURL, user("alice")), connect(t, siteURL, user("bob"))
	if stays.signal.ExpiresIn <= 0 || stays.signal.ExpiresIn > 5*time.Second {
		t.Errorf("expires in %v, want at most 5s", stays.signal.ExpiresIn)
	}
	if err := testkit.WaitFor(long, func() error {
		if _, err := stays.signal.Renew(t.Context()); err != nil {
			t.Fatal(err)
		}
		select {
		case <-goes.session.Done():
			return nil
		default:
			return errors.New("the tunnel that was not renewed is still there")
		}
	}); err != nil {
		t.Fatal(err)
	}
	wantCode(t, goes.session.Err(), framecodec.CodeAuthExpired)
	if err := stays.session.Err(); err != nil {
		t.Errorf("the tunnel that was renewed has ended: %v", err)
	}
}

// TestExpires: the credential's own end counts, and is taken anew by renew.
func TestExpires(t *testing.T) {
	start(t, global("", "")+users("expires {http.request.header.X-Expires}"))
	at := func(d time.Duration) http.Header {
		h := user("alice")
		h.Set("X-Expires", fmt.Sprint(time.Now().Add(d).Unix()))
		return h
	}
	_, err := tryConnect(t.Context(), siteURL, at(-time.Minute))
	wantCode(t, err, framecodec.CodeAuthExpired)
	garbage := user("alice")
	garbage.Set("X-Expires", "tomorrow")
	_, err = tryConnect(t.Context(), siteURL, garbage)
	wantCode(t, err, framecodec.CodeAuthExpired)
	connect(t, siteURL, user("alice")) // without an end
	p := connect(t, siteURL, at(6*time.Second))
	<-p.session.Done()
	wantCode(t, p.session.Err(), framecodec.CodeAuthExpired)
}
