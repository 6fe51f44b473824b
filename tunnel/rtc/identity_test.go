package rtc

import (
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/culvertgate/culvert/framecodec"
)

// TestCertificate: on each of forty days a new connection works, and each day
// has its own certificate, which holds for that day and longer.
func TestCertificate(t *testing.T) {
	checkLeaks(t)
	now := time.Now()
	clock := func() time.Time { return now }
	g := gatewayAt(t, anyPort, Options{}, clock)
	d := testDialer(DialerConfig{Now: clock})
	seen := map[string]int{}
	for day := range 41 {
		cert, err := g.certs.get()
		if err != nil {
			t.Fatal(err)
		}
		prints, err := cert.GetFingerprints()
		if err != nil {
			t.Fatal(err)
		}
		if before, ok := seen[prints[0].Value]; ok {
			t.Fatalf("day %d has the certificate of day %d", day, before)
		}
		seen[prints[0].Value] = day
		if left := cert.Expires().Sub(now); left < 29*24*time.Hour {
			t.Errorf("day %d: the certificate ends in %v", day, left)
		}
		if day%4 == 0 {
			p := connect(t, g, d)
			through(t, p, "a new day")
			p.client.Close(framecodec.CodeNormal)
			p.serverEnd.waitEnd(t, 3*time.Second, framecodec.CodeTunnelClosed)
		}
		now = now.Add(12 * time.Hour)
		if again, err := g.certs.get(); err != nil || !again.Equals(cert) {
			t.Errorf("day %d: another certificate after 12 hours (%v)", day, err)
		}
		now = now.Add(12*time.Hour + time.Second)
	}
}

// TestWrongFingerprint: a peer with another certificate than the description
// says never gets a channel, on either side.
func TestWrongFingerprint(t *testing.T) {
	checkLeaks(t)
	g := testGateway(t, Options{ConnectTimeout: 3 * time.Second})
	d := testDialer(DialerConfig{ConnectTimeout: 3 * time.Second})
	for _, wrong := range []string{"offer", "answer"} {
		forge := func(text, which string) string {
			if which != wrong {
				return text
			}
			at := strings.Index(text, "sha-256 ") + len("sha-256 ")
			if text[at] == '0' {
				return text[:at] + "1" + text[at+1:]
			}
			return text[:at] + "0" + text[at+1:]
		}
		client, server := newEnd(), newEnd()
		p, offer, err := d.Offer(t.Context(), []ChannelSpec{{}}, nil, client.handler())
		if err != nil {
			t.Fatal(err)
		}
		_, answer, err := g.Answer(t.Context(), forge(offer, "offer"), server.handler())
		if err != nil {
			t.Fatal(err)
		}
		if err := p.Accept(forge(answer, "answer")); err != nil {
			t.Fatal(err)
		}
		checker, other := server, client // who notices, and who is told by DTLS or the clock
		if wrong == "answer" {
			checker, other = client, server
		}
		checker.waitEnd(t, 5*time.Second, framecodec.CodeTunnelLost)
		eventually(t, 5*time.Second, "the other side ends", func() bool { n, _ := other.ended(); return n == 1 })
		if _, err := checker.ended(); !strings.Contains(err.Error(), "DTLS") {
			t.Errorf("%s: %v", wrong, err)
		}
		if len(client.channels)+len(server.channels) > 0 {
			t.Errorf("%s: a channel was opened", wrong)
		}
		p.Close(framecodec.CodeNormal)
	}
}

// TestVersions holds the modules that read what strangers send to the versions
// that fixed the advisories of 2026 (reference/standards.md 4.3).
func TestVersions(t *testing.T) {
	for module, least := range map[string][3]int{
		"github.com/pion/dtls/v3": {3, 1, 4}, "github.com/pion/stun/v4": {4, 0, 1}, "github.com/pion/webrtc/v4": {4, 2, 0},
	} {
		out, err := exec.CommandContext(t.Context(), "go", "list", "-m", "-f", "{{.Version}}", module).Output()
		if err != nil {
			t.Fatal(err)
		}
		version := strings.TrimSpace(string(out))
		for i, part := range strings.SplitN(strings.TrimPrefix(strings.SplitN(version, "-", 2)[0], "v"), ".", 3) {
			n, err := strconv.Atoi(part)
			if err != nil || n < least[i] {
				t.Errorf("%s is %s, at least %v is needed", module, version, least)
			}
			if n > least[i] {
				break
			}
		}
	}
}

// TestRestartKeepsFingerprint: a restart may bring new credentials, never
// another certificate.
func TestRestartKeepsFingerprint(t *testing.T) {
	checkLeaks(t)
	p := connect(t, testGateway(t, Options{}), testDialer(DialerConfig{}))
	p.server.mu.Lock()
	present := p.server.remote
	p.server.mu.Unlock()
	other := "a=fingerprint:sha-256 00" + present.fingerprint[2:] + "\r\n"
	f, err := ParseFragment(other + "a=ice-ufrag:newufrag\r\na=ice-pwd:" + strings.Repeat("p", 24) + "\r\n" +
		"m=application 9 UDP/DTLS/SCTP webrtc-datachannel\r\na=mid:" + present.mid + "\r\n" + other)
	if err != nil {
		t.Fatal(err)
	}
	d, err := p.server.restarted(f)
	if err != nil {
		t.Fatal(err)
	}
	if d.fingerprint != present.fingerprint || strings.Count(d.text(), "a=fingerprint:") != 1 || d.ufrag != "newufrag" {
		t.Errorf("the restarted description is %q", d.text())
	}
}
