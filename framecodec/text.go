package framecodec

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"strings"
	"unicode"
	"unicode/utf8"
)

const (
	// MaxText is the longest text of a peer (a reason for people), in bytes.
	MaxText = 1024
	// MaxHost is the longest host or target name that an exit accepts, in bytes:
	// what DNS and SOCKS5 can carry. Parsers let longer ones pass, since refusing
	// a name is the end of one stream and a SyntaxError that of a session.
	MaxHost = 255
	// safeTextLength is how much of a peer's text a log or terminal gets, in
	// characters.
	safeTextLength = 256
)

// parseText16 reads the text that ends a message: two bytes of length at
// data[at:], then UTF-8.
func parseText16(data []byte, at int) ([]byte, error) {
	text, err := parseLast16(data, at)
	if err != nil {
		return nil, err
	}
	if len(text) > MaxText {
		return nil, syntax(at, "text above 1,024 bytes")
	}
	if !utf8.Valid(text) {
		return nil, syntax(at+2, "text is not valid UTF-8")
	}
	return text, nil
}

// parseLast16 is parseBytes16 for the last field of a message.
func parseLast16(data []byte, at int) ([]byte, error) {
	p, next, err := parseBytes16(data, at)
	if err != nil {
		return nil, err
	}
	if next < len(data) {
		return nil, syntax(next, "bytes behind the end of the message")
	}
	return p, nil
}

// parseBytes16 reads bytes with a length of two bytes at data[at:] and returns
// the offset behind them.
func parseBytes16(data []byte, at int) ([]byte, int, error) {
	if len(data)-at < 2 {
		return nil, 0, syntax(len(data), "message ends before a length")
	}
	start := at + 2
	length := int(binary.BigEndian.Uint16(data[at:]))
	if len(data)-start < length {
		return nil, 0, syntax(at, "length beyond the end of the message")
	}
	end := start + length
	return data[start:end:end], end, nil
}

// appendText16 appends a text as every parser accepts it: invalid UTF-8 is
// replaced and more than MaxText bytes are cut, between two characters.
func appendText16(b, text []byte) []byte {
	text = sendable(text)
	b = binary.BigEndian.AppendUint16(b, uint16(len(text)))
	return append(b, text...)
}

// sendable returns text itself where nothing is wrong with it.
func sendable(text []byte) []byte {
	if len(text) <= MaxText && utf8.Valid(text) {
		return text
	}
	text = bytes.ToValidUTF8(text[:min(len(text), 2*MaxText)], []byte("\uFFFD"))
	if len(text) <= MaxText {
		return text
	}
	end := MaxText
	for !utf8.RuneStart(text[end]) {
		end--
	}
	return text[:end]
}

// appendBytes16 appends a host or name. What does not even fit its length field
// is cut there, and so makes a control payload that every peer refuses: a cut
// name must never open something else.
func appendBytes16(b, p []byte) []byte {
	p = p[:min(len(p), math.MaxUint16)]
	b = binary.BigEndian.AppendUint16(b, uint16(len(p)))
	return append(b, p...)
}

// SafeText returns a peer's text for logs and terminals: control characters,
// invisible and direction-changing characters and invalid bytes are escaped, and
// it is at most 256 characters long, with an ellipsis where it was cut.
func SafeText(b []byte) string {
	var out strings.Builder
	length := 0
	for len(b) > 0 {
		r, size := utf8.DecodeRune(b)
		piece := string(b[:size])
		width := 1
		if unsafeRune(r, size) {
			piece = escape(r, b[0], size)
			width = len(piece)
		}
		b = b[size:]
		// The last place is kept for the ellipsis, unless the text ends there.
		if length+width > safeTextLength || (length+width == safeTextLength && len(b) > 0) {
			out.WriteString("…")
			break
		}
		out.WriteString(piece)
		length += width
	}
	return out.String()
}

// unsafeRune reports what could move the cursor, hide text or turn its
// direction: Cc, Cf (bidirectional controls, zero-width and tag characters), the
// line and paragraph separators, and bytes that are no character.
func unsafeRune(r rune, size int) bool {
	return (r == utf8.RuneError && size == 1) || unicode.In(r, unicode.Cc, unicode.Cf, unicode.Zl, unicode.Zp)
}

func escape(r rune, first byte, size int) string {
	switch {
	case size == 1:
		return fmt.Sprintf(`\x%02x`, first)
	case r <= 0xffff:
		return fmt.Sprintf(`\u%04x`, r)
	default:
		return fmt.Sprintf(`\U%08x`, r)
	}
}
