package acceptance

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/culvertgate/culvert/internal/testkit"
)

// ticketGateways are gateways with one key: the first two share storage, the third
// has its own.
type ticketGateways struct {
	t    *testing.T
	net  *testkit.Namespace
	dir  string
	each []*testkit.Caddy
	url  []string
}

func startTicketGateways(t *testing.T) *ticketGateways {
	t.Helper()
	w := &ticketGateways{t: t, net: testkit.NewNamespace(t), dir: t.TempDir()}
	listener := must[net.Listener](t)(w.net.Listen("tcp", "127.0.0.1:0"))
	served := make(chan struct{})
	go func() { // everybody is let in and sees the end
		defer close(served)
		for {
			c, err := listener.Accept()
			if err != nil {
				return
			}
			_ = c.Close()
		}
	}()
	t.Cleanup(func() { _ = listener.Close(); <-served })
	key := filepath.Join(w.dir, "key")
	check(t, os.WriteFile(key, []byte("a key of gateways that trust each other"), 0o600))
	for i, storage := range []string{"shared", "shared", "other"} {
		w.each = append(w.each, testkit.StartCaddy(t, testkit.CaddyConfig{Namespace: w.net, Caddyfile: fmt.Sprintf(`{
	auto_https off
	storage file_system %[1]s
	webrtc_tunnel {
		listen udp/127.0.0.1:%[2]d
	}
}
http://:%[3]d {
	bind 127.0.0.1
	webrtc_tunnel /tunnel* {
		name gw
		target press tcp/%[4]s
		target other tcp/%[4]s
		tickets {
			key {file.%[5]s}
		}
	}
}
`, filepath.Join(w.dir, storage), 3478+i, 8080+i, listener.Addr(), key)}))
		w.url = append(w.url, fmt.Sprintf("http://127.0.0.1:%d/tunnel", 8080+i))
	}
	return w
}

type ticket struct{ ID, Ticket string }

func (w *ticketGateways) make(at int, body string) ticket {
	w.t.Helper()
	ctx, cancel := adminContext()
	defer cancel()
	status, text, err := w.each[at].Do(ctx, "POST", "/webrtc_tunnel/tickets", "application/json", body)
	check(w.t, err)
	var made ticket
	if err := json.Unmarshal([]byte(text), &made); err != nil || status != 201 {
		w.t.Fatalf("making a ticket: %d, %v", status, err)
	}
	return made
}

// use makes a tunnel with a ticket and returns what the command says.
func (w *ticketGateways) use(at int, text string) string {
	w.t.Helper()
	file := filepath.Join(w.t.TempDir(), "ticket")
	check(w.t, os.WriteFile(file, []byte(w.url[at]+"#ticket="+text), 0o600))
	cmd := w.each[at].Command(w.net, "webrtc-tunnel", "connect", "--ticket-file", file, "--stdio")
	cmd.Stdin = strings.NewReader("")
	out, err := cmd.CombinedOutput()
	if err == nil {
		return "ok"
	}
	return string(out)
}

func (w *ticketGateways) wants(what string, at int, text, want string) {
	w.t.Helper()
	if got := w.use(at, text); got != want && (want == "ok" || !strings.Contains(got, want)) {
		w.t.Errorf("%s: %s, want %s", what, got, want)
	}
}

// TestTicketsOfSeveralGateways: gateways that share key and storage count a ticket
// together; one with the key alone counts by itself.
func TestTicketsOfSeveralGateways(t *testing.T) {
	w := startTicketGateways(t)
	once := w.make(0, `{"endpoint":"gw","target":"press"}`)
	w.wants("the first use", 0, once.Ticket, "ok")
	w.wants("a replay there", 0, once.Ticket, "ticket_used")
	w.wants("a replay at the other gateway", 1, once.Ticket, "ticket_used")
	w.wants("a replay where storage is not shared", 2, once.Ticket, "ok")
	w.wants("another one there", 2, once.Ticket, "ticket_used")
	twice := w.make(1, `{"endpoint":"gw","target":"press","uses":2}`)
	w.wants("a ticket of the other gateway", 0, twice.Ticket, "ok")
	ctx, cancel := adminContext()
	defer cancel()
	if status, text, err := w.each[1].Do(ctx, "DELETE", "/webrtc_tunnel/tickets/"+twice.ID, "", ""); err != nil || status != 204 {
		t.Fatalf("revoking: %d %s %v", status, text, err)
	}
	w.wants("revoked by the other gateway", 0, twice.Ticket, "ticket_invalid")
	short := w.make(0, `{"endpoint":"gw","target":"press","expires_in":"1s"}`)
	time.Sleep(1100 * time.Millisecond)
	w.wants("one that is over", 1, short.Ticket, "ticket_expired")
	parts := strings.Split(w.make(0, `{"endpoint":"gw","target":"press"}`).Ticket, ".")
	w.wants("without its signature", 0, parts[0]+"."+parts[1]+".", "ticket_invalid")
	other := strings.Split(w.make(0, `{"endpoint":"gw","target":"other"}`).Ticket, ".")
	w.wants("with another's claims", 0, parts[0]+"."+other[1]+"."+parts[2], "ticket_invalid")
}
