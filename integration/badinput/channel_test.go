package badinput

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/culvertgate/culvert/internal/testkit"
)

// gone waits until a tunnel is not among the gateway's any more, and returns the
// code of its end, from the log.
func (w *world) gone(t *testing.T, id string) string {
	t.Helper()
	var code string
	testkit.Eventually(t, connectTimeout+patience, func() error {
		now, err := w.tunnels()
		if err != nil {
			return err
		}
		if i, there := now[id]; there {
			return fmt.Errorf("the tunnel is still there: %+v", i)
		}
		if code = w.codeInLog(id); code == "" {
			return fmt.Errorf("the log does not say how tunnel %s ended", id)
		}
		return nil
	})
	return code
}

// codeInLog finds the line of a tunnel's end.
func (w *world) codeInLog(id string) string {
	for line := range strings.Lines(w.caddy.Log()) {
		var entry struct{ Msg, ID, Code string }
		if strings.Contains(line, id) && json.Unmarshal([]byte(line), &entry) == nil && entry.ID == id && entry.Msg == "tunnel closed" {
			return entry.Code
		}
	}
	return ""
}

// offer runs a row.
func (w *world) offer(t *testing.T, r peerRow) {
	before := w.mustTunnels(t)
	trap, err := w.net.ListenPacket("udp", "127.0.0.1:9003")
	check(t, err)
	defer trap.Close()
	p := w.connect(t, alice, r.change, session)
	if r.opens {
		s := p.open(0)
		check(t, s.echo(r.name))
		p.close()
	}
	if got := w.gone(t, p.id); got != r.code {
		t.Errorf("the tunnel ended with %s, want %s", got, r.code)
	}
	select {
	case <-p.channels[0].opened:
		if !r.opens {
			t.Error("the channel has opened")
		}
	default:
	}
	w.left(t, before)
	silent(t, trap)
}

// beside runs a row.
func (w *world) beside(t *testing.T, r besideRow) {
	before := w.mustTunnels(t)
	p := w.connect(t, alice, nil, session)
	s := p.open(0)
	check(t, p.add(r.channel).isClosed(), s.echo("beside "+r.name))
	told, err := p.status()
	check(t, err)
	code := ""
	for _, raw := range told.RawChannels {
		code = raw.Code
	}
	if code != r.code || len(told.RawChannels) > 1 {
		t.Errorf("the status of the session tells %+v, want %q", told.RawChannels, r.code)
	}
	if i := w.mustTunnels(t)[p.id]; i.State != "open" || i.Streams != 1 {
		t.Errorf("the tunnel is %+v, want an open one with its stream", i)
	}
	p.close()
	w.left(t, before)
}

// first runs a row.
func (w *world) first(t *testing.T, r firstRow) {
	p := w.connect(t, alice, nil, r.channel)
	d := p.channels[0]
	check(t, d.isOpen())
	send := d.Send
	if r.text {
		send = func(b []byte) error { return d.SendText(string(b)) }
	}
	_ = send(r.send) // a channel that is refused may be closed already
	check(t, d.isClosed())
	if got := w.gone(t, p.id); got != r.code {
		t.Errorf("the tunnel ended with %s, want %s", got, r.code)
	}
	for len(d.messages) > 0 {
		t.Errorf("the gateway said %q", <-d.messages)
	}
	w.untouched(t)
}

// logged wants a line in the gateway's log that says why. Warnings about clients
// are sampled, so not every one has its line.
func (w *world) logged(t *testing.T, message, code string) {
	t.Helper()
	for line := range strings.Lines(w.caddy.Log()) {
		var entry struct{ Msg, Code, Reason string }
		if json.Unmarshal([]byte(line), &entry) != nil || entry.Msg != message || entry.Code != code {
			continue
		}
		if entry.Reason == "" {
			t.Errorf("a refusal without its reason: %s", line)
		}
		return
	}
	t.Errorf("the log has no %q with the code %s", message, code)
}

// silentLog holds that the log, that of Caddy's own requests included, has
// nothing of what came in that a stranger could use.
func (w *world) silentLog(t *testing.T) {
	_, err := w.send(near, alice, "GET /elsewhere", "", "")
	check(t, err)
	var text string
	testkit.Eventually(t, patience, func() error {
		if text = w.caddy.Log(); !strings.Contains(text, "/elsewhere") {
			return errors.New("the access log is not on")
		}
		return nil
	})
	for what, secret := range map[string]string{
		"the secret of a session's URL": strings.TrimPrefix(w.bystander.place.path, "/tunnel/s/"),
		"an ICE password":               "P2uYro0UCO",
		"a fingerprint":                 digest,
	} {
		if at := strings.Index(text, secret); at >= 0 {
			t.Errorf("%s is in the log: %s", what, text[max(0, at-300):at])
		}
	}
}
