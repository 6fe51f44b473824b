package rtc

import (
	"encoding/hex"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/pion/sdp/v3"
)

// description is what counts in an offer or answer. A peer's SDP is read into
// one, and pion is given a text made of it and of nothing else.
type description struct {
	mid         string
	ufrag, pwd  string
	fingerprint string // upper case hex with colons, SHA-256
	setup       string
	maxMessage  int // 0: none was announced
	candidates  []string
}

// CheckOffer tells whether an offer may lead to a peer connection: at most
// MaxDescription bytes, exactly one section, of a data channel over
// UDP/DTLS/SCTP (RFC 8841), with ICE credentials of legal length (RFC 8839
// section 5.4), one SHA-256 fingerprint (RFC 8122), a DTLS role that lets us be
// the client, and at most MaxCandidates candidates. The error is an *OfferError.
// Nothing is kept.
func CheckOffer(text string) error {
	_, err := parseOffer(text)
	return err
}

// CheckAnswer is CheckOffer for the answer of a gateway.
func CheckAnswer(text string) error {
	_, err := parseAnswer(text)
	return err
}

func parseOffer(text string) (description, error) {
	d, err := parseDescription(text)
	switch {
	case err != nil:
		return d, err
	case d.setup == "active":
		return d, unprocessable("the offer says a=setup:active, but the gateway must be the DTLS client; offer actpass")
	case d.setup != "actpass" && d.setup != "passive":
		return d, badOffer("the offer has no a=setup:actpass")
	}
	return d, nil
}

func parseAnswer(text string) (description, error) {
	d, err := parseDescription(text)
	if err == nil && d.setup != "active" && d.setup != "passive" {
		return d, badOffer("the answer has neither a=setup:active nor a=setup:passive")
	}
	return d, err
}

func parseDescription(text string) (description, error) {
	var d description
	if len(text) > MaxDescription {
		return d, badOffer("the description has %d bytes, at most %d are allowed", len(text), MaxDescription)
	}
	var s sdp.SessionDescription
	if err := s.UnmarshalString(text); err != nil {
		return d, badOffer("this is not a session description (SDP, RFC 8866)")
	}
	section, err := dataSection(&s)
	if err != nil {
		return d, err
	}
	if len(section.Attributes) > 4*MaxCandidates+256 {
		return d, badOffer("the data-channel section has %d attributes", len(section.Attributes))
	}
	if err := d.readIdentity(&s, section); err != nil {
		return d, err
	}
	if err := d.readSCTP(section); err != nil {
		return d, err
	}
	return d, d.readCandidates(section)
}

// dataSection returns the one section that there must be.
func dataSection(s *sdp.SessionDescription) (*sdp.MediaDescription, error) {
	var found *sdp.MediaDescription
	for _, m := range s.MediaDescriptions {
		if m.MediaName.Media != "application" {
			return nil, unprocessable("the description has a section for %s; only one data-channel section is accepted", clip(m.MediaName.Media))
		}
		if found != nil {
			return nil, unprocessable("the description has more than one data-channel section")
		}
		found = m
	}
	if found == nil {
		return nil, badOffer("the description has no data-channel section (m=application 9 UDP/DTLS/SCTP webrtc-datachannel)")
	}
	protocol := strings.Join(found.MediaName.Protos, "/")
	if protocol != "UDP/DTLS/SCTP" || len(found.MediaName.Formats) != 1 || found.MediaName.Formats[0] != "webrtc-datachannel" {
		return nil, unprocessable("the section is not UDP/DTLS/SCTP webrtc-datachannel (RFC 8841)")
	}
	if found.MediaName.Port.Value == 0 {
		if _, only := found.Attribute("bundle-only"); !only {
			return nil, badOffer("the data-channel section has port 0, so it is refused or ended")
		}
	}
	return found, nil
}

var (
	midToken = regexp.MustCompile("^[!#$%&'*+.0-9A-Z^_`a-z{|}~-]{1,64}$")
	iceChars = regexp.MustCompile(`^[0-9A-Za-z+/]*$`)
)

func (d *description) readIdentity(s *sdp.SessionDescription, m *sdp.MediaDescription) error {
	attribute := func(name string) string {
		if v, ok := m.Attribute(name); ok {
			return strings.TrimSpace(v)
		}
		v, _ := s.Attribute(name)
		return strings.TrimSpace(v)
	}
	d.mid, d.ufrag, d.pwd, d.setup = attribute("mid"), attribute("ice-ufrag"), attribute("ice-pwd"), attribute("setup")
	if !midToken.MatchString(d.mid) {
		return badOffer("the data-channel section has no valid a=mid")
	}
	if group, ok := s.Attribute("group"); ok && strings.HasPrefix(group, "BUNDLE") && !slices.Contains(strings.Fields(group)[1:], d.mid) {
		return badOffer("a=group:BUNDLE does not name the data-channel section")
	}
	if err := checkCredentials(d.ufrag, d.pwd); err != nil {
		return err
	}
	if _, lite := s.Attribute("ice-lite"); lite {
		return unprocessable("the peer is ICE-lite, so that nobody would start the checks")
	}
	return d.readFingerprint(s, m)
}

// checkCredentials holds ICE credentials to RFC 8839 section 5.4.
func checkCredentials(ufrag, pwd string) error {
	if len(ufrag) < 4 || len(ufrag) > 256 || !iceChars.MatchString(ufrag) {
		return badOffer("a=ice-ufrag is missing or not of 4 to 256 letters, digits, + and /")
	}
	if len(pwd) < 22 || len(pwd) > 256 || !iceChars.MatchString(pwd) {
		return badOffer("a=ice-pwd is missing or not of 22 to 256 letters, digits, + and /")
	}
	return nil
}

