package rtc

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/culvertgate/culvert/framecodec"
	"github.com/culvertgate/culvert/tunnel"
)

const fingerprintLine = "a=fingerprint:sha-256 90:F5:2C:D2:A6:4F:8F:B9:A1:63:21:DD:02:24:30:5D:4D:62:B4:36:CC:34:68:DC:E9:36:BF:77:98:76:4D:D1"

// goodOffer is what Chromium offers for a data channel.
var goodOffer = strings.Join([]string{
	"v=0", "o=- 4611731400430051336 2 IN IP4 127.0.0.1", "s=-", "t=0 0",
	"a=group:BUNDLE 0", "a=extmap-allow-mixed", "a=msid-semantic: WMS",
	"m=application 9 UDP/DTLS/SCTP webrtc-datachannel", "c=IN IP4 0.0.0.0",
	"a=candidate:1467250027 1 udp 2122260223 5e0b6b43-0c23-4f13-9f2a-7f2f2d0c0f3a.local 61665 typ host generation 0 network-id 1",
	"a=ice-ufrag:EsAw", "a=ice-pwd:P2uYro0UCOQ4zxjKXaWCBui1", "a=ice-options:trickle",
	fingerprintLine, "a=setup:actpass", "a=mid:0", "a=sctp-port:5000", "a=max-message-size:262144",
}, "\r\n") + "\r\n"

// wheelOffer is in the form of the reference system's (reference/measured.md).
var wheelOffer = strings.Join([]string{
	"v=0", "o=- 8208812112384823211 158384000 IN IP4 0.0.0.0", "s=-", "t=0 0",
	fingerprintLine, "a=group:BUNDLE 0", "a=extmap-allow-mixed", "a=keeper-webrtc:2.2.9",
	"m=application 9 UDP/DTLS/SCTP webrtc-datachannel", "c=IN IP4 0.0.0.0",
	"a=setup:actpass", "a=mid:0", "a=sendrecv", "a=sctp-port:5000", "a=max-message-size:65535",
	"a=ice-ufrag:vSHYkzyZgbwtMyHw", "a=ice-pwd:WHjdDyDqDWGcZPrfCOWrRYAZlGZFjSCN",
	"a=candidate:167090039 1 udp 2130706431 192.0.2.7 44010 typ host",
	"a=candidate:167090039 2 udp 2130706431 192.0.2.7 44010 typ host",
	"a=end-of-candidates",
}, "\r\n") + "\r\n"

func candidates(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "a=candidate:%d 1 udp 1 192.0.2.1 %d typ host\r\n", i, 1000+i)
	}
	return b.String()
}

