package integration

import (
	"context"
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/culvertgate/culvert/framecodec"
	"github.com/culvertgate/culvert/tunnel"
	"github.com/culvertgate/culvert/tunnel/rtc"
)

// openChannel makes a tunnel of alice with one channel of a protocol.
func openChannel(t *testing.T, protocol string, unordered bool) (*peer, *rtc.Channel) {
	t.Helper()
	p, channels := openChannels(t, []rtc.ChannelSpec{{Protocol: protocol, Unordered: unordered}})
	return p, channels[0]
}

// openChannels makes a tunnel of alice and returns its channels when all are
// open, in the order of opening.
func openChannels(t *testing.T, specs []rtc.ChannelSpec) (*peer, []*rtc.Channel) {
	t.Helper()
	p, list, err := tryChannels(t, user("alice"), "", specs)
	if err != nil {
		t.Fatal(err)
	}
	return p, list
}

// tryChannels makes a tunnel that may be for one target (?target=). The error is
// the gateway's answer to the offer.
func tryChannels(t *testing.T, header http.Header, target string, specs []rtc.ChannelSpec) (*peer, []*rtc.Channel, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), long)
	defer cancel()
	open := make(chan *rtc.Channel, len(specs))
	dialer := rtc.NewDialer(rtc.DialerConfig{Loopback: true, ListenAddress: "127.0.0.1:0"})
	p := &peer{}
	var offer string
	var err error
	p.rtc, offer, err = dialer.Offer(ctx, specs, nil, rtc.Handler{OnChannel: func(_ *rtc.Peer, c *rtc.Channel) { open <- c }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.rtc.Close(framecodec.CodeTunnelClosed) })
	if p.signal, err = newSignal(t, header).Offer(ctx, offer, target); err != nil {
		return nil, nil, err
	}
	if err := p.rtc.Accept(p.signal.Answer); err != nil {
		t.Fatal(err)
	}
	var list []*rtc.Channel
	for range specs {
		select {
		case c := <-open:
			list = append(list, c)
		case <-ctx.Done():
			t.Fatal("a channel did not open")
		}
	}
	return p, list, nil
}

// trySession makes a tunnel with a session of a dialect.
func trySession(t *testing.T, header http.Header, target string, d tunnel.Dialect) (*peer, error) {
	t.Helper()
	protocol := ""
	if d == tunnel.Dialect2 {
		protocol = "culvert.2"
	}
	p, channels, err := tryChannels(t, header, target, []rtc.ChannelSpec{{Protocol: protocol}})
	if err == nil {
		p.session = tunnel.NewSession(channels[0], tunnel.Config{Dialect: d, Role: tunnel.RoleClient})
		t.Cleanup(p.close)
	}
	return p, err
}

func rawSpec(target string) []rtc.ChannelSpec {
	return []rtc.ChannelSpec{{Protocol: "raw:" + target}}
}

// rawCode opens a raw channel to a named target and returns the code that the
// session's status tells.
func rawCode(t *testing.T, header http.Header, target string) framecodec.Code {
	t.Helper()
	p, channels, err := tryChannels(t, header, "", rawSpec(target))
	if err != nil {
		t.Fatal(err)
	}
	defer p.close()
	return rawOutcome(t, p, channels[0])
}

// rawOutcome wants an echo of a raw channel, or the code of its end.
func rawOutcome(t *testing.T, p *peer, ch *rtc.Channel) framecodec.Code {
	t.Helper()
	return rawReply(t, p, ch, "ping", "ping")
}

// rawReply sends a message and wants bytes that begin so, or the code of the
// channel's end.
func rawReply(t *testing.T, p *peer, ch *rtc.Channel, message, want string) framecodec.Code {
	t.Helper()
	var got string
	if err := ch.WriteMessage([]byte(message)); err == nil {
		buf := make([]byte, 64)
		for ch.Wait() == nil {
			n, err := ch.ReadMessage(buf)
			if err != nil {
				break
			}
			if got += string(buf[:n]); strings.HasPrefix(got, want) {
				return framecodec.CodeNormal
			}
		}
	}
	raw, err := p.signal.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	told(raw)
	var status struct {
		Raw []struct{ Target, Code string } `json:"raw_channels"`
	}
	if err := json.Unmarshal(raw, &status); err != nil {
		t.Fatalf("status %s: %v", raw, err)
	}
	for _, one := range slices.Backward(status.Raw) {
		if code, ok := framecodec.ParseCode(one.Code); ok { // it has ended
			return code
		}
	}
	t.Fatalf("status %s: no raw channel has ended, but %q came, want %q", raw, got, want)
	return 0
}