// readFingerprint accepts one SHA-256 fingerprint, even if it is said twice.
// Fingerprints by other functions are not looked at.
func (d *description) readFingerprint(s *sdp.SessionDescription, m *sdp.MediaDescription) error {
	for _, list := range [][]sdp.Attribute{m.Attributes, s.Attributes} {
		for _, a := range list {
			function, value, ok := strings.Cut(strings.TrimSpace(a.Value), " ")
			if a.Key != "fingerprint" || !ok || !strings.EqualFold(function, "sha-256") {
				continue
			}
			value = strings.ToUpper(strings.TrimSpace(value))
			raw, err := hex.DecodeString(strings.ReplaceAll(value, ":", ""))
			if err != nil || len(raw) != 32 || len(value) != 32*3-1 {
				return badOffer("a=fingerprint:sha-256 is not 32 bytes in hex with colons")
			}
			if d.fingerprint != "" && d.fingerprint != value {
				return badOffer("there are two different SHA-256 fingerprints")
			}
			d.fingerprint = value
		}
	}
	if d.fingerprint == "" {
		return badOffer("there is no a=fingerprint:sha-256")
	}
	return nil
}

func (d *description) readSCTP(m *sdp.MediaDescription) error {
	if v, ok := m.Attribute("sctp-port"); ok && strings.TrimSpace(v) != "5000" {
		return unprocessable("a=sctp-port is not 5000")
	}
	v, ok := m.Attribute("max-message-size")
	if !ok {
		return nil
	}
	n, err := strconv.ParseUint(strings.TrimSpace(v), 10, 63)
	if err != nil {
		return badOffer("a=max-message-size is not a number")
	}
	d.maxMessage = MaxMessage
	if n > 0 && n < MaxMessage { // 0 means any size
		d.maxMessage = int(n)
	}
	if d.maxMessage < 1024 {
		return unprocessable("a=max-message-size is %d, at least 1024 is needed", n)
	}
	return nil
}

// readCandidates keeps the candidate lines of this section, unread. The
// reference system lists each for components 1 and 2: the second is not kept.
func (d *description) readCandidates(m *sdp.MediaDescription) error {
	total := 0
	for _, a := range m.Attributes {
		if a.Key != "candidate" {
			continue
		}
		if total++; total > 2*MaxCandidates {
			break
		}
		if fields := strings.Fields(a.Value); len(fields) > 1 && fields[1] == "2" {
			continue
		}
		d.candidates = append(d.candidates, "candidate:"+a.Value)
	}
	if total > 2*MaxCandidates || len(d.candidates) > MaxCandidates {
		return badOffer("there are more than %d candidates", MaxCandidates)
	}
	return nil
}

// text is the SDP that pion is given.
func (d description) text() string {
	var b strings.Builder
	b.WriteString("v=0\r\no=- 1 1 IN IP4 0.0.0.0\r\ns=-\r\nt=0 0\r\n")
	fmt.Fprintf(&b, "a=group:BUNDLE %s\r\na=fingerprint:sha-256 %s\r\n", d.mid, d.fingerprint)
	b.WriteString("m=application 9 UDP/DTLS/SCTP webrtc-datachannel\r\nc=IN IP4 0.0.0.0\r\n")
	fmt.Fprintf(&b, "a=setup:%s\r\na=mid:%s\r\na=sendrecv\r\na=sctp-port:5000\r\n", d.setup, d.mid)
	if d.maxMessage > 0 {
		fmt.Fprintf(&b, "a=max-message-size:%d\r\n", d.maxMessage)
	}
	fmt.Fprintf(&b, "a=ice-ufrag:%s\r\na=ice-pwd:%s\r\n", d.ufrag, d.pwd)
	for _, c := range d.candidates {
		fmt.Fprintf(&b, "a=%s\r\n", c)
	}
	return b.String()
}

// maxSend is the largest message that may be sent to the author of d. Where
// none is announced, pion takes 65,535 for the 64K of RFC 8841 section 6.1.
func (d description) maxSend() int {
	if d.maxMessage == 0 {
		return MaxMessage - 1
	}
	return d.maxMessage
}

// withCandidates returns text, a local description of pion's, with the given
// host candidates in place of its own; candidates of other kinds stay. complete
// adds the end of candidates.
func withCandidates(text string, hosts []string, complete bool) (string, error) {
	var s sdp.SessionDescription
	if err := s.UnmarshalString(text); err != nil {
		return "", fmt.Errorf("reading our own description: %w", err)
	}
	for _, m := range s.MediaDescriptions {
		kept := m.Attributes[:0:0]
		for _, a := range m.Attributes {
			fields := strings.Fields(a.Value)
			switch {
			case a.Key == "end-of-candidates":
			case a.Key == "candidate" && (len(fields) < 8 || fields[1] != "1" || fields[7] == "host"):
			default:
				kept = append(kept, a)
			}
		}
		for _, h := range hosts {
			kept = append(kept, sdp.NewAttribute("candidate", strings.TrimPrefix(h, "candidate:")))
		}
		if complete {
			kept = append(kept, sdp.NewPropertyAttribute("end-of-candidates"))
		}
		m.Attributes = kept
	}
	out, err := s.Marshal()
	if err != nil {
		return "", fmt.Errorf("writing our own description: %w", err)
	}
	return string(out), nil
}

// clip makes a word of a peer fit for an error text.
func clip(s string) string {
	if len(s) > 32 {
		s = s[:32]
	}
	return strconv.QuoteToASCII(s)
}