func TestCheckOffer(t *testing.T) {
	replace := func(old, new string) string {
		text := strings.Replace(goodOffer, old, new, 1)
		if text == goodOffer {
			t.Fatalf("the offer does not contain %q", old)
		}
		return text
	}
	section := goodOffer[strings.Index(goodOffer, "m="):]
	const accepted, bad, refused = 0, 400, 422
	for _, c := range []struct {
		name, offer string
		want        int
	}{
		{"Chromium", goodOffer, accepted},
		{"reference wheel", wheelOffer, accepted},
		{"setup:passive", replace("actpass", "passive"), accepted},
		{"fingerprint of the session", strings.Replace(replace(fingerprintLine+"\r\n", ""), "t=0 0\r\n", "t=0 0\r\n"+fingerprintLine+"\r\n", 1), accepted},
		{"no max-message-size", replace("a=max-message-size:262144\r\n", ""), accepted},
		{"any message size", replace(":262144", ":0"), accepted},
		{"64 candidates", goodOffer + candidates(63), accepted},
		{"line feeds only", strings.ReplaceAll(goodOffer, "\r\n", "\n"), accepted},
		{"unknown attributes", goodOffer + "a=sctp-init:AAAA\r\na=something\r\n", accepted},

		{"empty", "", bad},
		{"not SDP", `{"sdp":"v=0"}`, bad},
		{"binary", "v=0\x00\xff\xfe", bad},
		{"1 MB", goodOffer + strings.Repeat("a=x\r\n", 200000), bad},
		{"no section", goodOffer[:strings.Index(goodOffer, "m=")], bad},
		{"ended section", replace("m=application 9", "m=application 0"), bad},
		{"no fingerprint", replace(fingerprintLine+"\r\n", ""), bad},
		{"sha-1 only", replace(fingerprintLine, "a=fingerprint:sha-1 90:F5:2C:D2:A6:4F:8F:B9:A1:63:21:DD:02:24:30:5D:4D:62:B4:36"), bad},
		{"short fingerprint", replace(":4D:D1\r\n", ":4D\r\n"), bad},
		{"fingerprint without colons", replace("90:F5", "90F5"), bad},
		{"two fingerprints", goodOffer + strings.Replace(fingerprintLine, "90:F5", "91:F5", 1) + "\r\n", bad},
		{"no mid", replace("a=mid:0\r\n", ""), bad},
		{"mid with a line in it", replace("a=mid:0", "a=mid:0 1"), bad},
		{"other BUNDLE", replace("BUNDLE 0", "BUNDLE 1"), bad},
		{"no ufrag", replace("a=ice-ufrag:EsAw\r\n", ""), bad},
		{"short ufrag", replace("EsAw", "EsA"), bad},
		{"long ufrag", replace("EsAw", strings.Repeat("E", 257)), bad},
		{"ufrag with a colon", replace("EsAw", "Es:w"), bad},
		{"no pwd", replace("a=ice-pwd:P2uYro0UCOQ4zxjKXaWCBui1\r\n", ""), bad},
		{"short pwd", replace("P2uYro0UCOQ4zxjKXaWCBui1", "P2uYro0UCOQ4zxjKXaWCB"), bad},
		{"no setup", replace("a=setup:actpass\r\n", ""), bad},
		{"message size not a number", replace(":262144", ":many"), bad},
		{"10,000 candidates", goodOffer + candidates(10000), bad},
		{"65 candidates", goodOffer + candidates(64), bad},

		{"setup:active", replace("actpass", "active"), refused},
		{"audio", strings.Replace(goodOffer, "m=application", "m=audio 9 UDP/TLS/RTP/SAVPF 111\r\na=mid:1\r\nm=application", 1), refused},
		{"video behind", goodOffer + "m=video 9 UDP/TLS/RTP/SAVPF 96\r\na=mid:1\r\n", refused},
		{"two data-channel sections", goodOffer + section, refused},
		{"RTP in the section", replace("UDP/DTLS/SCTP", "UDP/TLS/RTP/SAVPF"), refused},
		{"TCP", replace("UDP/DTLS/SCTP", "TCP/DTLS/SCTP"), refused},
		{"other format", replace("webrtc-datachannel", "5000"), refused},
		{"ICE-lite", replace("a=extmap-allow-mixed", "a=ice-lite"), refused},
		{"other SCTP port", replace("sctp-port:5000", "sctp-port:5001"), refused},
		{"tiny messages", replace(":262144", ":100"), refused},
	} {
		err := CheckOffer(c.offer)
		var offerErr *OfferError
		got := accepted
		switch {
		case errors.As(err, &offerErr) && offerErr.Unprocessable:
			got = refused
		case errors.As(err, &offerErr):
			got = bad
		case err != nil:
			t.Errorf("%s: %v is no OfferError", c.name, err)
		}
		if got != c.want {
			t.Errorf("%s: %d (%v), want %d", c.name, got, err, c.want)
		}
		if err != nil && tunnel.CodeOf(err) != framecodec.CodeBadOffer {
			t.Errorf("%s: code %v", c.name, tunnel.CodeOf(err))
		}
	}
}

// TestCheckOfferNoState: a refused offer leaves nothing behind.
func TestCheckOfferNoState(t *testing.T) {
	checkLeaks(t)
	g := testGateway(t, Options{})
	before := Live()
	for _, offer := range []string{"", "v=0", strings.Replace(goodOffer, "actpass", "active", 1)} {
		p, _, err := g.Answer(t.Context(), offer, Handler{OnClosed: func(*Peer, error) { t.Error("there was a peer") }})
		if p != nil || err == nil || Live() != before {
			t.Errorf("peer %v, error %v, %d more peers", p, err, Live()-before)
		}
	}
}

