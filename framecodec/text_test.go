package framecodec

import (
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"
)

func TestSafeText(t *testing.T) {
	for _, tc := range []struct{ name, in, want string }{
		{"empty", "", ""},
		{"plain", "connection refused", "connection refused"},
		{"other scripts", "verweigert: Grüße, 接続, שלום", "verweigert: Grüße, 接続, שלום"},
		{"new line", "a\r\nb", `a\x0d\x0ab`},
		{"terminal sequence", "\x1b[2J", `\x1b[2J`},
		{"C1 control as a character", "\u009b2J", `\u009b2J`},
		{"delete", "a\x7f", `a\x7f`},
		{"NUL", "\x00", `\x00`},
		{"direction override", "a\u202egpj.exe", `a\u202egpj.exe`},
		{"isolates", "\u2066x\u2069", `\u2066x\u2069`},
		{"arabic letter mark", "\u061c", `\u061c`},
		{"zero width", "a\u200bb\ufeff", `a\u200bb\ufeff`},
		{"line separator", "\u2028\u2029", `\u2028\u2029`},
		{"invisible tag characters", "\U000e0041", `\U000e0041`},
		{"invalid bytes", "a\xff\xc3", `a\xff\xc3`},
		{"the replacement character itself", "\uFFFD", "\uFFFD"},
		{"256 characters", strings.Repeat("ä", 256), strings.Repeat("ä", 256)},
		{"257 characters", strings.Repeat("ä", 257), strings.Repeat("ä", 255) + "…"},
		{"an escape is not cut", strings.Repeat("x", 253) + "\x1bx", strings.Repeat("x", 253) + "…"},
		{"an escape that just fits", strings.Repeat("x", 252) + "\x1b", strings.Repeat("x", 252) + `\x1b`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got := SafeText([]byte(tc.in)); got != tc.want {
				t.Errorf("got %q, want %q", got, tc.want)
			}
		})
	}
}

// checkSafe is what SafeText promises of any input.
func checkSafe(t *testing.T, in []byte) {
	t.Helper()
	got := SafeText(in)
	if !utf8.ValidString(got) || utf8.RuneCountInString(got) > 256 {
		t.Errorf("%q: %q is not safe", in, got)
	}
	for _, r := range got {
		if unicode.IsControl(r) || unicode.Is(unicode.Bidi_Control, r) {
			t.Errorf("%q: %q holds %U", in, got, r)
		}
	}
}

func TestSafeTextOfEveryCharacter(t *testing.T) {
	for r := rune(0); r <= unicode.MaxRune; r++ {
		if utf8.ValidRune(r) && (r < 0x3000 || r >= 0xe0000 || r%64 == 0) {
			checkSafe(t, []byte(string(r)))
		}
	}
	for b := range 256 {
		checkSafe(t, []byte{'a', byte(b), 'b'})
	}
}
