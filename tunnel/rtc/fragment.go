package rtc

import (
	"fmt"
	"strings"
)

// Fragment is a part of a description that travels alone: candidates found
// late, or the new credentials and candidates of an ICE restart
// (application/trickle-ice-sdpfrag, RFC 8840 section 9, RFC 9725 section 4.3).
type Fragment struct {
	Ufrag, Pwd      string
	Mid             string
	Candidates      []string // "candidate:..." lines
	EndOfCandidates bool
}

// ParseFragment reads a fragment of at most MaxFragment bytes and MaxCandidates
// candidates. Attributes that are not for us are skipped; the credentials may
// stand before the section or in it. The error is an *OfferError.
func ParseFragment(text string) (Fragment, error) {
	var f Fragment
	if len(text) > MaxFragment {
		return f, badOffer("the fragment has %d bytes, at most %d are allowed", len(text), MaxFragment)
	}
	sections := 0
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\r\n")
		if line == "" {
			continue
		}
		kind, value, ok := strings.Cut(line, "=")
		if !ok || len(kind) != 1 {
			return f, badOffer("this is not an SDP fragment (RFC 8840)")
		}
		switch kind {
		case "m":
			if sections++; sections > 1 {
				return f, badOffer("the fragment has more than one section")
			}
		case "a":
			if err := f.readAttribute(value); err != nil {
				return f, err
			}
		}
	}
	if f.Ufrag == "" && f.Pwd == "" && len(f.Candidates) == 0 && !f.EndOfCandidates {
		return f, badOffer("the fragment has neither candidates nor credentials")
	}
	if f.Ufrag != "" || f.Pwd != "" {
		return f, checkCredentials(f.Ufrag, f.Pwd)
	}
	return f, nil
}

func (f *Fragment) readAttribute(attribute string) error {
	name, value, _ := strings.Cut(attribute, ":")
	switch name {
	case "ice-ufrag":
		f.Ufrag = strings.TrimSpace(value)
	case "ice-pwd":
		f.Pwd = strings.TrimSpace(value)
	case "mid":
		f.Mid = strings.TrimSpace(value)
		if !midToken.MatchString(f.Mid) {
			return badOffer("a=mid is not valid")
		}
	case "candidate":
		if len(f.Candidates) == MaxCandidates {
			return badOffer("the fragment has more than %d candidates", MaxCandidates)
		}
		f.Candidates = append(f.Candidates, "candidate:"+value)
	case "end-of-candidates":
		f.EndOfCandidates = true
	}
	return nil
}

// String returns the text that ParseFragment reads.
func (f Fragment) String() string {
	var b strings.Builder
	if f.Ufrag != "" {
		fmt.Fprintf(&b, "a=ice-ufrag:%s\r\na=ice-pwd:%s\r\n", f.Ufrag, f.Pwd)
	}
	b.WriteString("m=application 9 UDP/DTLS/SCTP webrtc-datachannel\r\n")
	if f.Mid != "" {
		fmt.Fprintf(&b, "a=mid:%s\r\n", f.Mid)
	}
	for _, c := range f.Candidates {
		fmt.Fprintf(&b, "a=%s\r\n", strings.TrimPrefix(c, "a="))
	}
	if f.EndOfCandidates {
		b.WriteString("a=end-of-candidates\r\n")
	}
	return b.String()
}

// IsRestart reports whether the fragment asks for an ICE restart, or only
// carries candidates of the generation whose user name fragment is current.
func (f Fragment) IsRestart(current string) bool { return f.Ufrag != "" && f.Ufrag != current }