// TestPionSeesOurText: nothing of a peer's description reaches pion but the
// values that were checked.
func TestPionSeesOurText(t *testing.T) {
	d, err := parseOffer(wheelOffer)
	if err != nil {
		t.Fatal(err)
	}
	if len(d.candidates) != 1 {
		t.Errorf("candidates %q", d.candidates)
	}
	text := d.text()
	for _, absent := range []string{"keeper", "extmap", "8208812112384823211"} {
		if strings.Contains(text, absent) {
			t.Errorf("%q is in\n%s", absent, text)
		}
	}
	again, err := parseOffer(text)
	if err != nil {
		t.Fatal(err)
	}
	if fmt.Sprint(again) != fmt.Sprint(d) {
		t.Errorf("read again: %+v, first: %+v", again, d)
	}
}

func TestCheckAnswer(t *testing.T) {
	for setup, want := range map[string]bool{"active": true, "passive": true, "actpass": false, "holdconn": false} {
		if err := CheckAnswer(strings.Replace(goodOffer, "actpass", setup, 1)); (err == nil) != want {
			t.Errorf("setup:%s: %v", setup, err)
		}
	}
}

func TestFragment(t *testing.T) {
	good := Fragment{Ufrag: "EsAw", Pwd: "P2uYro0UCOQ4zxjKXaWCBui1", Mid: "0", Candidates: []string{"candidate:1 1 udp 1 192.0.2.1 9 typ host"}, EndOfCandidates: true}
	got, err := ParseFragment(good.String())
	if err != nil || fmt.Sprint(got) != fmt.Sprint(good) {
		t.Errorf("read %+v, %v", got, err)
	}
	// RFC 8840 section 9: credentials in the section, attributes that are not ours.
	text := "a=group:BUNDLE 0\r\nm=audio 9 RTP/AVP 0\r\na=mid:0\r\na=ice-ufrag:EsAw\r\na=ice-pwd:P2uYro0UCOQ4zxjKXaWCBui1\r\n" +
		"a=ice-options:trickle\r\na=candidate:1 1 udp 1 192.0.2.1 9 typ host\r\na=end-of-candidates\r\n"
	if got, err = ParseFragment(text); err != nil || fmt.Sprint(got) != fmt.Sprint(good) {
		t.Errorf("read %+v, %v", got, err)
	}
	for name, text := range map[string]string{
		"empty": "", "not a fragment": "hello", "JSON": "{}", "nothing in it": "m=application 9 UDP/DTLS/SCTP webrtc-datachannel\r\na=mid:0\r\n",
		"ufrag without pwd": "a=ice-ufrag:EsAw\r\n", "short pwd": "a=ice-ufrag:EsAw\r\na=ice-pwd:short\r\n",
		"too many": "m=application 9 x y\r\n" + candidates(MaxCandidates+1), "too long": strings.Repeat("a=x\r\n", MaxFragment),
		"two sections": "m=a 9 x y\r\na=end-of-candidates\r\nm=b 9 x y\r\n", "mid": "a=mid:a b\r\na=end-of-candidates\r\n",
	} {
		var offerErr *OfferError
		if _, err := ParseFragment(text); !errors.As(err, &offerErr) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzParseOffer(f *testing.F) {
	f.Add(goodOffer)
	f.Add(wheelOffer)
	f.Add("v=0\r\nm=application 9 UDP/DTLS/SCTP\r\n")
	f.Fuzz(func(t *testing.T, text string) {
		d, err := parseOffer(text)
		if err != nil {
			return
		}
		if again, err := parseOffer(d.text()); err != nil || again.ufrag != d.ufrag || again.fingerprint != d.fingerprint || again.mid != d.mid {
			t.Errorf("accepted %+v, and its text led to %+v, %v", d, again, err)
		}
		remoteFilter{}.use(d.candidates)
	})
}

func FuzzParseFragment(f *testing.F) {
	f.Add(Fragment{Ufrag: "EsAw", Pwd: "P2uYro0UCOQ4zxjKXaWCBui1", Mid: "0", Candidates: []string{"candidate:1 1 udp 1 192.0.2.1 9 typ host"}}.String())
	f.Fuzz(func(t *testing.T, text string) {
		fragment, err := ParseFragment(text)
		if err != nil {
			return
		}
		if again, err := ParseFragment(fragment.String()); err != nil || fmt.Sprint(again) != fmt.Sprint(fragment) {
			t.Errorf("%+v was written and read as %+v, %v", fragment, again, err)
		}
	})
}
