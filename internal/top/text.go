package top

import (
	"fmt"
	"strings"
	"time"

	"github.com/charmbracelet/x/ansi"
	"github.com/dustin/go-humanize"

	"github.com/culvertgate/culvert/framecodec"
)

// cell makes a text exactly as wide as a column, and harmless. Width counts the
// cells of a terminal, of which some letters take two and some none.
func cell(text string, width int, right bool) string {
	text = line(text, width)
	space := strings.Repeat(" ", max(width-ansi.StringWidth(text), 0))
	if right {
		return space + text
	}
	return text + space
}

// line makes a text that is shown by itself harmless and at most that wide.
func line(text string, width int) string { return ansi.Truncate(safe(text), width, "…") }

// safe makes others' text harmless for a terminal.
func safe(text string) string { return framecodec.SafeText([]byte(text)) }

const unknown = "-"

// perSecond writes a direction of a rate.
func perSecond(bytes float64, known bool) string {
	if !known {
		return unknown
	}
	return humanize.IBytes(uint64(bytes)) + "/s"
}

// shortDuration writes a duration in at most seven characters: 12s, 5m03s, 3h07m,
// 14d02h.
func shortDuration(d time.Duration) string {
	d = max(d.Round(time.Second), 0)
	hours, minutes, seconds := int(d.Hours()), int(d.Minutes())%60, int(d.Seconds())%60
	switch {
	case hours >= 24:
		return fmt.Sprintf("%dd%02dh", hours/24, hours%24)
	case hours > 0:
		return fmt.Sprintf("%dh%02dm", hours, minutes)
	case minutes > 0:
		return fmt.Sprintf("%dm%02ds", minutes, seconds)
	default:
		return fmt.Sprintf("%ds", seconds)
	}
}
